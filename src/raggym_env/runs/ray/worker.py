"""The class that runs in a Ray worker. Ray is not imported here."""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from raggym_env import errors
from raggym_env.core import Task
from raggym_env.errors import RAGGymError, RunError
from raggym_env.runs.plan import RunSpec
from raggym_env.storage.work_folder import differences

__all__ = ["Player", "Reply"]

Json = dict[str, Any]

_REPLY_SECONDS = 1.0  # a worker replies at the latest this long after an episode has ended


class Reply(NamedTuple):
    """The reply of a worker to one call."""

    records: list[Json]
    failure: tuple[str, str] | None = None
    """The name and message of the library error that ended the worker's run, if one did."""

    def check(self) -> None:
        """Raise the error that ended the worker's run, if one did."""
        if self.failure is None:
            return
        name, message = self.failure
        kind: type[RAGGymError] = getattr(errors, name)
        # Not `kind(message)`: some classes compose their message from other arguments. Of two built-in bases Python
        # takes the constructor of the first, and refuses it where the other needs its own.
        error: RAGGymError = (OSError if issubclass(kind, OSError) else kind).__new__(kind)
        error.args = (message,)
        raise error


class Player:
    """A worker: loads the plan and runs episodes. Between two calls its episodes pause; none is lost.

    Args:
        spec: What to run.
        config: The driver's configuration, which the plan loaded here must match.
        in_flight: Episodes that run side by side.
    """

    def __init__(self, spec: RunSpec, config: Json, in_flight: int) -> None:
        self._spec = spec
        self._config = config
        self._in_flight = in_flight
        self._waiting: deque[Task] = deque()
        self._tasks: Mapping[str, Task] = {}
        self._rollout: Callable[[], Iterator[Json]] | None = None
        self._running: Iterator[Json] = iter(())

    def started(self) -> None:
        """Return once the worker's process runs."""

    def play(self, ids: Sequence[str]) -> Reply:
        """Take on questions and run until `in_flight` episodes ended, one ended and a second has passed, or all ended.

        With `2 * in_flight` questions at first, and afterwards as many as it returned records, a worker never idles.
        """
        records: list[Json] = []
        try:
            self._play(ids, records)
        except RAGGymError as error:
            # A private subclass means nothing to the driver: its public base does.
            public = next(base.__name__ for base in type(error).__mro__ if base.__name__ in errors.__all__)
            return Reply(records, (public, str(error)))
        except OSError as error:
            return Reply(records, ("RunError", f"On the worker's machine {platform.node()}: {error!r}"))
        return Reply(records)

    def _play(self, ids: Sequence[str], records: list[Json]) -> None:
        if self._rollout is None:
            self._rollout = self._load()
        self._waiting.extend(self._tasks[question] for question in ids)
        start = time.monotonic()
        while True:
            for record in self._running:
                records.append(record)
                if len(records) >= self._in_flight or time.monotonic() - start >= _REPLY_SECONDS:
                    return
            if not self._waiting:
                return
            # A rollout that ran out of tasks has ended, even if tasks have arrived since: start another.
            self._running = self._rollout()

    def _load(self) -> Callable[[], Iterator[Json]]:
        plan = self._spec.load()
        if changes := differences(plan.config, self._config):
            raise RunError(
                f"The worker on {platform.node()} would do another run than this process: {'; '.join(changes)}. Give "
                "all machines the same data and the same version of raggym-env."
            )
        policy = plan.make_policy()
        self._tasks = {task.id: task for task in plan.tasks}
        return lambda: plan.episodes(policy, self._next_tasks(), self._in_flight)

    def _next_tasks(self) -> Iterator[Task]:
        while self._waiting:
            yield self._waiting.popleft()
