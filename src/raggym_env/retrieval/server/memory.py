"""The memory that all requests of a server may take together."""

# Used on one event loop only, so without a lock.

from __future__ import annotations

from raggym_env.retrieval.server.batching import Overloaded

__all__ = ["Memory", "Reservation"]


class Memory:
    """A number of bytes that requests take reservations of."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reserved = 0
        """Bytes of all reservations."""


class Reservation:
    """The bytes of one request, from its body to its answer."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._bytes = 0

    def grow(self, size: int) -> None:
        """Reserve so many bytes more.

        Raises:
            Overloaded: There are not so many left. Nothing more was reserved.
        """
        if self._memory.reserved + size > self._memory.size:
            raise Overloaded(f"Requests and answers already take {self._memory.reserved:,} bytes of memory.")
        self._memory.reserved += size
        self._bytes += size

    def release(self) -> None:
        """Give all bytes back."""
        self._memory.reserved -= self._bytes
        self._bytes = 0
