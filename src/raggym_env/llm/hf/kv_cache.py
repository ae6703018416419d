"""The key-value cache of the engine: what transformers keeps per layer, in buffers that grow without copying."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["joined", "new_cache", "repeated"]

_SLACK = 128

# transformers types a layer's tensors as optional and leaves its constructors untyped.
_Base: Any = DynamicLayer
_NewCache: Any = Cache


class _Layer(_Base):  # type: ignore[misc]
    """Keys and values of one layer, views of shape `[rows, heads, columns, size]` into larger buffers.

    `DynamicLayer` copies all it holds for every token; here a token is written behind the others.
    """

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:  # the first call is a prefill, whose tensors are used as they come
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        start = self.keys.shape[-2]
        stop = start + key_states.shape[-2]
        buffers = self._buffers
        if buffers is None or buffers[0].shape[-2] < stop:
            room = stop + max(_SLACK, stop // 8)
            buffers = (_enlarged(self.keys, room), _enlarged(self.values, room))
            self._buffers = buffers
        for buffer, states in zip(buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:stop] = states
        self.keys, self.values = (buffer[:, :, :stop] for buffer in buffers)
        return self.keys, self.values

    def hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold these instead of what there was."""
        self.lazy_initialization(keys, values)
        self.keys, self.values, self._buffers = keys, values, None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.hold(self.keys[indices], self.values[indices])


def _enlarged(states: torch.Tensor, columns: int) -> torch.Tensor:
    rows, heads, used, size = states.shape
    buffer = states.new_empty(rows, heads, columns, size)
    buffer[:, :, :used] = states
    return buffer


def new_cache() -> Cache:
    cache: Cache = _NewCache(layer_class_to_replicate=_Layer)
    return cache


def repeated(cache: Cache, rows: int) -> Cache:
    """A cache that holds the one row of `cache` `rows` times. Nothing is copied until it grows."""
    layers: Any = cache.layers
    return _made((layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)) for layer in layers)


def joined(caches: Sequence[Cache]) -> Cache:
    """The rows of several caches in one, padded behind with zeros. The caches given are emptied as it goes."""
    if len(caches) == 1:
        return caches[0]
    columns = max(cache.get_seq_length() for cache in caches)
    layers = []
    for same in zip(*(cache.layers for cache in caches), strict=True):
        layers.append((_stacked([x.keys for x in same], columns), _stacked([x.values for x in same], columns)))
        for layer in same:
            layer.reset()
    return _made(layers)


def _stacked(parts: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    rows = sum(part.shape[0] for part in parts)
    stacked = parts[0].new_zeros(rows, parts[0].shape[1], columns, parts[0].shape[3])
    start = 0
    for part in parts:
        stacked[start : start + part.shape[0], :, : part.shape[2]] = part
        start += part.shape[0]
    return stacked


def _made(layers: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Cache:
    made = []
    for keys, values in layers:
        layer = _Layer()
        layer.hold(keys, values)
        made.append(layer)
    cache: Cache = _NewCache(layers=made)
    return cache
