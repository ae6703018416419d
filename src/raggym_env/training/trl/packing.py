"""Rows computed as one sequence without padding, which a CPU trains in half the time.

Each row attends to itself alone. In bfloat16 its attention is two matrix products: the gradient of PyTorch's fused
kernel takes a CPU two to four times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
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

__all__ = ["can_pack", "packed"]

Tensor = Any  # of torch

_NAME = "raggym_packed"


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
    return _keeps_rows_apart(model)


def packed(ids: Tensor, lengths: Sequence[int]) -> dict[str, Any]:
    """Return the inputs of one sequence that holds the first tokens, so many, of each row of `ids`."""
    tokens = torch.cat([row[:length] for row, length in zip(ids, lengths, strict=True)])
    positions = torch.cat([torch.arange(length) for length in lengths])
    return {
        "input_ids": tokens[None], "position_ids": positions[None], "attention_mask": None,
        "packed_lengths": list(lengths),
    }  # fmt: skip


@torch.no_grad()
def _keeps_rows_apart(model: Any) -> bool:
    """True if a row's hidden states do not depend on the row before it: not every model hands on `packed_lengths`."""
    training, first, second = model.training, torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6]])
    model.eval()
    alone = model.base_model(input_ids=second, use_cache=False).last_hidden_state
    together = model.base_model(**packed(torch.cat([first, second]), [3, 3]), use_cache=False).last_hidden_state[:, 3:]
    model.train(training)
    return bool((alone - together).norm() < 0.05 * alone.norm())


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_lengths: list[int] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention of a layer, as transformers' `AttentionInterface` describes."""
    if packed_lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    products = query.dtype == torch.bfloat16 and not dropout
    rows = []
    for q, k, v in zip(*(tensor.split(packed_lengths, 2) for tensor in (query, key, value)), strict=True):
        if products:
            rows.append(_by_products(q[0], k[0], v[0], scale))
        else:
            attended = scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=True
            )
            rows.append(attended[0])
    return torch.cat(rows, 1).transpose(0, 1)[None], None


def _by_products(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return causal attention, of shape (heads, tokens, size), to keys and values of shape (groups, tokens, size)."""
    heads, tokens, size = query.shape
    groups = key.shape[0]
    scores = torch.bmm((query * scale).reshape(groups, -1, size), key.transpose(1, 2)).view(heads, tokens, tokens)
    weights = (scores + _future(-(-tokens // 512) * 512)[:tokens, :tokens]).softmax(-1)
    return torch.bmm(weights.view(groups, -1, tokens), value).view(heads, tokens, -1)


@lru_cache(maxsize=1)
def _future(size: int) -> Tensor:
    """Return minus infinity where a token would see a later one, and 0 elsewhere."""
    return torch.full((size, size), float("-inf"), dtype=torch.bfloat16).triu(1)
