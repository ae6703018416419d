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
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from raggym_env.errors import RAGGymError, RetrievalError
from raggym_env.protocols import Hit, Retriever, search
from raggym_env.retrieval.server.options import Batching
from raggym_env.retrieval.server.ranked import RankedRows, is_ranker
from raggym_env.retrieval.wire import Limits, SearchRequest, write_row
from raggym_env.text.untrusted import one_line, visible

__all__ = ["Batcher", "Overloaded", "SearchTimeout", "TooLong", "description", "too_long"]

_logger = logging.getLogger(__name__)

# Passages of one search. Other requests get their turn after so many, and memory holds no more of them unwritten.
_MAX_HITS = 8192

_Rows = list[bytes]


class Overloaded(RetrievalError):
    """The server has no room for a request, or no thread that could search. It may have later."""


class SearchTimeout(RetrievalError):
    """A search took longer than its limit."""


class TooLong(RetrievalError):
    """An answer is longer than its limit."""


@dataclass(slots=True, eq=False)
class _Job:
    """Queries of one request that are searched together, and the future of the rows of its answer."""

    name: str
    """The request's name in the log."""
    queries: Sequence[str]
    k: int
    scores: bool
    arrived: float
    """The event loop's time."""
    outcome: asyncio.Future[_Rows | RetrievalError] = field(repr=False)
    """An error is its result, not its exception: asyncio logs exceptions of futures that nobody awaits."""


@dataclass(slots=True, eq=False)
class _Batch:
    """The jobs of one search."""

    jobs: list[_Job]
    timer: asyncio.TimerHandle = field(init=False)
    """Runs out when the search has taken too long."""
    overdue: bool = False


class Batcher:
    """Searches for many callers on one event loop. The retriever is called in this object's threads.

    A free thread takes all waiting requests at once, unless the previous search had several: then it waits until as
    many have gathered again, for at most `Batching.wait`. Only requests for the same `k` share a search, since the
    best five need not be the first of the best ten (HNSW, fusion to a depth). A long request is searched in parts, and
    others get their turn between them. The threads also write the answers, so that the event loop stays free.

    If a search of several requests fails, each is searched again separately, so that a query that the back end
    rejects fails no other request. Whatever a retriever raises, its thread goes on.

    A thread whose search takes longer than `Limits.search_seconds` cannot be ended. Another one takes its place, up to
    `Batching.spares` times; once no thread is left, `healthy` is False and requests are refused, until one returns.

    `on_batch` is called with the number of queries of each search.
    """

    def __init__(
        self,
        retriever: Retriever,
        batching: Batching,
        limits: Limits,
        *,
        on_batch: Callable[[int], None] = lambda queries: None,
    ) -> None:
        self._rows = RankedRows(retriever) if is_ranker(retriever) else _HitRows(retriever)
        self._batching = batching
        self._limits = limits
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, deque[_Job]] = {}  # by k
        self.waiting = 0
        """Number of queries waiting for a search."""
        self.hanging = 0
        """Number of searches that have taken longer than their limit and have not ended."""
        self._threads = 0  # that were started and not told to end, hanging ones included
        self._free = 0  # of them, those without a search
        self._previous = 1  # requests in the previous search
        self._timer: asyncio.TimerHandle | None = None
        self._inbox: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        for _ in range(batching.threads):
            self._start_thread()

    @property
    def healthy(self) -> bool:
        """False while every thread hangs in a search."""
        return self._threads > self.hanging

    async def search(self, request: SearchRequest, name: str, *, reserve: Callable[[int], None]) -> _Rows:
        """Return the rows of the answer, one per query.

        Args:
            request: The queries.
            name: The request's name in the log.
            reserve: Called with the length of each part of the answer; an exception of it ends the request.

        Raises:
            Overloaded: Too many queries are waiting, or every thread hangs. Nothing was searched.
            TooLong: The answer would be longer than `Limits.answer`.
            SearchTimeout: A search took longer than `Limits.search_seconds`.
            RetrievalError: The retriever failed on these queries. The log says how.
        """
        self._admit(request)
        queries, size = request.queries, self._most(request.k)
        unsent = deque(queries[start : start + size] for start in range(0, len(queries), size))
        jobs: deque[_Job] = deque()
        rows: _Rows = []
        length = 0
        try:
            while unsent or jobs:
                # As many parts as threads, and one more, so that no thread waits for this coroutine.
                while unsent and len(jobs) <= self._batching.threads:
                    jobs.append(self._submit(name, unsent.popleft(), request))
                outcome = await jobs[0].outcome
                if isinstance(outcome, RetrievalError):
                    raise outcome
                jobs.popleft()
                rows += outcome
                length += sum(map(len, outcome))
                if length > self._limits.answer:
                    raise too_long(self._limits.answer)
                reserve(sum(map(len, outcome)))
        finally:
            # After a failure, or if the caller was cancelled, the remaining parts need not be searched.
            self.waiting -= sum(map(len, unsent))
            for job in jobs:
                job.outcome.cancel()
        return rows

    def start(self, request: SearchRequest, name: str) -> asyncio.Future[_Rows | RetrievalError] | None:
        """Return the future rows of a request, or a future error, whose length is checked but not yet reserved.

        This is `search` without a coroutine, for a request that one search can answer; None for any other. The errors
        that `search` raises are the future's result, except the first one.

        Raises:
            Overloaded: As by `search`.
        """
        if not 0 < len(request.queries) <= self._most(request.k):
            return None
        self._admit(request)
        return self._submit(name, request.queries, request).outcome

    def close(self) -> None:
        """End the threads, each after its current search."""
        for _ in range(self._threads):
            self._inbox.put(None)

    def _admit(self, request: SearchRequest) -> None:
        """Count the queries of a request as waiting, or raise `Overloaded`."""
        if not self.healthy:
            raise Overloaded(f"No thread is left: {self.hanging} searches take longer than their limit.")
        if self.waiting + len(request.queries) > self._batching.waiting:
            raise Overloaded(f"{self.waiting:,} queries are waiting, and at most {self._batching.waiting:,} may.")
        self.waiting += len(request.queries)

    def _most(self, k: int) -> int:
        """Return the maximum number of queries in a search for that many passages each."""
        return min(self._batching.size, max(1, _MAX_HITS // k))

    def _submit(self, name: str, queries: Sequence[str], request: SearchRequest) -> _Job:
        job = _Job(name, queries, request.k, request.scores, self._loop.time(), self._loop.create_future())
        self._jobs.setdefault(request.k, deque()).append(job)
        self._start_searches()
        return job

    def _on_timer(self) -> None:
        self._timer = None
        self._start_searches()

    def _start_searches(self) -> None:
        while self._free and self._jobs:
            if (seconds := self._delay()) > 0:
                # One that is set runs out early, if its request was answered, and is then set again: that is rare,
                # and setting it for each request would cost more than all else here.
                if self._timer is None:
                    self._timer = self._loop.call_later(seconds, self._on_timer)
                return
            if jobs := self._take():
                self._free -= 1
                self._previous = len(jobs)
                self._on_batch(sum(len(job.queries) for job in jobs))
                batch = _Batch(jobs)
                batch.timer = self._loop.call_later(self._limits.search_seconds, self._give_up, batch)
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
        jobs, batch, room = self._jobs[k], [], self._most(k)
        while jobs and len(jobs[0].queries) <= room:
            job = jobs.popleft()
            self.waiting -= len(job.queries)
            if not job.outcome.done():  # else its caller was cancelled
                room -= len(job.queries)
                batch.append(job)
        if not jobs:
            del self._jobs[k]
        return batch

    def _start_thread(self) -> None:
        # Daemons: a search that hangs must not keep the process alive.
        threading.Thread(target=self._work, name="raggym-search", daemon=True).start()
        self._threads += 1
        self._free += 1

    def _work(self) -> None:
        """Search batch after batch, in one of the threads, until `close`."""
        while (batch := self._inbox.get()) is not None:
            self._search(batch.jobs)
            self._on_loop(self._finish, batch)

    def _search(self, jobs: list[_Job]) -> None:
        outcomes = self._attempt(jobs)
        if not isinstance(outcomes, RetrievalError):
            self._on_loop(self._settle, jobs, outcomes)
        elif len(jobs) == 1:
            self._on_loop(self._settle, jobs, [outcomes])
        else:
            for job in jobs:
                if not job.outcome.done():
                    self._search([job])

    def _attempt(self, jobs: list[_Job]) -> list[_Rows | RetrievalError] | RetrievalError:
        """Search, and return the rows of each job, or the error if the search failed."""
        try:
            queries = [query for job in jobs for query in job.queries]
            # Any: what one of them returns is what the same one takes.
            results: Iterator[Any] = iter(self._rows.search(queries, jobs[0].k))
            limit = self._limits.answer
            parts = [self._rows.write([next(results) for _ in job.queries], job.scores, limit) for job in jobs]
            return [too_long(limit) if rows is None else rows for rows in parts]
        except BaseException as error:  # noqa: BLE001  # even SystemExit must reach the callers, and end no thread
            names = ", ".join(job.name for job in jobs)
            _logger.warning("The search of %s failed. %s", names, description(error))
            return RetrievalError(f"The search of {names} failed.")  # without the message, which may hold secrets

    def _on_loop(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed, so nobody awaits the results
            self._loop.call_soon_threadsafe(function, *arguments)

    def _settle(self, jobs: Sequence[_Job], outcomes: Sequence[_Rows | RetrievalError]) -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            if not job.outcome.done():
                job.outcome.set_result(outcome)

    def _give_up(self, batch: _Batch) -> None:
        """Fail the jobs of a search that takes too long, and replace its thread."""
        batch.overdue = True
        self.hanging += 1
        seconds = self._limits.search_seconds
        _logger.error("The search of %s takes longer than %g s.", ", ".join(job.name for job in batch.jobs), seconds)
        error = SearchTimeout(f"The search took longer than {seconds:g} s.")
        self._settle(batch.jobs, [error] * len(batch.jobs))
        if self._threads < self._batching.threads + self._batching.spares:
            self._start_thread()
            self._start_searches()

    def _finish(self, batch: _Batch) -> None:
        batch.timer.cancel()
        self.hanging -= batch.overdue
        if self._threads - self.hanging > self._batching.threads:  # another thread has taken its place
            self._threads -= 1
            self._inbox.put(None)
        else:
            self._free += 1
        self._start_searches()


def description(error: BaseException) -> str:
    """Return what the log says of an error: its message, or the traceback of one that was not raised on purpose."""
    # Not `str`, which may raise, too. Queries, which come from strangers, are part of many messages.
    if isinstance(error, RAGGymError):
        return one_line("".join(traceback.format_exception_only(error)))
    return visible("".join(traceback.format_exception(error)))


class _HitRows:
    """The rows of answers of any retriever."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        results = search(self._retriever, queries, k)
        for hits in results:
            if len(hits) > k or not all(map(math.isfinite, [score for _, score in hits])):
                raise RetrievalError(f"The retriever gave more than {k} passages, or a score that is not finite.")
        return results

    def write(self, results: Sequence[Sequence[Hit]], scores: bool, limit: int) -> _Rows | None:
        """Return the rows of a part of an answer; None as soon as they are certain to exceed the limit."""
        rows: _Rows = []
        room = limit
        for hits in results:
            # Before they are written: a row has at least a byte per character.
            if room < sum([len(passage.title) + len(passage.text) for passage, _ in hits]):
                return None
            rows.append(write_row(hits, scores=scores))
            room -= len(rows[-1])
        return rows


def too_long(limit: int) -> TooLong:
    """Return the error for an answer that is longer than `limit` bytes."""
    return TooLong(f"The answer is longer than {limit:,} bytes. Send fewer queries at a time, or a smaller topk.")
