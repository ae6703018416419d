"""Decides which prompts are computed together, and which of their tokens once. Plain Python, without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_PREFIX", "Group", "Tokens", "common_prefix", "groups", "runs", "uniforms"]

Tokens = tuple[int, ...]
"""The token ids of a prompt, or of a part of one."""

MIN_PREFIX = 32
"""The shortest common prefix, in tokens, that is computed separately: below it, the extra call costs more."""


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts that start with the same tokens, the longest first."""

    prefix: int
    """Number of leading tokens that all of them share; less than the length of the shortest."""
    members: tuple[int, ...]
    """Indices of the prompts."""


def groups(prompts: Sequence[Tokens]) -> list[Group]:
    """Group distinct prompts that share their first `MIN_PREFIX` tokens; the others form one group that shares nothing.

    >>> few_shot = tuple(range(40))
    >>> groups([(*few_shot, 1), (*few_shot, 2, 3), (7,)])
    [Group(prefix=40, members=(1, 0)), Group(prefix=0, members=(2,))]
    """
    # Grouping by the first tokens takes linear time. The longest common prefixes of all pairs would not, and prompts of
    # one policy share their instructions anyway.
    heads: dict[Tokens, list[int]] = {}
    for index, prompt in enumerate(prompts):
        heads.setdefault(prompt[:MIN_PREFIX], []).append(index)
    sharing, alone = [], []
    for members in heads.values():
        prefix = common_prefix([prompts[member] for member in members])
        if len(members) > 1 and prefix >= MIN_PREFIX:
            sharing.append(Group(prefix, _longest_first(prompts, members)))
        else:
            alone += members
    return sharing + ([Group(0, _longest_first(prompts, alone))] if alone else [])


def common_prefix(prompts: Sequence[Tokens]) -> int:
    """Return the length of the longest common prefix that leaves each prompt at least one token."""
    first, last = min(prompts), max(prompts)  # in lexicographic order, what these two share, all share
    # A prompt needs a token after the prefix: its output predicts the first token of the completion.
    length = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(length) if first[i] != last[i]), length)


def _longest_first(prompts: Sequence[Tokens], members: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(members, key=lambda member: -len(prompts[member])))


def runs(sizes: Sequence[int], budget: int, *, max_padding: float = 1.0) -> Iterator[slice]:
    """Yield slices of rows whose padded size (rows times the largest) is within the budget; a single row always is.

    `max_padding` is the largest share of padding in that size, in [0, 1].

    >>> [(cut.start, cut.stop) for cut in runs([5, 4, 4, 9], 10)]
    [(0, 2), (2, 3), (3, 4)]
    >>> [(cut.start, cut.stop) for cut in runs([100, 95, 40, 39], 1000, max_padding=1 / 8)]
    [(0, 2), (2, 4)]
    """
    start = 0
    for stop in range(1, len(sizes) + 1):
        extended = sizes[start : stop + 1]
        padded = len(extended) * max(extended)
        if stop == len(sizes) or padded > budget or padded - sum(extended) > max_padding * padded:
            yield slice(start, stop)
            start = stop


def uniforms(seed: int, prompt: Tokens, sample: int, count: int) -> NDArray[np.float64]:
    """Return `count` draws in [0, 1) that depend on the seed, the prompt and the sample's number only."""
    # One draw per token, so that nothing else in a batch can change a sample, which one shared generator would allow.
    digest = hashlib.blake2b(f"{seed}\x00{sample}\x00".encode(), digest_size=16)
    digest.update(np.asarray(prompt, dtype="<i8").tobytes())
    return np.random.default_rng(int.from_bytes(digest.digest(), "big")).random(count)
