"""Micro-batching: requests that wait at the same time are searched for together."""

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
from raggym_env.protocols import Hit, Retriever

__all__ = ["Batcher", "Batching", "Overloaded"]

_logger = logging.getLogger(__name__)

_Results = list[list[Hit]]


@dataclass(frozen=True)
class Batching:
    """How requests are put together."""

    size: int = 512
    """Queries in one search at most."""
    wait: float = 0.002
    """Seconds that a search is held back for more requests to come, at most. One client alone never waits."""
    waiting: int = 16_384
    """Queries that may wait for a search. With more, a request is answered with 503."""
    threads: int = 1
    """Searches at the same time. A retriever that leaves the interpreter lock, as Lucene does, gains by more."""

    def __post_init__(self) -> None:
        for name in ("size", "waiting", "threads"):
            if getattr(self, name) < 1:
                raise RetrievalError(f"{name} of a server's batching must be at least 1, got {getattr(self, name)!r}.")
        if not 0 <= self.wait <= 1:
            raise RetrievalError(f"wait of a server's batching must be in [0, 1] seconds, got {self.wait!r}.")


class Overloaded(RetrievalError):
    """More queries wait than may."""


@dataclass(slots=True)
class _Job:
    """Queries of one request that are searched for together, and where their results go."""

    queries: Sequence[str]
    k: int
    arrived: float
    outcome: asyncio.Future[_Results | RetrievalError] = field(repr=False)


class Batcher:
    """Searches for many callers on one event loop; the retriever is called in threads of this object's own.

    A free thread takes what waits at once, unless the search before held several requests: then it waits until as many
    have gathered again, for `Batching.wait` at most. Only requests for the same `k` share a search, since what is best
    of five need not be the head of what is best of ten (HNSW, fusion to a depth).

    Where a search of several requests fails, each is searched for again on its own, so that one query that a back end
    cannot take fails nobody else's.
    """

    def __init__(
        self, retriever: Retriever, batching: Batching, *, on_batch: Callable[[int], None] = lambda queries: None
    ) -> None:
        """Start the threads; call `close` to end them. `on_batch` is told how many queries a search has."""
        self._retriever = retriever
        self._batching = batching
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, deque[_Job]] = {}  # by k
        self.waiting = 0
        """Queries that wait for a search."""
        self._free = batching.threads
        self._together = 1  # requests in the search before
        self._timer: asyncio.TimerHandle | None = None
        self._inbox: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        for number in range(batching.threads):
            # Daemons: a search that hangs must not keep the process from ending.
            threading.Thread(target=self._work, name=f"raggym-search-{number}", daemon=True).start()

    async def search(self, queries: Sequence[str], k: int) -> _Results:
        """As `Retriever.search`.

        Raises:
            Overloaded: Too many queries wait already. Nothing was searched for.
            RetrievalError: The retriever failed on these queries.
        """
        if self.waiting + len(queries) > self._batching.waiting:
            raise Overloaded(f"{self.waiting:,} queries wait already; at most {self._batching.waiting:,} may.")
        size = self._batching.size
        jobs = [self._add(queries[start : start + size], k) for start in range(0, len(queries), size)]
        self._start_ready()
        try:
            outcomes = [await job.outcome for job in jobs]
        finally:
            for job in jobs:  # nobody waits for the rest, where one was not awaited to its end
                job.outcome.cancel()
        for outcome in outcomes:
            if isinstance(outcome, RetrievalError):
                raise outcome
        return [hits for outcome in outcomes if not isinstance(outcome, RetrievalError) for hits in outcome]

    def close(self) -> None:
        """End the threads, each after the search it is at."""
        for _ in range(self._batching.threads):
            self._inbox.put(None)

    def _add(self, queries: Sequence[str], k: int) -> _Job:
        job = _Job(queries, k, self._loop.time(), self._loop.create_future())
        self._jobs.setdefault(k, deque()).append(job)
        self.waiting += len(queries)
        return job

    def _start_ready(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free and self._jobs:
            if (seconds := self._hold_back()) > 0:
                self._timer = self._loop.call_later(seconds, self._start_ready)
                return
            if batch := self._take():
                self._free -= 1
                self._together = len(batch)
                self._on_batch(sum(len(job.queries) for job in batch))
                self._inbox.put(batch)

    def _hold_back(self) -> float:
        """Seconds to wait for more requests."""
        if self.waiting >= self._batching.size or sum(map(len, self._jobs.values())) >= self._together:
            return 0.0
        oldest = min(jobs[0].arrived for jobs in self._jobs.values())
        return oldest + self._batching.wait - self._loop.time()

    def _take(self) -> list[_Job]:
        """The jobs of the next search: the oldest, and those behind it that ask for the same k."""
        k = min(self._jobs, key=lambda k: self._jobs[k][0].arrived)
        jobs, batch, room = self._jobs[k], [], self._batching.size
        while jobs and len(jobs[0].queries) <= room:
            job = jobs.popleft()
            self.waiting -= len(job.queries)
            if not job.outcome.done():  # else its client has given up
                room -= len(job.queries)
                batch.append(job)
        if not jobs:
            del self._jobs[k]
        return batch

    def _work(self) -> None:
        """What a thread does."""
        while (batch := self._inbox.get()) is not None:
            self._search(batch)
            self._call(self._freed)

    def _search(self, batch: list[_Job]) -> None:
        k = batch[0].k
        found = _attempt(self._retriever, [query for job in batch for query in job.queries], k)
        if not isinstance(found, RetrievalError):
            results = iter(found)
            self._call(self._settle, [(job, [next(results) for _ in job.queries]) for job in batch])
        elif len(batch) == 1:
            self._call(self._settle, [(batch[0], found)])
        else:
            for job in batch:
                if not job.outcome.done():
                    self._call(self._settle, [(job, _attempt(self._retriever, job.queries, k))])

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _settle(self, outcomes: Sequence[tuple[_Job, _Results | RetrievalError]]) -> None:
        for job, outcome in outcomes:
            if not job.outcome.done():
                job.outcome.set_result(outcome)

    def _freed(self) -> None:
        self._free += 1
        self._start_ready()


def _attempt(retriever: Retriever, queries: Sequence[str], k: int) -> _Results | RetrievalError:
    """The results, checked, or why there are none."""
    try:
        return _checked(retriever.search(queries, k), len(queries), k)
    except RAGGymError as error:
        _logger.warning("A search of %d queries failed: %s", len(queries), error)
        return RetrievalError(str(error))
    except Exception as error:  # whatever it is, somebody waits for an answer, and the thread must go on
        _logger.exception("A search of %d queries failed", len(queries))
        return RetrievalError(f"The retriever failed with {type(error).__name__}; the server's log says more.")


def _checked(results: Sequence[Sequence[Hit]], queries: int, k: int) -> _Results:
    if len(results) != queries:
        raise RetrievalError(f"The retriever gave {len(results)} results for {queries} queries.")
    # float: a NumPy scalar is no JSON number.
    checked = [[Hit(passage, float(score)) for passage, score in hits] for hits in results]
    for hits in checked:
        if len(hits) > k or not all(math.isfinite(hit.score) for hit in hits):
            raise RetrievalError(f"The retriever gave more than {k} passages, or a score that is not finite.")
    return checked
