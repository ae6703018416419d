"""Rows computed as one sequence without padding, which is faster on a CPU.

Each row attends to itself alone. In bfloat16 its attention is two matrix products: the gradient of PyTorch's fused
kernel takes a CPU two to four times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raggym_env.errors import MissingExtra

try:
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["Segment", "can_pack", "packed"]

Tensor = Any  # of torch

_NAME = "raggym_packed"
_BY_PRODUCTS = {torch.bfloat16}
"""The dtypes whose attention is computed by matrix products."""


@torch.no_grad()
def can_pack(model: Any) -> bool:
    """Prepare a causal model for the inputs that `packed` returns, unless it would compute them otherwise."""
    config = model.config
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = layers != {"full_attention"} or getattr(config, "sliding_window", None) is not None
    if model.device.type != "cpu" or windowed or config._attn_implementation not in ("sdpa", _NAME):
        return False
    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)
    # Not every model's layers hand `segments` on to `_attend`: a reply must see its prompt and nothing else.
    training, row, first, second = model.training, *torch.tensor([[5, 6, 7], [1, 2, 3], [1, 2, 4]])
    model.eval()
    sequence = packed([Segment.row(row), Segment.pair(first, second, 2)])
    try:
        alone = model.base_model(input_ids=second[None], use_cache=False).last_hidden_state[:, -1]
        together = model.base_model(**sequence, use_cache=False).last_hidden_state[:, -1]
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        return False  # some take no such inputs
    finally:
        model.train(training)
    return bool((alone - together).norm() < 0.3 * alone.norm())  # bfloat16 rounds by some hundredths


@dataclass(frozen=True)
class Segment:
    """A row of a packed sequence, or a prompt followed by two replies that cannot see each other."""

    tokens: Tensor
    fork: int
    """Number of tokens before the two replies; all tokens of a row."""
    first: int
    """Number of tokens up to the end of the first reply."""

    @classmethod
    def row(cls, tokens: Tensor) -> Segment:
        """Return a row without padding."""
        return cls(tokens, len(tokens), len(tokens))

    @classmethod
    def pair(cls, first: Tensor, second: Tensor, fork: int) -> Segment:
        """Return two rows without padding whose first `fork` tokens are the same."""
        return cls(torch.cat([first, second[fork:]]), fork, len(first))

    @property
    def positions(self) -> Tensor:
        """The position of each token in its row."""
        second = torch.arange(self.fork, self.fork + len(self.tokens) - self.first)
        return torch.cat([torch.arange(self.first), second])

    @cached_property
    def hidden(self) -> Tensor:
        """Return whether a token (first axis) does not see another (second axis)."""
        result = torch.ones(len(self.tokens), len(self.tokens), dtype=torch.bool).triu(1)
        result[self.first :, self.fork : self.first] = True
        return result


def packed(segments: Sequence[Segment]) -> dict[str, Any]:
    """Return the inputs of one sequence for a model that `can_pack`."""
    return {
        "input_ids": torch.cat([segment.tokens for segment in segments])[None],
        "position_ids": torch.cat([segment.positions for segment in segments])[None],
        "attention_mask": None,
        "segments": segments,
    }


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Sequence[Segment] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention of a layer, as transformers' `AttentionInterface` describes."""
    if segments is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads, groups, size = query.shape[1], key.shape[1], query.shape[3]
    lengths = [len(segment.tokens) for segment in segments]
    attended = []
    for segment, q, k, v in zip(segments, *(tensor.split(lengths, 2) for tensor in (query, key, value)), strict=True):
        if query.dtype in _BY_PRODUCTS and not dropout:
            scores = torch.bmm((q * scale).reshape(groups, -1, size), k[0].transpose(1, 2)).view(heads, -1, k.shape[2])
            weights = scores.masked_fill(segment.hidden, float("-inf")).softmax(-1)
            attended.append(torch.bmm(weights.view(groups, -1, k.shape[2]), v[0]).view(heads, -1, v.shape[3])[None])
        else:
            row = segment.first == len(segment.tokens)  # what a row sees needs no mask, which is faster
            options: dict[str, Any] = {"is_causal": row, "scale": scale, "dropout_p": dropout, "enable_gqa": True}
            attended.append(scaled_dot_product_attention(q, k, v, None if row else ~segment.hidden, **options))
    return torch.cat(attended, 2).transpose(1, 2), None
