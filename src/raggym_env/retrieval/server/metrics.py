"""Counters in the Prometheus text format (version 0.0.4)."""

# Written by hand: the format of these few lines is fixed, and `prometheus_client` has one global registry per process.

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator, MutableSequence, Sequence
from typing import Any

__all__ = ["Board", "Histogram", "Metrics", "Number"]

# Bounds of the histograms: from an answer of the cache up to the limit of a search, and powers of two up to a batch.
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_QUERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_STATUSES = (200, 400, 401, 403, 408, 413, 421, 422, 499, 500, 503, 504)


class Number:
    """A number of which each process of a server has a part. A process writes its own, and reads the sum of all."""

    __slots__ = ("_cells", "_process")

    def __init__(self, cells: MutableSequence[float] | memoryview[float] | None = None, process: int = 0) -> None:
        self._cells: Any = array("d", [0.0]) if cells is None else cells
        self._process = process

    @property
    def total(self) -> int | float:
        """The sum over all processes."""
        total = sum(self._cells)
        return int(total) if total == int(total) else total

    def add(self, value: float) -> None:
        """Add to this process's part. Called on one thread only, so without a lock."""
        self._cells[self._process] += value

    def set(self, value: float) -> None:
        """Set this process's part."""
        self._cells[self._process] = value


class Board:
    """The numbers that the processes of a server share. Each process takes the same numbers in the same order.

    Args:
        memory: `BYTES` times `processes` bytes, zero at first, that all processes see; None for memory of this one.
        processes: Number of processes.
        process: Which of them this is, from 0.
    """

    BYTES = 96 * 8

    def __init__(self, memory: Any = None, processes: int = 1, process: int = 0) -> None:
        cells = memoryview(bytearray(self.BYTES * processes) if memory is None else memory)
        self._cells = cells.cast("B").cast("d")
        self._processes = processes
        self._process = process
        self._taken = 0

    def number(self) -> Number:
        """Return the next number."""
        # One number's parts side by side; 8 bytes are read and written at once, so no part is ever torn.
        start, self._taken = self._taken, self._taken + self._processes
        if self._taken > len(self._cells):
            raise IndexError("the board is full")
        return Number(self._cells[start : self._taken], self._process)


class Histogram:
    """Counts of values between bounds, with their sum."""

    def __init__(self, bounds: Sequence[float], board: Board) -> None:
        self._bounds = bounds
        self._counts = [board.number() for _ in range(len(bounds) + 1)]
        self._sum = board.number()

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)].add(1)
        self._sum.add(value)

    def lines(self, name: str, description: str) -> Iterator[str]:
        """Yield the lines of a metric of that name."""
        yield f"# HELP {name} {description}"
        yield f"# TYPE {name} histogram"
        total = 0.0  # Prometheus's buckets are cumulative
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count.total
            yield f'{name}_bucket{{le="{bound}"}} {total:.0f}'
        yield f"{name}_sum {self._sum.total:.6f}"
        yield f"{name}_count {total:.0f}"


class Metrics:
    """Counts of a server's work since it started, over all its processes."""

    def __init__(self, board: Board | None = None) -> None:
        board = board or Board()
        self.requests = {status: board.number() for status in _STATUSES}
        """Requests for /retrieve by the status of the answer. 499: the client closed the connection first."""
        self.queries = board.number()
        """Queries of the requests that were accepted."""
        self.seconds = Histogram(_SECONDS, board)
        """Seconds from the head of a request to its answer."""
        self.batches = Histogram(_QUERIES, board)
        """Queries in each search."""
        self.in_flight = board.number()
        """Requests for /retrieve that have no answer yet."""
        self.reserved = board.number()
        """Bytes of the bodies and answers of all requests."""
        self.waiting = board.number()
        """Queries waiting for a search."""
        self.hanging = board.number()
        """Searches that have taken longer than their limit and have not ended."""
        self.stuck = board.number()
        """Processes in which every thread hangs in a search."""
        self._cpu = board.number()

    def refresh(self, *, waiting: int, hanging: int, healthy: bool) -> None:
        """Set this process's part of what is measured, not counted."""
        self.waiting.set(waiting)
        self.hanging.set(hanging)
        self.stuck.set(not healthy)
        self._cpu.set(time.process_time())

    def lines(self) -> Iterator[str]:
        """Yield the lines of the page that Prometheus reads."""
        yield "# HELP raggym_requests_total Requests for /retrieve, by status."
        yield "# TYPE raggym_requests_total counter"
        for status, count in self.requests.items():
            if count.total:
                yield f'raggym_requests_total{{status="{status}"}} {count.total}'
        yield "# HELP raggym_queries_total Queries of accepted requests."
        yield "# TYPE raggym_queries_total counter"
        yield f"raggym_queries_total {self.queries.total}"
        yield from self.seconds.lines("raggym_request_seconds", "Time from the head of a request to its answer.")
        yield from self.batches.lines("raggym_batch_queries", "Queries in one search.")
        yield "# TYPE process_cpu_seconds_total counter"
        yield f"process_cpu_seconds_total {self._cpu.total:.3f}"
        gauges = {
            "in_flight": self.in_flight,
            "waiting_queries": self.waiting,
            "hanging_searches": self.hanging,
            "reserved_bytes": self.reserved,
        }
        for name, value in gauges.items():
            yield f"# TYPE raggym_{name} gauge"
            yield f"raggym_{name} {value.total}"
