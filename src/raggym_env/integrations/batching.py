"""Micro-batching of steps: those that many sessions take at the same time share one search and one reward call."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from raggym_env.core import Action, State, Task
from raggym_env.envs.episodes import Episodes, Outcome
from raggym_env.errors import RetrievalError
from raggym_env.retrieval.server.batching import Overloaded
from raggym_env.retrieval.server.options import Batching

__all__ = ["StepBatcher"]


@dataclass(slots=True, eq=False)
class _Job:
    task: Task
    state: State
    action: Action
    outcome: Future[Outcome] = field(default_factory=Future)


class StepBatcher:
    """Steps the episodes of many callers, from any thread or event loop. The steps are taken in this object's threads.

    A free thread takes all waiting steps at once, unless it took several before: then it waits until as many have
    gathered again, for at most `Batching.wait`. If a batch fails, each of its steps is taken again separately, so that
    a query that the search engine rejects fails no other episode.

    A thread whose batch takes longer than `seconds` cannot be ended. Another takes its place, up to `Batching.spares`
    times; once no thread is left, steps are refused until one returns.

    Args:
        world: The tasks, the transition and the rewards of all episodes.
        batching: How steps are combined.
        seconds: Time after which a batch counts as hanging.
        on_batch: Called with the number of steps of each batch.
    """

    def __init__(
        self,
        world: Episodes,
        batching: Batching | None = None,
        *,
        seconds: float = 60.0,
        on_batch: Callable[[int], None] = lambda steps: None,
    ) -> None:
        self._world = world
        self._batching = batching or Batching()
        self._seconds = seconds
        self._on_batch = on_batch
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._previous = 1  # steps in the previous batch
        self._threads = 0  # that were started and have not ended
        self._started: dict[int, float] = {}  # when each thread that has a batch took it
        for _ in range(self._batching.threads):
            self._start_thread()

    @property
    def hanging(self) -> int:
        """Number of batches that have taken longer than `seconds` and have not ended."""
        latest = time.monotonic() - self._seconds
        return sum(started < latest for started in tuple(self._started.values()))

    @property
    def healthy(self) -> bool:
        """False while every thread hangs, and after `close`."""
        return not self._closed and self._threads > self.hanging

    def submit(self, task: Task, state: State, action: Action) -> Future[Outcome]:
        """Return the future outcome of an action in a running episode. Its exceptions are those of `Episodes.step`.

        Raises:
            Overloaded: Too many steps are waiting, every thread hangs, or the batcher is closed.
        """
        job = _Job(task, state, action)
        with self._changed:
            if self._closed:
                raise Overloaded("The environment is closed.")
            batching, hanging = self._batching, self.hanging
            if self._threads - hanging < batching.threads and self._threads < batching.threads + batching.spares:
                self._start_thread()
            if self._threads <= hanging:
                raise Overloaded(f"No thread is left: {hanging} batches take longer than {self._seconds:g} s.")
            if len(self._jobs) >= batching.waiting:
                raise Overloaded(f"{len(self._jobs):,} steps are waiting, and at most {batching.waiting:,} may.")
            self._jobs.append(job)
            self._changed.notify_all()
        return job.outcome

    def close(self) -> None:
        """End the threads, each after the steps that were submitted before."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _start_thread(self) -> None:
        # Daemons: a search that hangs must not keep the process alive.
        threading.Thread(target=self._work, name="raggym-steps", daemon=True).start()
        self._threads += 1

    def _work(self) -> None:
        """Take batch after batch, in one of the threads, until `close`."""
        while jobs := self._take():
            self._on_batch(len(jobs))
            self._run(jobs)
            with self._changed:
                del self._started[threading.get_ident()]
                if self._threads - self.hanging > self._batching.threads:  # another thread has taken its place
                    break
        with self._changed:
            self._threads -= 1

    def _take(self) -> list[_Job]:
        """Wait for steps and return those of the next batch; none once the batcher is closed and has no more."""
        size, jobs = self._batching.size, self._jobs
        with self._changed:
            while True:
                self._changed.wait_for(lambda: jobs or self._closed)
                if not jobs:
                    return []
                # Episodes that were stepped together tend to be stepped together again.
                self._changed.wait_for(
                    lambda: len(jobs) >= min(self._previous, size) or self._closed, self._batching.wait
                )
                batch = [jobs.popleft() for _ in range(min(len(jobs), size))]
                if batch := [job for job in batch if job.outcome.set_running_or_notify_cancel()]:
                    self._previous = len(batch)
                    self._started[threading.get_ident()] = time.monotonic()
                    return batch

    def _run(self, jobs: list[_Job]) -> None:
        try:
            outcomes = self._world.step(
                [job.task for job in jobs], [job.state for job in jobs], [job.action for job in jobs]
            )
        except BaseException as error:  # noqa: BLE001  # even SystemExit must reach the callers, and end no thread
            if len(jobs) > 1:
                for job in jobs:
                    self._run([job])
                return
            if not isinstance(error, Exception):
                error = RetrievalError(f"A search or a process reward tried to end the thread: {error!r:.200}.")
            jobs[0].outcome.set_exception(error)
        else:
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.outcome.set_result(outcome)
