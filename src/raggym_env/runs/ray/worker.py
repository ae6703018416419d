"""What runs in a Ray worker. Ray is not imported here."""

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

_REPLY_SECONDS = 1.0  # a worker replies no later than this, once an episode has ended


class Reply(NamedTuple):
    """What a worker sends."""

    records: list[Json]
    failure: tuple[str, str] | None = None
    """What ended its work: the name of an error of this library, and the message."""

    def check(self) -> None:
        """Raise what ended the worker's work, if anything did."""
        if self.failure is not None:
            raise _error(*self.failure)


class Player:
    """A worker: makes the plan and runs episodes. Between two calls its episodes stand still, none is broken off."""

    def __init__(self, spec: RunSpec, config: Json, in_flight: int) -> None:
        self._spec = spec
        self._config = config
        self._in_flight = in_flight
        self._waiting: deque[Task] = deque()
        self._tasks: Mapping[str, Task] = {}
        self._rollout: Callable[[], Iterator[Json]] | None = None
        self._running: Iterator[Json] = iter(())

    def started(self) -> None:
        """Returns once the process runs."""

    def play(self, ids: Sequence[str]) -> Reply:
        """Take on questions and go on until `in_flight` episodes ended, or some and a second has passed, or all.

        Given as many questions as it returned, and twice `in_flight` at first, it always has the next at hand.
        """
        ended: list[Json] = []
        try:
            self._play(ids, ended)
        except RAGGymError as error:
            return Reply(ended, (_public(type(error)), str(error)))
        except OSError as error:
            return Reply(ended, ("RunError", f"On the worker's machine {platform.node()}: {error!r}"))
        return Reply(ended)

    def _play(self, ids: Sequence[str], ended: list[Json]) -> None:
        if self._rollout is None:
            self._rollout = self._prepare()
        self._waiting.extend(self._tasks[question] for question in ids)
        since = time.monotonic()
        while True:
            for record in self._running:
                ended.append(record)
                if len(ended) >= self._in_flight or time.monotonic() - since >= _REPLY_SECONDS:
                    return
            if not self._waiting:  # a rollout that ran out of tasks takes no more, even if some have come since
                return
            self._running = self._rollout()

    def _prepare(self) -> Callable[[], Iterator[Json]]:
        plan = self._spec.load()
        _require_same(plan.config, self._config)
        policy = plan.make_policy()
        self._tasks = {task.id: task for task in plan.tasks}
        return lambda: plan.episodes(policy, _drained(self._waiting), self._in_flight)


def _drained(waiting: deque[Task]) -> Iterator[Task]:
    while waiting:
        yield waiting.popleft()


def _require_same(there: Json, here: Json) -> None:
    if different := differences(there, here):
        raise RunError(
            f"The worker on {platform.node()} would do another run than this process: {'; '.join(different)}. Give "
            "all machines the same data and the same version of raggym-env."
        )


def _public(kind: type[RAGGymError]) -> str:
    """The name of the error, or of what it is a kind of, in the module of errors."""
    return next(base.__name__ for base in kind.__mro__ if base.__name__ in errors.__all__)


def _error(name: str, message: str) -> RAGGymError:
    """The error that a worker named, with its message as it was: some classes make theirs from other arguments."""
    kind: type[RAGGymError] = getattr(errors, name)
    # Of two built-in bases Python takes the constructor of the first, and refuses it where the other needs its own.
    error: RAGGymError = (OSError if issubclass(kind, OSError) else kind).__new__(kind)
    error.args = (message,)
    return error
