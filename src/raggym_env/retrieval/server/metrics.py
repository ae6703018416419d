"""Counters in the Prometheus text format (version 0.0.4)."""

# Written by hand: the format of these few lines is fixed, and `prometheus_client` has one global registry per process.

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Histogram", "Metrics"]

# Bounds of the histograms: from an answer of the cache up to the limit of a search, and powers of two up to a batch.
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_QUERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Histogram:
    """Counts of values between bounds, with their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, description: str) -> Iterator[str]:
        """Yield the lines of a metric of that name."""
        yield f"# HELP {name} {description}"
        yield f"# TYPE {name} histogram"
        total = 0  # Prometheus's buckets are cumulative
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """Counts of a server's work since it started. Used on one event loop only, so without a lock."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        """Requests for /retrieve by the status of the answer. 499: the client closed the connection first."""
        self.queries = 0
        """Queries of the requests that were accepted."""
        self.in_flight = 0
        """Requests for /retrieve that have no answer yet."""
        self.seconds = Histogram(_SECONDS)
        """Seconds from the head of a request to its answer."""
        self.batches = Histogram(_QUERIES)
        """Queries in each search."""

    def lines(self, gauges: Mapping[str, int]) -> Iterator[str]:
        """Yield the lines of the page that Prometheus reads, with further gauges by name."""
        yield "# HELP raggym_requests_total Requests for /retrieve, by status."
        yield "# TYPE raggym_requests_total counter"
        for status, count in sorted(self.requests.items()):
            yield f'raggym_requests_total{{status="{status}"}} {count}'
        yield "# HELP raggym_queries_total Queries of accepted requests."
        yield "# TYPE raggym_queries_total counter"
        yield f"raggym_queries_total {self.queries}"
        yield from self.seconds.lines("raggym_request_seconds", "Time from the head of a request to its answer.")
        yield from self.batches.lines("raggym_batch_queries", "Queries in one search.")
        yield "# TYPE process_cpu_seconds_total counter"
        yield f"process_cpu_seconds_total {time.process_time():.3f}"
        for name, value in {"in_flight": self.in_flight, **gauges}.items():
            yield f"# TYPE raggym_{name} gauge"
            yield f"raggym_{name} {value}"
