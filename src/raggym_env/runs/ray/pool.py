"""Episodes on Ray: questions spread over actors, records back to the one run folder.

Each worker is a Ray actor: a process that loads the plan from the same spec, checks that it is the same (data, corpus,
index and version), and runs `rollout` on its questions. The driver, the process that the user started, hands out
questions, receives records and alone writes the run folder. The records are those of a run in one process, in another
order, except for what depends on batching: `seconds`, the seconds and cached tokens of a model's usage, and the output
of a model or an encoder that rounds differently in another batch (anything but float32 of `hf:`, most servers).

- A worker that dies, or whose node is lost, is replaced and its unfinished questions are run again, none twice. A
  question whose workers died twice runs alone the third time; if that worker dies too, the question gets a failed
  record that says so. If workers die repeatedly and no episode ends in between, the run stops with an error.
- A driver that dies takes its workers with it. Started again it resumes the run, with or without Ray.
- An error that would stop a run in one process stops this one, with the same message.

Ray's own restarts and retries are not used: they would repeat a call with the same questions, including the one that
kills its workers, and records that were not yet returned would be lost or counted twice.

On a node, all workers map the same corpus and index files. Each worker has its own Python process (200 MB and up),
tasks, unstored index parts (the vocabulary of `bm25`), search cache and `hf:` model; all query the same `openai:`
server. A node of a cluster needs this version of the library, the data below its own `$RAGGYM_DATA`, its own
`$RAGGYM_CACHE` (or a shared one on a file system that locks), the keys of LLM servers in the environment of its `ray
start`, the files that cards name at the same paths, and the modules of "module:Class" plug-ins. Names that a program
adds to a registry must be added in the workers too: call
`ray.init(runtime_env={"worker_process_setup_hook": "module.function"})` yourself and use `Workers("auto")`.

Security: whoever reaches the ports of a Ray cluster can run any code on it, and its workers send pickled objects to
the driver. Join only clusters and networks that you trust, and use Ray's token authentication. The Ray of `local` is
private: it listens on 127.0.0.1 with a token that only this process has, and ends with the run. Its logs are removed,
unless the driver is killed: then they stay in the system's temporary folder.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from raggym_env.core import Task
from raggym_env.errors import RunError, check_option
from raggym_env.mdp.records import Episode
from raggym_env.runs.plan import Plan
from raggym_env.runs.ray.cluster import connected
from raggym_env.runs.ray.ledger import DEATHS, Ledger
from raggym_env.runs.ray.worker import Player, Reply

__all__ = ["RayExecutor", "Workers"]

_log = logging.getLogger(__name__)

_START_SECONDS = 300.0  # a cluster that scales by itself takes minutes to add a node
_DEATHS_IN_A_ROW = 5  # per worker: several may die of one cause, such as a node that is lost

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workers:
    """The Ray actors that episodes run on."""

    ray: str = "local"
    """"local" starts a Ray on this machine for the run alone. "HOST:PORT" or "auto" joins the cluster that this
    machine is part of, "ray://HOST:PORT" one that it is not part of."""
    number: int | None = None
    """Number of workers, at least 1, each of one CPU; None for as many as fit. Never more than there are questions."""
    gpus: float = 0.0
    """GPUs of each worker, which may be a fraction. With 0 a worker sees none."""

    def __post_init__(self) -> None:
        check_option("number", self.number, self.number is None or self.number >= 1, "at least 1 or None")
        check_option("gpus", self.gpus, 0 <= self.gpus < math.inf, "0 or more")


@dataclass(frozen=True, slots=True)
class RayExecutor:
    """Runs the episodes of a plan on Ray workers."""

    workers: Workers
    in_flight: int = 32
    """Episodes that run side by side in each worker. A worker holds up to twice as many questions."""

    @contextmanager
    def episodes(self, plan: Plan, tasks: Sequence[Task]) -> Iterator[Iterator[list[Json]]]:
        """See `Executor.episodes`. On entering, one worker is ready. At least one task is needed.

        The workers get the plan's spec, which Ray pickles, and load the plan again.

        Raises:
            MissingExtra: Ray is not installed.
            RunError: Ray cannot be reached or started, no worker starts, all workers die again and again, or one has
                other data than this process.
            RAGGymError: What ends a run in a worker, e.g. DataNotFound or LLMError.
        """
        workers = self.workers
        with connected(workers.ray, workers.number) as ray:
            resources = ray.cluster_resources()
            room = int(resources.get("CPU", 0.0))
            if workers.gpus:
                room = min(room, int(resources.get("GPU", 0.0) / workers.gpus))
            if workers.ray == "local" and not room:
                raise RunError(f"A worker with {workers.gpus:g} GPUs does not fit on this machine: {_resources(ray)}.")
            number = min(len(tasks), workers.number or max(1, room))
            pool = _Pool(ray, number, workers.gpus, (plan.spec, plan.config, self.in_flight))
            try:
                pool.start()
                yield _records(pool, Ledger([task.id for task in tasks], number, 2 * self.in_flight), plan)
            finally:
                pool.close()


def _records(pool: _Pool, ledger: Ledger, plan: Plan) -> Iterator[list[Json]]:
    """Hand out questions and yield records, those of one reply together, until every question has one."""
    tasks = {task.id: task for task in plan.tasks}
    while not ledger.over:
        for worker in pool.idle:
            if (ids := ledger.give(worker)) or ledger.holds(worker):
                pool.send(worker, ids)
        worker, reply = pool.receive()
        if reply is None:
            for task in map(tasks.__getitem__, ledger.lost(worker)):
                reason = (
                    f"RunError: {DEATHS} workers died while they ran this question, the last with no other. Too little "
                    "memory, or a crash in a library; the logs of Ray may say more."
                )
                yield [plan.record(Episode(task.id, task.question.text, (), None, None, error=reason), task)]
            continue
        if records := [record for record in reply.records if ledger.ended(worker, record["id"])]:
            yield records
        reply.check()


class _Pool:
    """The workers of a run. Each is idle or has one call in progress; one that dies is replaced."""

    def __init__(self, ray: Any, size: int, gpus: float, arguments: tuple[Any, ...]) -> None:
        self._ray = ray
        self._size = size
        self._gpus = gpus
        # The ledger decides what to run after a death: Ray would run the same questions again, deadly or not.
        self._actor = ray.remote(Player).options(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        self._arguments = arguments
        self._actors: dict[int, Any] = {}
        self._started: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}
        self._deaths = 0  # since an episode ended

    @property
    def idle(self) -> list[int]:
        return sorted(self._actors.keys() - self._calls.values())

    def start(self) -> None:
        """Start the workers and wait until one is ready; the others follow."""
        for worker in range(self._size):
            self._add(worker)
        while not self.idle:
            _, reply = self.receive()
            if reply is not None:
                reply.check()

    def send(self, worker: int, ids: Sequence[str]) -> None:
        """Let an idle worker continue, with further questions or without."""
        self._calls[self._actors[worker].play.remote(list(ids))] = worker

    def receive(self) -> tuple[int, Reply | None]:
        """Wait for the next reply. Return the worker and its reply, None if that worker died.

        Raises:
            RunError: Too many workers died in a row, or none can start.
        """
        from ray.exceptions import RayError, RayTaskError

        while not (ready := self._ray.wait(list(self._calls), num_returns=1, timeout=_START_SECONDS)[0]):
            # Episodes may take longer than this; but if no worker runs at all, waiting longer is of no use.
            if not self._ray.wait(list(self._started.values()), num_returns=1, timeout=0)[0]:
                raise RunError(
                    f"Ray started no worker in {_START_SECONDS:.0f} s. Each needs 1 CPU and {self._gpus:g} GPUs; "
                    f"{_resources(self._ray)}, some of it perhaps in use."
                )
        [call] = ready
        worker = self._calls.pop(call)
        try:
            reply: Reply = self._ray.get(call)
        except RayTaskError:
            raise  # a bug in a worker keeps its traceback
        except RayError as error:
            self._died(error)
            self._ray.kill(self._actors[worker])  # it may only have been unreachable, and must not run on
            self._add(worker)
            return worker, None
        if reply.records:
            self._deaths = 0
        return worker, reply

    def close(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)

    def _died(self, error: Exception) -> None:
        reason = shorten(str(error).strip().splitlines()[-1], 200)
        if getattr(error, "actor_init_failed", False):
            raise RunError(
                f"A Ray worker cannot start: {reason} Every node needs raggym-env, as it is here."
            ) from error
        self._deaths += 1
        _log.warning("A Ray worker died; its questions run again. Ray says: %s", reason)
        if self._deaths >= _DEATHS_IN_A_ROW * self._size:
            raise RunError(
                f"Workers died {self._deaths} times and no episode ended in between. Ray says of the last: {reason} "
                "If memory is short, use fewer --workers or a smaller --in-flight. What was finished is kept."
            ) from error

    def _add(self, worker: int) -> None:
        self._actors[worker] = actor = self._actor.remote(*self._arguments)
        self._started[worker] = actor.started.remote()
        self.send(worker, [])  # loads the plan


def _resources(ray: Any) -> str:
    total = ray.cluster_resources()
    return f"there are {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs in all"
