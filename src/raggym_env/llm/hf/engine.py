"""Prefills a prompt once and decodes or scores many continuations of it. Works on tokens, not on text.

The `n` samples of a prompt, and the continuations scored after it, lie side by side in one row behind the prompt. A
mask lets each attend to the prompt and to itself only:

    row     prompt prompt prompt | a1 b1 c1 | a2 b2 c2 | ...       samples a, b, c: one column each per step
    b2 sees   x      x      x    |    x     |    x     |

So a prompt's keys and values exist once, in the computation and in memory, whatever `n` is. transformers' `generate`
copies them `n` times and recomputes a state for each of its candidates; on the prompts of a search agent with n=10 this
engine is 4 to 6 times as fast (`benchmarks/llm_speed.py`), which is why it exists.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from raggym_env.llm.hf.batching import Tokens, runs
from raggym_env.llm.hf.kv_cache import joined, new_cache, repeated

__all__ = ["Engine", "Prefilled", "Sample", "unsupported"]

_MAX_PADDING = 1 / 8  # share of padding among the tokens that are prefilled together


@dataclass(slots=True)
class Sample:
    """One completion while it is being drawn."""

    uniforms: NDArray[np.float64] | None
    """One draw in [0, 1) per token; None for greedy decoding."""
    ended: Callable[[list[int]], bool]
    """True if these tokens are a complete completion."""
    max_tokens: int
    """The length, in tokens, at which it is cut off."""
    tokens: list[int] = field(default_factory=list)
    """The tokens drawn so far."""
    finish: str | None = None
    """None while it runs, then "stop" or "length"."""

    @property
    def draw(self) -> float:
        """The draw that decides the next token."""
        return 0.0 if self.uniforms is None else float(self.uniforms[len(self.tokens)])

    def accept(self, token: int) -> None:
        """Append a token, and finish if it completes the sample."""
        self.tokens.append(token)
        if self.ended(self.tokens):
            self.finish = "stop"
        elif len(self.tokens) == self.max_tokens:
            self.finish = "length"


@dataclass(slots=True)
class Prefilled:
    """Prompts whose keys and values are computed. For one use: `decode`, `score` and `branch_ends` extend the cache."""

    cache: Cache
    """Keys and values, one row per prompt."""
    outputs: torch.Tensor
    """`[rows, vocabulary or hidden size]`: the model's output at each prompt's last token."""
    seen: torch.Tensor
    """bool `[rows, columns]`: True where a column of the cache belongs to the prompt, False where it is padding."""
    lengths: torch.Tensor
    """int64 `[rows]`: tokens of each prompt."""


def unsupported(model: Any, *, headless: bool = False) -> set[str]:
    """Return the reasons why `Engine` cannot run a model: layer types and missing arguments. Empty if it can."""
    # The engine separates samples by its own mask, and recurrent or linear-attention layers ignore masks.
    layers = set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or [])
    needed = {"position_ids", "past_key_values"} | (set() if headless else {"logits_to_keep"})
    missing = needed - set(inspect.signature(model.forward).parameters)
    return (layers - {"full_attention", "sliding_attention"}) | missing


class Engine:
    """Runs one decoder. Its methods enter `torch.inference_mode` themselves.

    Args:
        model: A transformers causal language model, on its device, for which `unsupported` is empty. Prompts and what
            follows them must fit into its sliding window, if it has one: the masks know no window.
        prefill_tokens: Prompts are prefilled together up to this many tokens, which bounds the activations in memory.
        headless: The model is the base of one with another head (`model.base_model`). The outputs are then its last
            hidden states, and only `prefix`, `prefill` and `branch_ends` can be used.
    """

    def __init__(self, model: Any, prefill_tokens: int, *, headless: bool = False) -> None:
        self.model = model
        self.prefill_tokens = prefill_tokens
        self.headless = headless
        self.prefilled = 0
        """Prompt tokens computed so far, without padding."""

    @torch.inference_mode()
    def prefix(self, tokens: Tokens) -> Cache:
        """Compute the tokens that many prompts start with, as a cache with one row."""
        return self._prefill([tokens], None).cache

    @torch.inference_mode()
    def prefill(self, suffixes: Sequence[Tokens], prefix: Cache | None = None) -> Prefilled:
        """Compute prompts, the longest first, given as what follows the tokens that `prefix` holds for all of them."""
        cuts = runs([len(suffix) for suffix in suffixes], self.prefill_tokens, max_padding=_MAX_PADDING)
        parts = [self._prefill(suffixes[cut], prefix) for cut in cuts]
        columns = max(part.seen.shape[1] for part in parts)
        pad = torch.nn.functional.pad
        return Prefilled(
            joined([part.cache for part in parts]),
            torch.cat([part.outputs for part in parts]),
            torch.cat([pad(part.seen, (0, columns - part.seen.shape[1])) for part in parts]),
            torch.cat([part.lengths for part in parts]),
        )

    def _prefill(self, suffixes: Sequence[Tokens], prefix: Cache | None) -> Prefilled:
        past = 0 if prefix is None else prefix.get_seq_length()
        width = max(len(suffix) for suffix in suffixes)
        # Padding goes to the left, so that every prompt ends in the last column, whose output is the one needed.
        pads = [width - len(suffix) for suffix in suffixes]
        ids = self._tensor([(0,) * pad + tuple(suffix) for pad, suffix in zip(pads, suffixes, strict=True)])
        start = self._tensor(pads)[:, None]
        columns = self._arange(past + width)
        seen = (columns < past) | (columns >= past + start)
        positions = (past + self._arange(width) - start).clamp(min=0)
        allowed = None
        if past or any(pads):
            rows = (past + self._arange(width))[:, None]
            # A padding token sees itself, because a row of a softmax must not be empty. Nothing else sees it.
            allowed = ((columns <= rows) & seen[:, None]) | (columns == rows)
        cache = new_cache() if prefix is None else repeated(prefix, len(suffixes))
        outputs = self._forward(ids, positions, allowed, cache, keep=1)[:, -1]
        self.prefilled += sum(len(suffix) for suffix in suffixes)
        return Prefilled(cache, outputs, seen, past + width - start[:, 0])

    @torch.inference_mode()
    def decode(self, prompts: Prefilled, samples: Sequence[Sequence[Sample]], temperature: float, top_p: float) -> None:
        """Extend every sample, by one token a step, until it has finished. `samples[i]` are those of prompt `i`."""
        cache, lengths = prompts.cache, prompts.lengths
        running = [list(row) for row in samples]
        width = max(len(row) for row in running)
        seen = prompts.seen[:, None].expand(-1, width, -1)
        logits = prompts.outputs[:, None].expand(-1, width, -1)
        for step in range(max(sample.max_tokens for row in running for sample in row)):
            self._accept(running, logits, temperature, top_p)
            slots = [[slot for slot, sample in enumerate(row) if sample.finish is None] for row in running]
            # Finished samples leave their slots, and prompts without samples their rows: later steps cost less.
            if any(len(remaining) < len(row) for remaining, row in zip(slots, running, strict=True)):
                active = [index for index, remaining in enumerate(slots) if remaining]
                if not active:
                    return
                running = [[running[index][slot] for slot in slots[index]] for index in active]
                if len(active) < len(slots):
                    rows = self._tensor(active)
                    cache.batch_select_indices(rows)
                    seen, lengths = seen[rows], lengths[rows]
                width = max(len(row) for row in running)
                index = self._tensor([_padded(slots[row], width) for row in active])
                seen = seen.gather(1, index[:, :, None].expand(-1, -1, seen.shape[2]))
            ids = self._tensor([_padded([sample.tokens[-1] for sample in row], width) for row in running])
            # The new token of each slot has a column that its own slot alone sees.
            diagonal = torch.eye(width, dtype=torch.bool, device=seen.device).expand(len(running), -1, -1)
            seen = torch.cat([seen, diagonal], dim=2)
            positions = (lengths + step)[:, None].expand(-1, width)
            logits = self._forward(ids, positions, seen, cache, keep=width)

    @torch.inference_mode()
    def score(self, prompts: Prefilled, continuations: Sequence[Sequence[Tokens]]) -> list[list[float]]:
        """Return the sum of the log-probabilities (nats) of each continuation; `continuations[i]` follow prompt `i`."""
        # The last token of a continuation predicts nothing that counts, so it is not computed.
        rows = [[continuation[:-1] for continuation in row] for row in continuations]
        logits = self._branches(prompts, rows) if any(tokens for row in rows for tokens in row) else None
        scores = []
        for index, row in enumerate(continuations):
            first = torch.log_softmax(prompts.outputs[index].float(), dim=-1)
            scores.append(_sums(first, None if logits is None else logits[index], row))
        return scores

    @torch.inference_mode()
    def branch_ends(self, prompts: Prefilled, branches: Sequence[Sequence[Tokens]]) -> list[torch.Tensor]:
        """Return the model's outputs at the last token of each branch; `branches[i]` follow prompt `i`, none is empty.

        Returns:
            One tensor `[len(branches[i]), vocabulary or hidden size]` per prompt, for use in `torch.inference_mode`.
        """
        outputs = self._branches(prompts, branches)
        ends = [list(accumulate(map(len, row))) for row in branches]
        return [outputs[index, self._tensor(row) - 1] for index, row in enumerate(ends)]

    def _branches(self, prompts: Prefilled, rows: Sequence[Sequence[Tokens]]) -> torch.Tensor:
        """Compute the branches of each prompt, one after the other in its row; a token sees its own branch only."""
        width = max(sum(map(len, row)) for row in rows)
        ids = [_padded([token for tokens in row for token in tokens], width) for row in rows]
        owner = [_padded([i for i, tokens in enumerate(row) for _ in tokens], width, fill=-1) for row in rows]
        depth = [_padded([at for tokens in row for at in range(len(tokens))], width) for row in rows]
        owners, order = self._tensor(owner), self._arange(width)
        same_branch = (owners[:, :, None] == owners[:, None, :]) & (order <= order[:, None])
        seen = torch.cat([prompts.seen[:, None].expand(-1, width, -1), same_branch], dim=2)
        positions = prompts.lengths[:, None] + self._tensor(depth)
        return self._forward(self._tensor(ids), positions, seen, prompts.cache, keep=width)

    def _accept(
        self, running: Sequence[Sequence[Sample]], logits: torch.Tensor, temperature: float, top_p: float
    ) -> None:
        draws = None
        if temperature > 0:
            width = logits.shape[1]
            rows = [_padded([sample.draw for sample in row], width) for row in running]
            draws = torch.tensor(rows, dtype=torch.float64, device=logits.device)
        for row, tokens in zip(running, _next_tokens(logits, draws, temperature, top_p).tolist(), strict=True):
            for sample, token in zip(row, tokens, strict=False):  # a row may have fewer samples than it is wide
                sample.accept(token)

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, allowed: torch.Tensor | None, cache: Cache, keep: int
    ) -> torch.Tensor:
        """Return the outputs `[rows, keep, vocabulary or hidden size]` at the last `keep` tokens."""
        mask = None
        if allowed is not None:
            zeros = torch.zeros((), dtype=self.model.dtype, device=ids.device)
            mask = torch.where(allowed, zeros, torch.finfo(self.model.dtype).min)[:, None]
        limit = {} if self.headless else {"logits_to_keep": keep}
        outputs = self.model(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True, **limit
        )
        last: torch.Tensor = outputs.last_hidden_state[:, -keep:] if self.headless else outputs.logits
        return last

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.model.device)

    def _arange(self, stop: int) -> torch.Tensor:
        return torch.arange(stop, device=self.model.device)


def _padded(values: Sequence[Any], width: int, fill: int = 0) -> list[Any]:
    return [*values, *[fill] * (width - len(values))]


def _next_tokens(logits: torch.Tensor, draws: torch.Tensor | None, temperature: float, top_p: float) -> torch.Tensor:
    """Return the next token of each slot, int64 `[rows, slots]`, by the inverse of the cumulative distribution."""
    if draws is None:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        # Nucleus sampling (arXiv 1904.09751): the fewest most likely tokens that hold `top_p` of the mass stay.
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(dim=-1) - ordered >= top_p
        probabilities = probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0.0)
    # In the vocabulary's order, not by probability: so a rounding error in a logit moves few boundaries, and those
    # little, and seldom changes a sample.
    cumulative = probabilities.cumsum(dim=-1)
    targets = draws[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, targets, right=True)[..., 0].clamp(max=logits.shape[-1] - 1)


def _sums(first: torch.Tensor, later: torch.Tensor | None, continuations: Sequence[Tokens]) -> list[float]:
    """Sum log-probabilities of continuations.

    `first` holds those of a first token, `later` the logits at all tokens but the last, one continuation after the
    other.
    """
    sums, start = [], 0
    for tokens in continuations:
        total = float(first[tokens[0]]) if tokens else 0.0
        if later is not None and len(tokens) > 1:
            stop = start + len(tokens) - 1
            # One continuation at a time, so that no second copy of all logits is made.
            rows = torch.log_softmax(later[start:stop].float(), dim=-1)
            total += float(rows.gather(1, torch.tensor(tokens[1:], device=rows.device)[:, None]).sum())
            start = stop
        sums.append(total)
    return sums
