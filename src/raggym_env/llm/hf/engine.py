"""Prefill once, then decode or score many continuations of it. Knows tokens, not text.

The `n` samples of a prompt, and the continuations that are scored after it, are laid side by side in one row
behind the prompt, and a mask lets each see the prompt and itself only:

    row     prompt prompt prompt | a1 b1 c1 | a2 b2 c2 | ...       samples a, b, c, one column each a step
    b2 sees   x      x      x    |    x     |    x     |

So a prompt's keys and values exist once, whatever `n` is, in the computation and in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from raggym_env.llm.hf.batching import Tokens, chunks
from raggym_env.llm.hf.kv_cache import joined, new_cache, repeated

__all__ = ["Engine", "Prefilled", "Sample"]


@dataclass(slots=True)
class Sample:
    """One completion while it is drawn."""

    uniforms: NDArray[np.float64] | None
    """One draw in [0, 1) per token; None is greedy decoding."""
    ended: Callable[[list[int]], bool]
    """Whether these tokens are a whole completion."""
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    """None while it runs, then "stop" or "length"."""

    @property
    def draw(self) -> float:
        return 0.0 if self.uniforms is None else float(self.uniforms[len(self.tokens)])

    def accept(self, token: int) -> None:
        self.tokens.append(token)
        if self.ended(self.tokens):
            self.finish = "stop"
        elif len(self.tokens) == self.max_tokens:
            self.finish = "length"


@dataclass(slots=True)
class Prefilled:
    """Prompts whose keys and values are computed. Good for one `decode` or `score`, which extends the cache."""

    cache: Cache
    logits: torch.Tensor
    """`[rows, vocabulary]`: what comes after each prompt."""
    seen: torch.Tensor
    """bool `[rows, columns]`: which columns of the cache are the prompt's; the others are padding."""
    lengths: torch.Tensor
    """int64 `[rows]`: tokens of each prompt."""


class Engine:
    """Runs one causal language model. All its calls expect `torch.inference_mode`, which they enter.

    Args:
        model: A transformers causal language model, on its device. Its attention must be plain (no sliding window).
        prefill_tokens: Prompts are prefilled together up to this many tokens; it bounds the activations.
    """

    def __init__(self, model: Any, prefill_tokens: int) -> None:
        self.model = model
        self.prefill_tokens = prefill_tokens
        self.prefilled = 0
        """Prompt tokens computed so far, without padding."""
        self._no = torch.finfo(model.dtype).min

    @torch.inference_mode()
    def prefix(self, tokens: Tokens) -> Cache:
        """The cache of the tokens that many prompts start with, as one row."""
        cache = new_cache()
        self._forward(self._tensor([tokens]), self._arange(len(tokens))[None], None, cache, keep=1)
        self.prefilled += len(tokens)
        return cache

    @torch.inference_mode()
    def prefill(self, suffixes: Sequence[Tokens], prefix: Cache | None = None) -> Prefilled:
        """Compute prompts, the longest first, given without the tokens of the prefix that they start with."""
        cuts = chunks([len(suffix) for suffix in suffixes], self.prefill_tokens)
        parts = [self._prefill(suffixes[cut], prefix) for cut in cuts]
        columns = max(part.seen.shape[1] for part in parts)
        pad = torch.nn.functional.pad
        return Prefilled(
            joined([part.cache for part in parts]),
            torch.cat([part.logits for part in parts]),
            torch.cat([pad(part.seen, (0, columns - part.seen.shape[1])) for part in parts]),
            torch.cat([part.lengths for part in parts]),
        )

    def _prefill(self, suffixes: Sequence[Tokens], prefix: Cache | None) -> Prefilled:
        past = 0 if prefix is None else prefix.get_seq_length()
        width = max(len(suffix) for suffix in suffixes)
        pads = [width - len(suffix) for suffix in suffixes]
        ids = self._tensor([(0,) * pad + tuple(suffix) for pad, suffix in zip(pads, suffixes, strict=True)])
        start = self._tensor(pads)[:, None]
        columns = self._arange(past + width)
        seen = (columns < past) | (columns >= past + start)
        positions = (past + self._arange(width) - start).clamp(min=0)
        allowed = None
        if past or any(pads):
            causal = columns <= (past + self._arange(width))[:, None]
            # A padding token sees itself, as a row of a softmax must not be empty. Nothing sees it.
            itself = columns == (past + self._arange(width))[:, None]
            allowed = (causal & seen[:, None]) | itself
        cache = new_cache() if prefix is None else repeated(prefix, len(suffixes))
        logits = self._forward(ids, positions, allowed, cache, keep=1)[:, -1]
        self.prefilled += sum(len(suffix) for suffix in suffixes)
        return Prefilled(cache, logits, seen, past + width - start[:, 0])

    @torch.inference_mode()
    def decode(self, prompts: Prefilled, samples: Sequence[Sequence[Sample]], temperature: float, top_p: float) -> None:
        """Extend every sample, by one token a step, until it has finished. `samples[i]` are those of prompt `i`."""
        cache, lengths = prompts.cache, prompts.lengths
        running = [list(row) for row in samples]
        width = max(len(row) for row in running)
        seen = prompts.seen[:, None].expand(-1, width, -1)
        logits = prompts.logits[:, None].expand(-1, width, -1)
        for step in range(max(sample.max_tokens for row in running for sample in row)):
            self._accept(running, logits, temperature, top_p)
            alive = [[slot for slot, sample in enumerate(row) if sample.finish is None] for row in running]
            if any(len(slots) < len(row) for slots, row in zip(alive, running, strict=True)):
                kept = [index for index, slots in enumerate(alive) if slots]
                if not kept:
                    return
                running = [[running[index][slot] for slot in alive[index]] for index in kept]
                if len(kept) < len(alive):
                    rows = self._tensor(kept)
                    cache.batch_select_indices(rows)
                    seen, lengths = seen[rows], lengths[rows]
                seen = self._select(seen, [alive[index] for index in kept])
            width = seen.shape[1]
            ids = self._tensor([_padded([sample.tokens[-1] for sample in row], width) for row in running])
            itself = torch.eye(width, dtype=torch.bool, device=seen.device).expand(len(running), -1, -1)
            seen = torch.cat([seen, itself], dim=2)
            positions = (lengths + step)[:, None].expand(-1, width)
            logits = self._forward(ids, positions, seen, cache, keep=width)

    @torch.inference_mode()
    def score(self, prompts: Prefilled, continuations: Sequence[Sequence[Tokens]]) -> list[list[float]]:
        """Sum of the log-probabilities (nats) of each continuation's tokens. `continuations[i]` follow prompt `i`."""
        # The last token of a continuation predicts nothing that is asked for, so it is not computed.
        rows = [[continuation[:-1] for continuation in row] for row in continuations]
        width = max((sum(map(len, row)) for row in rows), default=0)
        logits = self._score_forward(prompts, rows, width) if width else None
        scores = []
        for index, row in enumerate(continuations):
            first = torch.log_softmax(prompts.logits[index].float(), dim=-1)
            later = None if logits is None else torch.log_softmax(logits[index].float(), dim=-1)
            scores.append(_sums(first, later, row))
        return scores

    def _score_forward(self, prompts: Prefilled, rows: Sequence[Sequence[Tokens]], width: int) -> torch.Tensor:
        ids = [_padded([token for tokens in row for token in tokens], width) for row in rows]
        owner = [_padded([i for i, tokens in enumerate(row) for _ in tokens], width, fill=-1) for row in rows]
        depth = [_padded([at for tokens in row for at in range(len(tokens))], width) for row in rows]
        owners, order = self._tensor(owner), self._arange(width)
        own = (owners[:, :, None] == owners[:, None, :]) & (order <= order[:, None])
        seen = torch.cat([prompts.seen[:, None].expand(-1, width, -1), own], dim=2)
        positions = prompts.lengths[:, None] + self._tensor(depth)
        return self._forward(self._tensor(ids), positions, seen, prompts.cache, keep=width)

    def _accept(
        self, running: Sequence[Sequence[Sample]], logits: torch.Tensor, temperature: float, top_p: float
    ) -> None:
        draws = None
        if temperature > 0:
            width = logits.shape[1]
            lines = [_padded([sample.draw for sample in row], width) for row in running]
            draws = torch.tensor(lines, dtype=torch.float64, device=logits.device)
        for row, tokens in zip(running, _chosen(logits, draws, temperature, top_p).tolist(), strict=True):
            for sample, token in zip(row, tokens, strict=False):  # a row may have fewer samples than it is wide
                sample.accept(token)

    def _select(self, seen: torch.Tensor, slots: Sequence[Sequence[int]]) -> torch.Tensor:
        width = max(len(row) for row in slots)
        index = self._tensor([_padded(row, width) for row in slots])
        return seen.gather(1, index[:, :, None].expand(-1, -1, seen.shape[2]))

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, allowed: torch.Tensor | None, cache: Cache, keep: int
    ) -> torch.Tensor:
        """Logits `[rows, keep, vocabulary]` of the last `keep` tokens."""
        mask = None
        if allowed is not None:
            zeros = torch.zeros((), dtype=self.model.dtype, device=ids.device)
            mask = torch.where(allowed, zeros, self._no)[:, None]
        output = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logits: torch.Tensor = output.logits
        return logits

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.model.device)

    def _arange(self, stop: int) -> torch.Tensor:
        return torch.arange(stop, device=self.model.device)


def _padded(values: Sequence[Any], width: int, fill: int = 0) -> list[Any]:
    return [*values, *[fill] * (width - len(values))]


def _chosen(logits: torch.Tensor, draws: torch.Tensor | None, temperature: float, top_p: float) -> torch.Tensor:
    """The next token of each slot, int64 `[rows, slots]`, by the inverse of the cumulative distribution.

    Tokens are in the vocabulary's order there, so a small error in a logit moves few boundaries, and those little.
    """
    if draws is None:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        probabilities = _nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(dim=-1)
    targets = draws[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, targets, right=True)[..., 0].clamp(max=logits.shape[-1] - 1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The fewest most likely tokens that hold `top_p` of the mass (arXiv 1904.09751); the others get zero."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0.0)


def _sums(first: torch.Tensor, later: torch.Tensor | None, continuations: Sequence[Tokens]) -> list[float]:
    """Sum log-probabilities of continuations whose tokens but the last lie one after the other in `later`."""
    sums, start = [], 0
    for tokens in continuations:
        total = float(first[tokens[0]]) if tokens else 0.0
        if later is not None and len(tokens) > 1:
            stop = start + len(tokens) - 1
            rows = later[start:stop]
            total += float(rows.gather(1, torch.tensor(tokens[1:], device=rows.device)[:, None]).sum())
            start = stop
        sums.append(total)
    return sums
