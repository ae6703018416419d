"""The forward pass of a causal model under TRL's fused head, without the work that the loss does not need.

Logits are computed at labels only. TRL's own head does so on a GPU alone; on a CPU it computes those of every position
and discards most of them.

With `share`, tokens that rows have in common are computed once: the prefix of all rows once per batch, as keys and
values that every row attends to, and the prompt of a pair once for both of its replies, which follow it in one
sequence and cannot see each other. Gradients flow through what is shared, so loss and gradient are the same up to
rounding.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, cast

from raggym_env.errors import LLMError, MissingExtra
from raggym_env.training.trl.packing import Segment, can_pack, packed

try:
    import torch
    from peft import PeftModel
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["LabelForward", "shared_prefix"]

Tensor = Any  # of torch
Inputs = dict[str, Any]
Row = Mapping[str, Any]

_PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def shared_prefix(rows: Iterable[Row]) -> list[int]:
    """Return the tokens that the prompts of all tokenized rows begin with, less one if that is a whole prompt.

    The last token of a prompt is a row's own, since it predicts the first token of the reply.
    """
    prompts = []
    for row in rows:
        labels = row.get("labels", ())  # of a pair, TRL has tokenized the prompt by itself
        start = next((index for index, label in enumerate(labels) if label != -100), len(labels))
        prompts.append(list(row["prompt_ids"] if "prompt_ids" in row else row["input_ids"][:start]))
    # In order, the first and the last differ earliest.
    ends = zip(min(prompts), max(prompts), strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return prompts[0][: min(common, min(map(len, prompts)) - 1)]


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the model is called with, and where in its output the hidden state before each label is."""

    inputs: Inputs
    rows: Tensor
    columns: Tensor


class LabelForward:
    """The forward pass of `model`, which it replaces for calls with `fused_lm_head=True`.

    Args:
        model: A causal model to which TRL has added its fused head, or PEFT's wrapper of one.
        prefix: Tokens that rows begin with, computed once for all of them.
        pairs: Whether the second half of a batch shares the prompts of the first, computed once for both.
        pack: Whether to compute a batch as one sequence, without padding. It has no effect with a prefix, nor with a
            model that cannot; `pairs` then has none either.

    Raises:
        LLMError: There is something to share, but the model's cache is not plain keys and values.
    """

    def __init__(self, model: Any, prefix: Iterable[int] = (), *, pairs: bool = False, pack: bool = False) -> None:
        self.model = cast(Any, model.get_base_model() if isinstance(model, PeftModel) else model)
        self.prefix = torch.tensor(list(prefix), device=self.model.device)
        layers: list[Any] = list(DynamicCache(config=self.model.config).layers)
        self.packs = pack and not len(self.prefix) and can_pack(self.model)
        # Both masks of a model with sliding windows would have to be built for two replies in one sequence.
        sliding = any(getattr(layer, "is_sliding", False) for layer in layers)
        self.pairs = pairs and (self.packs or not pack) and not sliding
        if (self.pairs or len(self.prefix)) and not all(isinstance(layer, DynamicLayer) for layer in layers):
            raise LLMError("share_prefix needs a model whose cache is keys and values alone. Remove the option.")
        self._caches: dict[bool, tuple[Any, list[tuple[Tensor, Tensor]]]] = {}
        self._fused = self.model.forward
        forward = self.forward

        # The signature stays: generate() checks its arguments against it.
        @functools.wraps(type(self.model).forward)
        def replacement(self: Any, *args: Any, **kwargs: Any) -> Any:
            return forward(*args, **kwargs)

        self.model.forward = types.MethodType(replacement, self.model)

    def forward(self, *args: Any, labels: Tensor = None, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        """Return TRL's output per token, of the shape of the labels less the first."""
        if not fused_lm_head or labels is None or args:
            return self._fused(*args, labels=labels, fused_lm_head=fused_lm_head, **kwargs)
        mask = labels[:, 1:] != -100
        layout = self._layout(kwargs, mask)

        def select(module: Any, inputs: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[layout.rows, layout.columns][None]
            return output

        hook = self.model.base_model.register_forward_hook(select)
        try:
            output = self._fused(**layout.inputs, shift_labels=labels[:, 1:][mask][None], fused_lm_head=True)
        finally:
            hook.remove()
        for name in _PER_TOKEN:
            values = getattr(output, name)
            if values is not None:
                setattr(output, name, values.new_zeros(mask.shape).masked_scatter(mask, values))
        output.label_mask = mask
        return output

    def lengths(self, inputs: Inputs, width: int) -> tuple[list[int], int]:
        """Return the number of tokens that each row of a batch adds to a pass, and the sequences that it makes.

        A row has `width` sequences in the batch.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        start = self._start(ids, None)
        own = mask.sum(1) - start
        if not self.pairs:
            return own.view(width, -1).amax(0).tolist(), width
        return (own.view(2, -1).sum(0) - (_forks(ids, mask) - start)).tolist(), 1

    def end_batch(self, *, backward: bool) -> None:
        """Pass the gradients that the passes of a batch left at the prefix through it, and forget it."""
        _, tensors = self._caches.get(True, (None, []))
        self._caches.clear()
        reached = [(tensor, leaf.grad) for tensor, leaf in tensors if leaf.grad is not None]
        if backward and reached:
            torch.autograd.backward([tensor for tensor, _ in reached], [gradient for _, gradient in reached])

    def _start(self, ids: Tensor, label_mask: Tensor | None) -> int:
        """Return the length of the prefix, or 0 if a row does not begin with it or has a label in it."""
        length = len(self.prefix)
        if ids.shape[1] <= length or not (ids[:, :length] == self.prefix).all():
            return 0
        return 0 if label_mask is not None and label_mask[:, :length].any() else length

    def _layout(self, inputs: Inputs, mask: Tensor) -> _Layout:
        start = self._start(inputs["input_ids"], mask)
        rows, columns = mask.nonzero(as_tuple=True)
        if self.packs:
            return self._packed_layout(inputs, rows, columns)
        if self.pairs:
            return self._pair_layout(inputs, rows, columns, start)
        if not start:
            return _Layout(inputs, rows, columns)
        ids = inputs["input_ids"][:, start:]
        positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand_as(ids)
        # The attention mask stays as it is: it covers the prefix too.
        own = {"input_ids": ids, "position_ids": positions, "past_key_values": self._cache(len(ids))}
        return _Layout({**inputs, **own}, rows, columns - start)

    def _packed_layout(self, inputs: Inputs, rows: Tensor, columns: Tensor) -> _Layout:
        """Return the batch as one sequence."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        texts = [row[:length] for row, length in zip(ids, mask.sum(1).tolist(), strict=True)]
        if self.pairs:
            forks = _forks(ids, mask)
            firsts, seconds = texts[: len(forks)], texts[len(forks) :]
            segments = [Segment.pair(*pair) for pair in zip(firsts, seconds, forks.tolist(), strict=True)]
            rows, columns = _in_pairs(rows, columns, forks, mask.sum(1))
        else:
            segments = [Segment.row(text) for text in texts]
        lengths = torch.tensor([len(segment.tokens) for segment in segments])
        starts = lengths.cumsum(0) - lengths
        return _Layout({**inputs, **packed(segments)}, torch.zeros_like(rows), columns + starts[rows])

    def _pair_layout(self, inputs: Inputs, rows: Tensor, columns: Tensor, start: int) -> _Layout:
        """Return each pair as one sequence: what both have in common, the rest of the first, that of the second."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        forks, (first, second) = _forks(ids, mask), mask.sum(1).view(2, -1)
        pairs, size = len(forks), int((first + second - forks).max()) - start
        tokens, positions = ids.new_zeros(pairs, size), ids.new_zeros(pairs, size)
        branch = ids.new_full((pairs, size), 3)  # 0 in common, 1 first, 2 second, 3 padding
        for pair, (fork, one, other) in enumerate(zip(forks.tolist(), first.tolist(), second.tolist(), strict=True)):
            end = one - start + other - fork
            tokens[pair, :end] = torch.cat([ids[pair, start:one], ids[pairs + pair, fork:other]])
            positions[pair, :end] = torch.cat([torch.arange(start, one), torch.arange(fork, other)])
            branch[pair, : fork - start], branch[pair, fork - start : one - start] = 0, 1
            branch[pair, one - start : end] = 2
        seen = (branch[:, None] == 0) | (branch[:, None] == branch[:, :, None])
        seen = torch.nn.functional.pad(seen.tril(), (start, 0), value=True)[:, None]
        pair, columns = _in_pairs(rows, columns, forks, first)
        changed = {"input_ids": tokens, "position_ids": positions, "attention_mask": seen}
        past = {"past_key_values": self._cache(pairs)} if start else {}
        return _Layout({**inputs, **changed, **past}, pair, columns - start)

    def _cache(self, rows: int) -> Any:
        """Return the prefix as the cache of so many rows."""
        key = torch.is_grad_enabled()
        # In training, a pass without gradients is the reference's: it has other weights, which stay the same.
        cache, tensors = self._caches.get(key, (None, []))
        if cache is None:
            cache = self.model.base_model(input_ids=self.prefix[None], use_cache=True).past_key_values
            outputs = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
            # Each with a leaf that collects its gradient.
            tensors = [(tensor, tensor.detach().requires_grad_(tensor.requires_grad)) for tensor in outputs]
        if self.model.training:
            self._caches[key] = cache, tensors
        result, leaves = copy.copy(cache), iter(leaf for _, leaf in tensors)
        result.layers = [copy.copy(layer) for layer in cache.layers]
        for layer in result.layers:
            layer.keys, layer.values = (next(leaves).expand(rows, -1, -1, -1) for _ in range(2))
        return result


def _in_pairs(rows: Tensor, columns: Tensor, forks: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return pair and column of tokens of a batch, once each second row follows the end of the first from its fork."""
    pair = rows % len(forks)
    moved = (rows >= len(forks)) & (columns >= forks[pair])
    return pair, torch.where(moved, columns - forks[pair] + ends[pair], columns)


def _forks(ids: Tensor, mask: Tensor) -> Tensor:
    """Return, for each pair, the number of tokens that its two sequences have in common at their start."""
    (one, other), (first, second) = ids.view(2, -1, ids.shape[1]), mask.view(2, -1, ids.shape[1])
    return ((one == other) & (first == 1) & (second == 1)).long().cumprod(1).sum(1)
