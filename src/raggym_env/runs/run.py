"""Run folders: one policy on one split, resumable after a kill at any moment.

A folder holds `run.json` (configuration, provenance and status), `episodes.jsonl` (one line per ended episode,
appended as it ends), `prompts.jsonl` if the prompts are recorded, and nothing else that counts. Scores are always
computed from the episodes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raggym_env.cards import EnvCard, PriceCard, recorded_card
from raggym_env.core import Task
from raggym_env.data.titles import missing_titles
from raggym_env.errors import CardError, MalformedData, OptionError, RunError, shown
from raggym_env.mdp.records import (
    Episode,
    RecordWriter,
    check_episode,
    damaged_lines,
    numbered_records,
    read_episodes,
    repair,
)
from raggym_env.runs.plan import Plan, first_tasks
from raggym_env.runs.prompts import PromptWriter
from raggym_env.storage.parsing import parse_json
from raggym_env.storage.work_folder import FolderKind, locked
from raggym_env.text.exits import for_file_name

__all__ = ["Executor", "LocalExecutor", "Progress", "Run", "execute", "is_finished"]

_log = logging.getLogger(__name__)

_PACKAGES = ("raggym-env", "gymnasium", "numpy", "numba", "rank-bm25", "PyStemmer", "pyarrow")
_RUN = FolderKind("run.json", "run", "raggym eval", _PACKAGES)

_MOST_LISTED = 50  # damaged lines in a message

Json = dict[str, Any]


class _Record(BaseModel):
    """A part of `run.json` as it is read back: types exact, other keys allowed."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Tree(_Record):
    width: int
    depth: int


class _Search(_Record):
    tree: _Tree | None = None


class _Policy(_Record):
    name: str
    options: Json = {}
    search: _Search = _Search()


class _Collect(_Record):
    n: int
    critic: str
    keep: Literal["correct", "all"]
    execute: str
    explore: float
    metric: str


class _Config(_Record):
    """The configuration of a run."""

    environment: Json
    policy: _Policy
    split: str
    limit: Annotated[int, Field(ge=1)] | None
    seed: int
    shuffle_seed: int | None = None
    code: dict[str, str] = {}
    dataset: str
    corpus: str
    retriever: Any
    version: Any
    collect: _Collect | None = None


class _RunFile(_Record):
    """What is read of `run.json`, which may have been edited, or written by something else."""

    config: _Config
    card_path: str
    price: PriceCard | None = None


Progress = Callable[[int, int, Json], None]
"""Called as each episode ends: with the number done, the number of all, and the episode's record.

If it has a method `resume`, that is called before, with the outcomes of the episodes that were recorded earlier."""


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

    @property
    def prompts_file(self) -> Path:
        return self.path / "prompts.jsonl"

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """Open a run folder.

        Raises:
            RunError: The folder holds no run, or one of another format.
        """
        path = Path(path)
        record = _RUN.read(path)
        try:
            price = _RunFile.model_validate(record).price
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise RunError(f"{path / _RUN.file} was changed by hand: {where}: {problem['msg']}.") from error
        return cls(path, record["config"], record["card_path"], price)

    @property
    def status(self) -> str:
        """The status that `run.json` has now: "running", "incomplete" or "complete"; see `write`.

        Raises:
            RunError: It cannot be read, or was changed by hand.
        """
        status = _RUN.read(self.path).get("status")
        if status not in ("running", "incomplete", "complete"):
            raise RunError(f"{self.path / _RUN.file} was changed by hand: status is {shown(status)}.")
        return str(status)

    @property
    def command(self) -> str | None:
        """The command of the shell that made the run, which also resumes it; None if it was made in Python.

        It is what the folder says: somebody else may have written it.
        """
        match _RUN.read(self.path).get("command"):
            case [str(program), "eval" | "collect" as name, *arguments] if Path(program).stem in ("raggym", "__main__"):
                return shlex.join(["raggym", name, *map(str, arguments)])
        return None

    @property
    def card(self) -> EnvCard:
        """The environment card as it was when the run started."""
        try:
            return recorded_card(self.config["environment"], self.card_path)
        except (CardError, TypeError) as error:
            raise RunError(f"{self.path / 'run.json'} was changed by hand: {error}") from error

    def select(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return the tasks of the split that the run covers."""
        return first_tasks(tasks, self.config["limit"], self.config.get("shuffle_seed"))

    def episodes(self) -> list[Episode]:
        """Return the episodes recorded so far, in the order in which they ended.

        Where a question has several records, because it failed and was run again, the last one counts.

        Raises:
            DataError: The file is a link, or not a regular file.
            MalformedData: A line is not the record of an episode. The message says how to keep the others.
        """
        return list(self.iter_episodes())

    def iter_episodes(self) -> Iterator[Episode]:
        """As `episodes`, but yield one at a time: a folder from somebody else may hold any number."""
        if os.path.lexists(self.episodes_file):
            with _advice(self.episodes_file):
                yield from read_episodes(self.episodes_file)

    def records(self) -> list[Json]:
        """Return the records of the episodes as they are written, with the fields that process data adds.

        Errors are those of `episodes`.
        """
        return [record for _, record in self.numbered_records()]

    def numbered_records(self) -> list[tuple[int, Json]]:
        """As `records`, each with the number of its line."""
        if not os.path.lexists(self.episodes_file):
            return []
        with _advice(self.episodes_file):
            records = list(numbered_records(self.episodes_file))
            for number, record in records:
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


@contextmanager
def _advice(file: Path) -> Iterator[None]:
    """Add to the error of a damaged line how to keep the others."""
    try:
        yield
    except MalformedData as error:
        lines = damaged_lines(file)
        numbers = "".join(f"{number}d;" for number in lines[:_MOST_LISTED])
        which = f"the first {_MOST_LISTED} of {len(lines):,}" if len(lines) > _MOST_LISTED else "the"
        error.args = (
            f"{error}. To keep the other episodes, delete {which} damaged lines: `sed -i.bak '{numbers}' "
            f"{shlex.quote(str(file))}` does, and keeps the old file as {file.name}.bak. The command that made the run "
            "then runs their questions again.",
        )
        raise


class Executor(Protocol):
    """Runs the episodes of a plan, in this process or elsewhere."""

    def episodes(self, plan: Plan, tasks: Sequence[Task]) -> AbstractContextManager[Iterator[list[Json]]]:
        """Return a context that yields the records of the tasks' episodes as they end, those at the same time together.

        Whatever can fail for the whole run, such as loading a model or starting workers, is done by the call or on
        entering the context, before the first record.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Runs episodes in this process."""

    in_flight: int = 32
    """Episodes that run side by side."""

    def episodes(self, plan: Plan, tasks: Sequence[Task]) -> AbstractContextManager[Iterator[list[Json]]]:
        """See `Executor.episodes`. The policy is made when this is called, before the context is entered."""
        return nullcontext(plan.batches(plan.make_policy(), tasks, self.in_flight))


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
    config = _recordable(plan.config)
    folder = Path(out) if out is not None else _default_folder(config)
    is_new = not folder.exists()
    run = _open(folder, config, str(plan.mdp.card.path), len(plan.mdp.tasks))
    # A price given later prices a finished run; one recorded before is kept.
    run = replace(run, price=plan.price or run.price)
    with _named_if_interrupted(folder), locked(run.path), _removed_if_unused(folder) if is_new else nullcontext():
        # First of all: appending behind half a line would spoil two records.
        repair(run.episodes_file)
        ids = {task.id for task in plan.tasks}
        # The last record of a question counts. One that failed has no outcome, and is run again.
        outcomes = {episode.id: episode.outcome for episode in run.iter_episodes() if episode.id in ids}
        remaining = [task for task in plan.tasks if outcomes.get(task.id) is None]
        if resume := getattr(progress, "resume", None):
            resume([outcome for outcome in outcomes.values() if outcome is not None])
        if remaining and (problem := missing_titles(plan.mdp.dataset)):
            _log.warning("%s", problem)
        context = executor.episodes(plan, remaining) if remaining else nullcontext(iter(()))
        if plan.spec.record_prompts:
            context = _without_prompts(context, run.prompts_file)
        with context as batches, RecordWriter(run.episodes_file) as writer:
            unfinished = _write(run, batches, writer, (len(remaining), len(plan.tasks)), progress)
        run.write("incomplete" if unfinished else "complete")
    return run


def is_finished(out: str | Path | None) -> bool:
    """True if a folder holds a complete run, which executing its plan again leaves as it is.

    Raises:
        RunError: The folder holds something else, or a run that cannot be read.
    """
    if out is None:
        return False
    _RUN.check_free(Path(out))
    return (Path(out) / _RUN.file).exists() and Run.read(out).status == "complete"


@contextmanager
def _without_prompts(
    context: AbstractContextManager[Iterator[list[Json]]], file: Path
) -> Iterator[Iterator[list[Json]]]:
    """Move the prompts of the records that a context yields into their own file."""
    with context as batches, PromptWriter(file) as writer:

        def records() -> Iterator[list[Json]]:
            for batch in batches:
                writer.take_from(batch)
                yield batch

        yield records()


def _write(
    run: Run, batches: Iterator[list[Json]], writer: RecordWriter, counts: tuple[int, int], progress: Progress | None
) -> int:
    """Append the records as they come. Return the number of questions that remain without a score.

    `counts` are the number of questions without a score at first, and that of all questions.
    """
    unfinished, total = counts
    completed = total - unfinished
    for number, batch in enumerate(batches):
        if number == 0:
            # Not earlier: a policy whose first call raises must not leave a run that refuses the corrected one.
            run.write("running")
        writer.append(batch)
        for record in batch:
            completed += 1
            unfinished -= record["error"] is None
            if progress is not None:
                progress(completed, total, record)
    return unfinished


def _recordable(config: Json) -> Json:
    """Return the configuration as it will be read back: tuples as lists, surrogates mended.

    Raises:
        OptionError: It has a value without a JSON form, such as an infinite number.
    """
    try:
        content: Json = parse_json(json.dumps(config, allow_nan=False))
        _Config.model_validate(content)
    except (TypeError, ValueError) as error:
        raise OptionError(f"The settings of a run are written as JSON, which these are not: {error}.") from error
    return content


@contextmanager
def _named_if_interrupted(folder: Path) -> Iterator[None]:
    """Add the run folder to the message of an interruption, such as Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        if (folder / _RUN.file).exists():
            error.add_note(f"Run folder: {folder}")
        raise


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


def _open(path: Path, config: Json, card_path: str, questions: int) -> Run:
    if not _RUN.exists(path):
        return Run(path, config, card_path)
    run = Run.read(path)
    if "fingerprint" in config["policy"] and config["policy"]["fingerprint"] is None:
        raise RunError(
            f"{path} already holds a run, and the policy object has no `fingerprint` that would tell whether it is the "
            "same policy. Give it one, choose another out, or delete that folder."
        )
    # Older versions recorded a limit that left nothing out.
    has_all = run.config["limit"] is not None and run.config["limit"] >= questions
    _RUN.require_same(path, {**run.config, "limit": None} if has_all else run.config, config)
    return run
