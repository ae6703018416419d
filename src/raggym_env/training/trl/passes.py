"""Trainers that fit a CPU: a weight update in forward passes of a bounded number of tokens, and logits at labels only.

Neither changes what is learned: the rows of an update, its loss and its gradient are the same up to rounding.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import Any

from raggym_env.errors import MissingExtra
from raggym_env.training.trl.config import trl

try:
    import torch
    from peft import PeftModel
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["passes", "score_labels_only", "trainer_class"]

Inputs = dict[str, Any]

# Trainers whose rows are pairs: the first half of a batch is the chosen candidates, the second the rejected.
_PAIRED = ("DPOTrainer", "RewardTrainer")


def trainer_class(name: str, tokens_per_batch: int | None) -> Any:
    """Return TRL's trainer class `name`, made to split every batch into passes of at most `tokens_per_batch` tokens."""
    kind = getattr(trl, name)
    if tokens_per_batch is None:
        return kind
    return type(name, (_Split, kind), {"tokens_per_batch": tokens_per_batch, "width": 2 if name in _PAIRED else 1})


def passes(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return the indices of the rows of each forward pass, longest rows first.

    A pass has at most `budget` tokens, padding included. A row that is longer is a pass of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    result = []
    while order:
        size = max(1, budget // max(1, lengths[order[0]]))  # all are padded to the first
        result.append(order[:size])
        order = order[size:]
    return result


class _Split:
    """A trainer that computes a batch's loss and gradient in several passes."""

    tokens_per_batch: int
    width: int
    """Number of sequences per row: 2 for pairs."""
    _share = 1.0

    def training_step(self, model: Any, inputs: Inputs, num_items_in_batch: Any = None) -> Any:
        """Return the loss of a batch after its backward passes."""
        step: Any = super()
        if "labels" in inputs and num_items_in_batch is None:
            # All labels count the same, whichever pass they are in.
            num_items_in_batch = (inputs["labels"][:, 1:] != -100).sum()
        lengths = inputs["attention_mask"].sum(1).view(self.width, -1).amax(0).tolist()
        losses = []
        for rows in passes(lengths, self.tokens_per_batch // self.width):
            # The mean over a pass; a loss over labels is divided by their number in the batch already.
            self._share = 1.0 if num_items_in_batch is not None else len(rows) / len(lengths)
            longest = max(lengths[row] for row in rows)
            losses.append(step.training_step(model, _select(inputs, rows, len(lengths), longest), num_items_in_batch))
        self._share = 1.0
        return torch.stack(losses).sum()

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of one pass, weighted by its share of the batch."""
        loss = super().compute_loss(*args, **kwargs)  # type: ignore[misc]
        return loss if self._share == 1.0 else loss * self._share


def _select(inputs: Inputs, rows: list[int], total: int, length: int) -> Inputs:
    """Return some of the `total` rows, without the padding after `length` tokens."""
    index = torch.tensor(rows)

    def part(tensor: Any) -> Any:
        halves = torch.cat([index + start for start in range(0, len(tensor), total)])
        return tensor[halves.to(tensor.device)][..., :length] if tensor.ndim == 2 else tensor[halves.to(tensor.device)]

    return {name: part(tensor) for name, tensor in inputs.items()}


def score_labels_only(model: Any) -> None:
    """Make TRL's fused head of a causal model compute logits only where there is a label, on every device.

    By itself it does so on a GPU alone; on a CPU it computes those of every position and discards most of them.
    """
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    fused = model.forward

    @functools.wraps(type(model).forward)
    def forward(
        self: Any, *args: Any, labels: Any = None, shift_labels: Any = None, fused_lm_head: bool = False, **kwargs: Any
    ) -> Any:
        if not fused_lm_head or labels is None or shift_labels is not None:
            return fused(*args, labels=labels, shift_labels=shift_labels, fused_lm_head=fused_lm_head, **kwargs)
        mask = labels[:, 1:] != -100

        def select(module: Any, inputs: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[:, :-1][mask][None]
            return output

        hook = self.base_model.register_forward_hook(select)
        try:
            output = fused(*args, shift_labels=labels[:, 1:][mask][None], fused_lm_head=True, **kwargs)
        finally:
            hook.remove()
        for name in ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1"):
            values = getattr(output, name)
            if values is not None:
                setattr(output, name, values.new_zeros(mask.shape).masked_scatter(mask, values))
        output.label_mask = mask
        return output

    model.forward = types.MethodType(forward, model)
