"""Micro-batching: requests that wait at the same time are searched together."""

# Retrievers answer many queries in one search several times as fast. Written by hand, since the servers that batch
# (Triton, BentoML) are whole platforms of their own.

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from raggym_env.errors import RAGGymError, RetrievalError
from raggym_env.protocols import Hit, Retriever, search
from raggym_env.retrieval.server.options import Batching

__all__ = ["Batcher", "Overloaded"]

_logger = logging.getLogger(__name__)

_Results = list[list[Hit]]


class Overloaded(RetrievalError):
    """Too many queries are waiting for a search."""


@dataclass(slots=True)
class _Job:
    """Queries of one request that are searched together, and the future of their results."""

    queries: Sequence[str]
    k: int
    arrived: float
    """The event loop's time."""
    outcome: asyncio.Future[_Results | RetrievalError] = field(repr=False)
    """An error is its result, not its exception: asyncio logs exceptions of futures that nobody awaits."""


class Batcher:
    """Searches for many callers on one event loop. The retriever is called in this object's threads.

    A free thread takes all waiting requests at once, unless the previous search had several: then it waits until as
    many have gathered again, for at most `Batching.wait`. Only requests for the same `k` share a search, since the
    best five need not be the first of the best ten (HNSW, fusion to a depth).

    If a search of several requests fails, each is searched again separately, so that a query that the back end
    rejects fails no other request. `on_batch` is called with the number of queries of each search.
    """

    def __init__(
        self, retriever: Retriever, batching: Batching, *, on_batch: Callable[[int], None] = lambda queries: None
    ) -> None:
        self._retriever = retriever
        self._batching = batching
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, deque[_Job]] = {}  # by k
        self.waiting = 0
        """Number of queries waiting for a search."""
        self._free = batching.threads  # threads without a search
        self._previous = 1  # requests in the previous search
        self._timer: asyncio.TimerHandle | None = None
        self._inbox: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        for number in range(batching.threads):
            # Daemons: a search that hangs must not keep the process alive.
            threading.Thread(target=self._work, name=f"raggym-search-{number}", daemon=True).start()

    async def search(self, queries: Sequence[str], k: int) -> _Results:
        """As `Retriever.search`.

        Raises:
            Overloaded: Too many queries are waiting. None of these was searched.
            RetrievalError: The retriever failed on these queries.
        """
        if self.waiting + len(queries) > self._batching.waiting:
            raise Overloaded(f"{self.waiting:,} queries are waiting, and at most {self._batching.waiting:,} may.")
        jobs = []
        for start in range(0, len(queries), self._batching.size):
            part = queries[start : start + self._batching.size]
            jobs.append(_Job(part, k, self._loop.time(), self._loop.create_future()))
            self._jobs.setdefault(k, deque()).append(jobs[-1])
            self.waiting += len(part)
        self._start_searches()
        results: _Results = []
        try:
            for job in jobs:
                outcome = await job.outcome
                if isinstance(outcome, RetrievalError):
                    raise outcome
                results += outcome
        finally:
            # After a failure, or if the caller was cancelled, the remaining parts need not be searched.
            for job in jobs:
                job.outcome.cancel()
        return results

    def close(self) -> None:
        """End the threads, each after its current search."""
        for _ in range(self._batching.threads):
            self._inbox.put(None)

    def _start_searches(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free and self._jobs:
            if (seconds := self._delay()) > 0:
                self._timer = self._loop.call_later(seconds, self._start_searches)
                return
            if batch := self._take():
                self._free -= 1
                self._previous = len(batch)
                self._on_batch(sum(len(job.queries) for job in batch))
                self._inbox.put(batch)

    def _delay(self) -> float:
        """Return how many seconds the next search should wait for further requests."""
        # Clients that were answered together tend to send their next requests together.
        if self.waiting >= self._batching.size or sum(map(len, self._jobs.values())) >= self._previous:
            return 0.0
        oldest = min(jobs[0].arrived for jobs in self._jobs.values())
        return oldest + self._batching.wait - self._loop.time()

    def _take(self) -> list[_Job]:
        """Remove and return the jobs of the next search: the oldest, and later ones with the same k."""
        k = min(self._jobs, key=lambda k: self._jobs[k][0].arrived)
        jobs, batch, room = self._jobs[k], [], self._batching.size
        while jobs and len(jobs[0].queries) <= room:
            job = jobs.popleft()
            self.waiting -= len(job.queries)
            if not job.outcome.done():  # else its caller was cancelled
                room -= len(job.queries)
                batch.append(job)
        if not jobs:
            del self._jobs[k]
        return batch

    def _work(self) -> None:
        """Search batch after batch, in one of the threads, until `close`."""
        while (batch := self._inbox.get()) is not None:
            self._search(batch)
            self._on_loop(self._release_thread)

    def _search(self, batch: list[_Job]) -> None:
        k = batch[0].k
        outcome = _attempt(self._retriever, [query for job in batch for query in job.queries], k)
        if not isinstance(outcome, RetrievalError):
            results = iter(outcome)
            self._on_loop(self._settle, [(job, [next(results) for _ in job.queries]) for job in batch])
        elif len(batch) == 1:
            self._on_loop(self._settle, [(batch[0], outcome)])
        else:
            for job in batch:
                if not job.outcome.done():
                    self._on_loop(self._settle, [(job, _attempt(self._retriever, job.queries, k))])

    def _on_loop(self, function: Callable[..., None], *arguments: object) -> None:
        # Futures and counters belong to the event loop's thread, so they need no lock.
        with contextlib.suppress(RuntimeError):  # the loop was closed, so nobody awaits the results
            self._loop.call_soon_threadsafe(function, *arguments)

    def _settle(self, outcomes: Sequence[tuple[_Job, _Results | RetrievalError]]) -> None:
        for job, outcome in outcomes:
            if not job.outcome.done():
                job.outcome.set_result(outcome)

    def _release_thread(self) -> None:
        self._free += 1
        self._start_searches()


def _attempt(retriever: Retriever, queries: Sequence[str], k: int) -> _Results | RetrievalError:
    """Search, and return the checked results, or the error if there are none."""
    try:
        # float: a NumPy scalar cannot be written as JSON.
        results = [[Hit(hit.passage, float(hit.score)) for hit in hits] for hits in search(retriever, queries, k)]
        for hits in results:
            if len(hits) > k or not all(math.isfinite(hit.score) for hit in hits):
                raise RetrievalError(f"The retriever gave more than {k} passages, or a score that is not finite.")
        return results
    except RAGGymError as error:
        _logger.warning("A search of %d queries failed: %s", len(queries), error)
        return RetrievalError(str(error))
    except Exception as error:  # any error must reach the callers, and the thread must survive it
        _logger.exception("A search of %d queries failed", len(queries))
        # Its message may hold paths or secrets of the server, so clients get only its type.
        return RetrievalError(f"The retriever failed with {type(error).__name__}; the server's log says more.")
