"""A bounded dictionary in memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, TypeVar

__all__ = ["LRU"]

K = TypeVar("K")
V = TypeVar("V")


class LRU(OrderedDict[K, V]):
    """A dictionary that forgets the entry used longest ago once it has more than `size`. Not thread-safe.

    >>> cache = LRU[str, int](2)
    >>> cache["a"], cache["b"] = 1, 2
    >>> cache.use("a")
    1
    >>> cache["c"] = 3
    >>> list(cache)
    ['a', 'c']
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def use(self, key: K) -> V | None:
        """Return the entry and mark it as used now; None if there is none."""
        if key not in self:
            return None
        self.move_to_end(key)
        return self[key]

    def __reduce__(self) -> tuple[Any, ...]:
        # The inherited method would copy and unpickle by a call without the size.
        return type(self), (self.size,), None, None, iter(self.items())

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        # `while`, so that a size of 0 keeps nothing.
        while len(self) > self.size:
            self.popitem(last=False)
