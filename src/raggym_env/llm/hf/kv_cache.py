"""The engine's key-value cache: one layer of it is a pair of tensors in buffers that grow without copying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["joined", "new_cache", "repeated"]

# Minimum number of spare columns in a new buffer: that many tokens are written before the next copy.
_SLACK = 128

# transformers types a layer's tensors as optional and leaves its constructors untyped.
_Base: Any = DynamicLayer
_NewCache: Callable[..., Cache] = Cache


class _Layer(_Base):  # type: ignore[misc]
    """Keys and values of one layer: views of shape `[rows, heads, columns, size]` into larger buffers."""

    # `DynamicLayer` copies all keys and values for every token. This one writes a token behind the others.
    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:  # the first call is a prefill, whose tensors need no copy
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        start = self.keys.shape[-2]
        stop = start + key_states.shape[-2]
        buffers = self._buffers
        if buffers is None or buffers[0].shape[-2] < stop:
            # Room in proportion to the length, so that copying takes constant time per token on average.
            columns = stop + max(_SLACK, stop // 8)
            buffers = (_enlarged(self.keys, columns), _enlarged(self.values, columns))
            self._buffers = buffers
        for buffer, states in zip(buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:stop] = states
        self.keys, self.values = (buffer[:, :, :stop] for buffer in buffers)
        return self.keys, self.values

    def hold(self, keys: torch.Tensor, values: torch.Tensor) -> _Layer:
        """Replace the keys and values, and return the layer."""
        self.lazy_initialization(keys, values)
        self.keys, self.values, self._buffers = keys, values, None
        return self

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Replace the rows by those with these indices."""
        self.hold(self.keys[indices], self.values[indices])


def _enlarged(states: torch.Tensor, columns: int) -> torch.Tensor:
    rows, heads, used, size = states.shape
    buffer = states.new_empty(rows, heads, columns, size)
    buffer[:, :, :used] = states
    return buffer


def new_cache() -> Cache:
    """Return an empty cache."""
    return _NewCache(layer_class_to_replicate=_Layer)


def repeated(cache: Cache, rows: int) -> Cache:
    """Repeat a cache's single row `rows` times. Copies nothing until the new cache grows."""
    layers: Any = cache.layers
    shape = (rows, -1, -1, -1)
    return _NewCache(layers=[_Layer().hold(layer.keys.expand(shape), layer.values.expand(shape)) for layer in layers])


def joined(caches: Sequence[Cache]) -> Cache:
    """Return one cache with the rows of several, padded on the right with zeros. Empties the given ones."""
    if len(caches) == 1:
        return caches[0]
    columns = max(cache.get_seq_length() for cache in caches)
    layers = []
    for parts in zip(*(cache.layers for cache in caches), strict=True):
        keys, values = (
            _stacked([part.keys for part in parts], columns),
            _stacked([part.values for part in parts], columns),
        )
        layers.append(_Layer().hold(keys, values))
        for part in parts:  # freed layer by layer: the memory never holds all of it twice
            part.reset()
    return _NewCache(layers=layers)


def _stacked(parts: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    rows = sum(part.shape[0] for part in parts)
    stacked = parts[0].new_zeros(rows, parts[0].shape[1], columns, parts[0].shape[3])
    start = 0
    for part in parts:
        stacked[start : start + part.shape[0], :, : part.shape[2]] = part
        start += part.shape[0]
    return stacked
