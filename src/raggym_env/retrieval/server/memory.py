"""The memory that all requests of a server may take together."""

# Used on one event loop only, so without a lock. Processes of one server may exceed the size by what each of them
# reserves in the same microsecond.

from __future__ import annotations

from raggym_env.retrieval.server.batching import Overloaded
from raggym_env.retrieval.server.metrics import Number

__all__ = ["Memory", "Reservation"]


class Memory:
    """A number of bytes that requests take reservations of; `reserved` counts those of all reservations."""

    def __init__(self, size: int, reserved: Number | None = None) -> None:
        self.size = size
        self.reserved = reserved or Number()


class Reservation:
    """The bytes of one request, from its body to its answer."""

    __slots__ = ("_bytes", "_memory")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._bytes = 0

    def grow(self, size: int) -> None:
        """Reserve so many bytes more.

        Raises:
            Overloaded: There are not so many left. Nothing more was reserved.
        """
        if self._memory.reserved.total + size > self._memory.size:
            raise Overloaded(f"Requests and answers already take {self._memory.reserved.total:,} bytes of memory.")
        self._memory.reserved.add(size)
        self._bytes += size

    def release(self) -> None:
        """Give all bytes back."""
        self._memory.reserved.add(-self._bytes)
        self._bytes = 0
