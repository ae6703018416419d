"""Trainers that fit a CPU: the rows of a weight update are split into forward passes of a bounded number of tokens.

The rows of an update, its loss and its gradient stay what they are without, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raggym_env.errors import LLMError, MissingExtra
from raggym_env.training.trl.config import trl
from raggym_env.training.trl.forward import LabelForward, shared_prefix

try:
    import torch
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["passes", "trainer_class"]

Inputs = dict[str, Any]


def trainer_class(name: str, tokens_per_batch: int | None = None, share_prefix: bool = False) -> Any:
    """Return TRL's trainer class `name`, to which the options of `TrainingConfig` are applied."""
    kind = getattr(trl, name)
    options = {"tokens_per_batch": tokens_per_batch, "share_prefix": share_prefix}
    # The rows of some are pairs: the first half of a batch is the chosen candidates, the second the rejected.
    width = 2 if name in ("DPOTrainer", "RewardTrainer") else 1
    bases = {"SFTTrainer": (_Split, _Labels), "DPOTrainer": (_Split, _Labels), "RewardTrainer": (_Split,)}
    return type(name, (*bases[name], kind), {**options, "width": width}) if name in bases else kind


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

    tokens_per_batch: int | None
    width: int
    """Number of sequences per row: 2 for pairs."""
    forwards: Sequence[LabelForward] = ()
    """The forward passes of the trained model and of the reference model, if any."""
    _share = 1.0
    _metrics: Any
    """Of TRL: by name, the values since the last entry of the log, whose means are logged next."""

    def training_step(self, model: Any, inputs: Inputs, num_items_in_batch: Any = None) -> Any:
        """Return the loss of a batch after its backward passes."""
        step: Any = super()
        parts, items = self._parts(inputs, num_items_in_batch)
        total = sum(weight for _, weight in parts) or 1
        losses: list[Any] = []
        try:
            for part, weight in parts:
                # A loss over labels is divided by their number in the batch already; another is the mean over a pass.
                self._share = 1.0 if "labels" in inputs else weight / total
                losses.append(step.training_step(model, part, items))
        finally:
            self._share = 1.0
            for forward in self.forwards:
                forward.end_batch(backward=len(losses) == len(parts))
        # Of what the passes appended to each metric the mean stays, weighted by their shares of the batch.
        shares = [weight / total for _, weight in parts]
        for values in self._metrics["train"].values():
            if len(values) >= len(shares) > 1:  # the count of tokens is a running total, alone in its list
                new = values[-len(shares) :]
                values[-len(shares) :] = [sum(value * share for value, share in zip(new, shares, strict=True))]
        return torch.stack(losses).sum()

    def _parts(self, inputs: Inputs, items: Any) -> tuple[list[tuple[Inputs, int]], Any]:
        """Return the passes of a batch, each with its number of labels, or of rows; and the number of its labels."""
        if self.tokens_per_batch is None:
            return [(inputs, 1)], items
        lengths = inputs["attention_mask"].sum(1).view(self.width, -1).amax(0).tolist()
        added, width = self.forwards[0].lengths(inputs, self.width) if self.forwards else (lengths, self.width)
        chosen = passes(added, self.tokens_per_batch // width)
        parts = [_select(inputs, rows, len(lengths), max(lengths[row] for row in rows)) for rows in chosen]
        if "labels" not in inputs:
            return [(part, len(rows)) for part, rows in zip(parts, chosen, strict=True)], items
        counts = [int((part["labels"][:, 1:] != -100).sum()) for part in parts]
        # All labels count the same, whichever pass they are in.
        return list(zip(parts, counts, strict=True)), sum(counts) if items is None else items

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of one pass, weighted by its share of the batch."""
        loss = super().compute_loss(*args, **kwargs)  # type: ignore[misc]
        return loss if self._share == 1.0 else loss * self._share


def _select(inputs: Inputs, rows: list[int], total: int, length: int) -> Inputs:
    """Return some of the `total` rows, without the padding after `length` tokens."""
    index = torch.tensor(rows)

    def part(tensor: Any) -> Any:
        chosen = torch.cat([index + start for start in range(0, len(tensor), total)]).to(tensor.device)
        return tensor[chosen][:, :length] if tensor.ndim == 2 else tensor[chosen]

    return {name: part(tensor) for name, tensor in inputs.items()}


class _Labels:
    """A trainer that computes logits at labels only, and shared tokens once."""

    share_prefix: bool
    forwards: Sequence[LabelForward] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._replace_forward()

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
        self._replace_forward()  # TRL computes them while it constructs itself
        return super()._precompute_ref_logps(*args, **kwargs)  # type: ignore[misc]

    def _replace_forward(self) -> None:
        if self.forwards:
            return
        trainer: Any = self
        models = [model for model in (trainer.model, getattr(trainer, "ref_model", None)) if model is not None]
        if not self.share_prefix:
            pack = trainer.tokens_per_batch is not None
            self.forwards = [LabelForward(model, pairs=pack and trainer.width == 2, pack=pack) for model in models]
            return
        plain = [_scores(trainer, model) for model in models]
        prefix, pairs = shared_prefix(trainer.train_dataset), trainer.width == 2
        self.forwards = [LabelForward(model, prefix, pairs=pairs) for model in models]
        try:
            shared = [_scores(trainer, model) for model in models]
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise LLMError(f"This model takes no shared prefix: {error}. Remove the option share_prefix.") from error
        # A prefix that is ignored or misplaced changes log-probabilities by far more than bfloat16 rounds them.
        exact = next(trainer.model.parameters()).dtype == torch.float32
        rtol, atol = (0.0, 1e-3) if exact else (0.1, 0.5)
        if not all(torch.allclose(one, other, rtol, atol) for one, other in zip(plain, shared, strict=True)):
            raise LLMError(
                "This model scores tokens differently after a shared prefix. Remove the option share_prefix."
            )


@torch.no_grad()
def _scores(trainer: Any, model: Any) -> Any:
    """Return the log-probabilities of the labels of the first two rows."""
    rows = trainer.train_dataset.select(range(min(2, len(trainer.train_dataset))))
    batch = {name: tensor.to(model.device) for name, tensor in trainer.data_collator(list(rows)).items()}
    labels = batch.get("labels")
    if labels is None:
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    training = model.training
    model.eval()
    result = model(**inputs, labels=labels, fused_lm_head=True, use_cache=False).log_probs
    model.train(training)
    return result
