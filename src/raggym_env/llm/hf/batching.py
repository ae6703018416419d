"""Which prompts are computed together, and which of their tokens are computed once. Plain Python, no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_PREFIX", "Group", "Tokens", "chunks", "common_prefix", "groups", "runs", "uniforms"]

Tokens = tuple[int, ...]

MIN_PREFIX = 32
"""A common prefix is computed apart only from this many tokens on: below it, the extra call costs more."""

_PADDING = 8
"""At most one token in this many is padding when prompts are prefilled together."""


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts that start with the same tokens, the longest first."""

    prefix: int
    """Tokens that all of them start with and that are computed once; less than the shortest prompt."""
    members: tuple[int, ...]
    """Which prompts, as indices into what was given."""


def groups(prompts: Sequence[Tokens]) -> list[Group]:
    """Put distinct prompts that share their first `MIN_PREFIX` tokens together; the others share nothing.

    >>> few_shot = tuple(range(40))
    >>> groups([(*few_shot, 1), (*few_shot, 2, 3), (7,)])
    [Group(prefix=40, members=(1, 0)), Group(prefix=0, members=(2,))]
    """
    heads: dict[Tokens, list[int]] = {}
    for index, prompt in enumerate(prompts):
        heads.setdefault(prompt[:MIN_PREFIX], []).append(index)
    found, alone = [], []
    for members in heads.values():
        prefix = common_prefix([prompts[member] for member in members])
        if len(members) > 1 and prefix >= MIN_PREFIX:
            found.append(Group(prefix, _longest_first(prompts, members)))
        else:
            alone += members
    return found + ([Group(0, _longest_first(prompts, alone))] if alone else [])


def common_prefix(prompts: Sequence[Tokens]) -> int:
    """Length of the longest common prefix that leaves each prompt at least one token."""
    first, last = min(prompts), max(prompts)  # in lexicographic order, what these two share all share
    length = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(length) if first[i] != last[i]), length)


def _longest_first(prompts: Sequence[Tokens], members: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(members, key=lambda member: -len(prompts[member])))


def runs(sizes: Sequence[int], budget: int) -> Iterator[slice]:
    """Cut rows into runs whose padded size (rows times the largest) is within the budget; one row always goes.

    >>> [(cut.start, cut.stop) for cut in runs([5, 4, 4, 9], 10)]
    [(0, 2), (2, 3), (3, 4)]
    """
    start = 0
    for stop in range(1, len(sizes) + 1):
        full = stop == len(sizes) or (stop + 1 - start) * max(sizes[start : stop + 1]) > budget
        if full:
            yield slice(start, stop)
            start = stop


def chunks(lengths: Sequence[int], budget: int) -> Iterator[slice]:
    """Cut rows, longest first, into runs that are prefilled together: within the budget and of similar length.

    >>> [(cut.start, cut.stop) for cut in chunks([100, 95, 40, 39], 1000)]
    [(0, 2), (2, 4)]
    """
    start = 0
    for stop in range(1, len(lengths) + 1):
        if stop < len(lengths):
            longest, rows = lengths[start], stop + 1 - start
            padding = rows * longest - sum(lengths[start : stop + 1])
            if rows * longest <= budget and padding * _PADDING <= rows * longest:
                continue
        yield slice(start, stop)
        start = stop


def uniforms(seed: int, prompt: Tokens, sample: int, count: int) -> NDArray[np.float64]:
    """`count` draws in [0, 1) that depend on the seed, the prompt and the sample's number alone.

    One draw decides one token, so what else is in the batch cannot change what is sampled.
    """
    digest = hashlib.blake2b(f"{seed}\x00{sample}\x00".encode(), digest_size=16)
    digest.update(np.asarray(prompt, dtype="<i8").tobytes())
    return np.random.default_rng(int.from_bytes(digest.digest(), "big")).random(count)
