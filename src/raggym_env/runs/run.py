"""Run folders: one policy on one split, resumable after a kill at any moment.

A folder holds `run.json` (configuration, provenance and status), `episodes.jsonl` (one line per ended episode,
appended as it ends) and nothing else that counts. Scores are always computed from the episodes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from raggym_env.cards import EnvCard, PriceCard, recorded_card
from raggym_env.core import Task
from raggym_env.errors import CardError, RunError
from raggym_env.mdp.records import Episode, append_record, check_episode, read_episodes, read_records, repair
from raggym_env.runs.plan import Plan, first_tasks
from raggym_env.storage.work_folder import FolderKind, locked
from raggym_env.text.exits import for_file_name

__all__ = ["Executor", "LocalExecutor", "Progress", "Run", "execute"]

_CONFIG = {"environment", "policy", "split", "limit", "seed", "dataset", "corpus", "retriever", "version"}
_PACKAGES = ("raggym-env", "gymnasium", "numpy", "numba", "rank-bm25", "PyStemmer", "pyarrow")
_RUN = FolderKind("run.json", "run", "raggym eval", _PACKAGES)

Json = dict[str, Any]
Progress = Callable[[int, int, Json], None]
"""Called as each episode ends: with the number done, the number of all, and the episode's record."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder."""

    path: Path
    config: Json = field(repr=False)
    """The configuration: two runs with the same config are the same run."""
    card_path: str = field(default="", repr=False)
    """Path of the environment card. Not part of the configuration, but the data may be beside the card."""
    price: PriceCard | None = field(default=None, repr=False)
    """Price of the policy's model, if it has one."""

    @property
    def episodes_file(self) -> Path:
        return self.path / "episodes.jsonl"

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """Open a run folder.

        Raises:
            RunError: The folder holds no run, or one of another format.
        """
        path = Path(path)
        record = _RUN.read(path)
        config, card_path = record.get("config"), record.get("card_path")
        # run.json may have been edited, or written by something else.
        if not isinstance(config, dict) or not isinstance(card_path, str) or not config.keys() >= _CONFIG:
            raise RunError(f"{path / 'run.json'} was changed by hand: its config is incomplete.")
        price = record.get("price")
        return cls(path, config, card_path, None if price is None else PriceCard.model_validate(price))

    @property
    def card(self) -> EnvCard:
        """The environment card as it was when the run started."""
        try:
            return recorded_card(self.config["environment"], self.card_path)
        except (CardError, TypeError) as error:
            raise RunError(f"{self.path / 'run.json'} was changed by hand: {error}") from error

    def select(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return the tasks of the split that the run covers."""
        return first_tasks(tasks, self.config["limit"])

    def episodes(self) -> list[Episode]:
        """Return the episodes recorded so far, in the order in which they ended.

        Raises:
            MalformedData: A line is not the record of an episode.
        """
        return list(read_episodes(self.episodes_file)) if self.episodes_file.exists() else []

    def records(self) -> list[Json]:
        """Return the records of the episodes as they are written, with the fields that process data adds.

        Raises:
            MalformedData: A line is not the record of an episode.
        """
        records = list(read_records(self.episodes_file)) if self.episodes_file.exists() else []
        for number, record in enumerate(records, 1):
            check_episode(record, self.episodes_file, f"line {number}")
        return records

    def write(self, status: str, scores: Mapping[str, Sequence[float]] | None = None) -> None:
        """Write `run.json`, whole or not at all.

        Args:
            status: "running", "incomplete" (some episodes failed) or "complete".
            scores: Each metric's mean and interval. For people who look into the folder; the leaderboard computes
                its own scores.
        """
        content: Json = {
            "status": status,
            "config": self.config,
            "card_path": self.card_path,
            "price": self.price and self.price.model_dump(),
        }
        if scores is not None:
            content["scores"] = {name: list(estimate) for name, estimate in scores.items()}
        _RUN.write(self.path, content)


class Executor(Protocol):
    """Runs the episodes of a plan, in this process or elsewhere."""

    def episodes(self, plan: Plan, tasks: Sequence[Task]) -> AbstractContextManager[Iterator[Json]]:
        """Return a context that yields the records of the tasks' episodes as they end.

        Whatever can fail for the whole run, such as loading a model or starting workers, is done by the call or on
        entering the context, before the first record.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Runs episodes in this process."""

    in_flight: int = 32
    """Episodes that run side by side."""

    def episodes(self, plan: Plan, tasks: Sequence[Task]) -> AbstractContextManager[Iterator[Json]]:
        """See `Executor.episodes`. The policy is made when this is called, before the context is entered."""
        return nullcontext(plan.episodes(plan.make_policy(), tasks, self.in_flight))


def execute(plan: Plan, executor: Executor, out: str | Path | None = None, *, progress: Progress | None = None) -> Run:
    """Run a plan in a run folder, or resume a run that was interrupted.

    Args:
        plan: The policy, the tasks and the settings.
        executor: Runs the episodes.
        out: Run folder. By default one below `runs/`, named after the configuration.
        progress: Called as each episode ends.

    Returns:
        The run. Its status is "complete", or "incomplete" where episodes failed; running it again tries them again.

    Raises:
        RunError: `out` holds something else, or another process is writing to it.
    """
    card_path = str(plan.mdp.card.path)
    folder = Path(out) if out is not None else _default_folder(plan.config)
    is_new = not folder.exists()
    run = _open(folder, plan.config, card_path)
    # A price given later prices a finished run; one recorded before is kept.
    run = replace(run, price=plan.price or run.price)
    with locked(run.path), _removed_if_unused(folder) if is_new else nullcontext():
        # First of all: appending behind half a line would spoil two records.
        repair(run.episodes_file)
        finished = {episode.id for episode in run.episodes() if episode.error is None}
        remaining = [task for task in plan.tasks if task.id not in finished]
        unfinished = len(remaining)
        with executor.episodes(plan, remaining) if remaining else nullcontext(iter(())) as records:
            for number, record in enumerate(records, 1):
                if number == 1:
                    # Not earlier: a policy whose first call raises must not leave a run that refuses the corrected one.
                    run.write("running")
                append_record(run.episodes_file, record)
                unfinished -= record["error"] is None
                if progress is not None:
                    progress(len(finished) + number, len(plan.tasks), record)
        run.write("incomplete" if unfinished else "complete")
    return run


@contextmanager
def _removed_if_unused(folder: Path) -> Iterator[None]:
    """Remove the folder if the block fails before it has written `run.json`, for example because a name is wrong."""
    try:
        yield
    except BaseException:
        if not (folder / _RUN.file).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _default_folder(config: Json) -> Path:
    # The digest keeps runs with other settings apart, and finds the same run again.
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4).hexdigest()
    # A policy object may have any name, such as one with slashes.
    names = (config["environment"]["name"], config["split"], config["policy"]["name"])
    return Path("runs") / "_".join((*map(for_file_name, names), digest))


def _open(path: Path, config: Json, card_path: str) -> Run:
    if not _RUN.exists(path):
        return Run(path, config, card_path)
    run = Run.read(path)
    if "fingerprint" in config["policy"] and config["policy"]["fingerprint"] is None:
        raise RunError(
            f"{path} already holds a run, and the policy object has no `fingerprint` that would tell whether it is the "
            "same policy. Give it one, choose another out, or delete that folder."
        )
    _RUN.require_same(path, run.config, config)
    return run
