"""Loading one split of a card's data set: its tasks and its corpus."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raggym_env.cards import DatasetCard, EnvCard, Source, env_card
from raggym_env.core import Task
from raggym_env.data.formats import read_tasks
from raggym_env.data.hub import HubName
from raggym_env.data.prepare import (
    CorpusSource,
    contexts_source,
    file_source,
    hub_source,
    prepare_corpus,
    world_source,
)
from raggym_env.data.sources import Located, locate, no_corpus, not_found
from raggym_env.data.synth.cached_tasks import cached_tasks
from raggym_env.errors import CardError, DataNotFound, MissingExtra, UnknownName

if TYPE_CHECKING:
    from raggym_env.data.corpus import Corpus
    from raggym_env.data.synth import SynthWorld

__all__ = ["Dataset", "TaskSet", "load", "load_tasks", "tasks_fingerprint"]


@dataclass(frozen=True, kw_only=True)
class TaskSet:
    """The tasks of one split."""

    card: EnvCard
    split: str
    tasks: Sequence[Task]
    source: str
    """What was read: the questions, the rows of them and the corpus."""
    fingerprint: str
    """Hash of the tasks' content; see `tasks_fingerprint`."""


@dataclass(frozen=True, kw_only=True)
class Dataset(TaskSet):
    """The tasks of one split and the corpus to search."""

    corpus: Corpus


def load(card: EnvCard | str | Path, split: str | None = None, *, root: Path | None = None) -> Dataset:
    """Load a split's tasks and open its corpus, preparing the corpus the first time.

    A split's sources are tried in the card's order; the first whose files are all in one place is read. The places
    are those of `raggym_env.data.sources.places`, then the Hugging Face hub for sources that name it.

    Where two splits take the first and the last rows of one file, they never overlap: the last rows are taken
    whole and the first rows are what is left of a file that is too short for both.

    Args:
        card: An environment card, its name or its path.
        split: Name of a split; None for the card's default.
        root: Look for files there and nowhere else.

    Raises:
        UnknownName: No card or no split has that name.
        DataNotFound: No place has the files. The message says what was looked for where and how to get it.
        MalformedData: A file was found and is not what its format says.
        CardError: The card cannot be read, or its sources make no sense.
    """
    found = find(card, split, root=root)
    return Dataset(**vars(found.task_set), corpus=found.prepare())


def load_tasks(card: EnvCard | str | Path, split: str | None = None, *, root: Path | None = None) -> TaskSet:
    """The tasks that `load` gives, with the corpus neither prepared nor opened. Arguments and errors as there."""
    return find(card, split, root=root).task_set


def tasks_fingerprint(tasks: Sequence[Task]) -> str:
    """Hash of the tasks' ids, questions, options and answers, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for task in tasks:
        question = task.question
        content = (question.id, question.text, question.options, task.answers, task.correct)
        digest.update(json.dumps(content).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class Found:
    """A split whose source was found and whose tasks were read."""

    task_set: TaskSet
    at: Located | SynthWorld

    def corpus_source(self) -> CorpusSource:
        """What its corpus is prepared from."""
        if not isinstance(self.at, Located):
            return world_source(self.at)
        if isinstance(self.at.corpus, HubName):
            return hub_source(self.at.corpus)
        if self.at.corpus is not None:
            return file_source(self.at.corpus)
        return contexts_source(self.at.questions, self.task_set.card.dataset.format)

    def prepare(self) -> Corpus:
        """Its corpus, prepared the first time.

        Raises:
            DataNotFound: The corpus is on the hub and cannot be had. The message says why, and what else would do.
            MalformedData: The corpus was found and is not what its form says.
        """
        try:
            return prepare_corpus(self.corpus_source())
        except (DataNotFound, MissingExtra) as error:
            if isinstance(self.at, Located) and isinstance(self.at.corpus, HubName):
                raise no_corpus(self.task_set.card, self.task_set.split, self.at, str(error)) from error
            raise


def find(card: EnvCard | str | Path, split: str | None, *, root: Path | None = None, use_hub: bool = True) -> Found:
    """Read a split's tasks from its first source that is there; `load` says how and what is raised."""
    card = env_card(card)
    split = card.dataset.default_split if split is None else split
    if split not in card.dataset.splits:
        raise UnknownName(f"split of {card.name}", split, card.dataset.splits)
    if card.dataset.format == "synth":
        return _generated(card, split)
    reasons: list[str] = []
    spoken_for: set[str] = set()
    for source in card.dataset.splits[split]:
        try:
            at = locate(card, source, root=root, use_hub=use_hub)
        except DataNotFound as error:
            reasons.append(str(error))
            continue
        everything = read_tasks(at.questions, card.dataset.format)
        reserved = _reserved(card.dataset, split, source)
        tasks = [task for task in _rows(everything, source.rows, reserved) if task.id not in spoken_for]
        if tasks:
            return Found(_task_set(card, split, tasks, str(at)), at)
        reasons.append(f"{at.questions} has {len(everything)} questions and another split takes all of them")
        # Another file of the data set may hold the same questions: they stay with the other split.
        spoken_for.update(task.id for task in everything)
    raise not_found(card, split, reasons)


def _task_set(card: EnvCard, split: str, tasks: Sequence[Task], source: str) -> TaskSet:
    return TaskSet(
        card=card,
        split=split,
        tasks=tuple(tasks),
        source=source,
        fingerprint=tasks_fingerprint(tasks),
    )


def _reserved(dataset: DatasetCard, split: str, source: Source) -> int:
    """How many last rows of the source's questions the other splits take."""
    others = (
        other
        for name, sources in dataset.splits.items()
        for other in sources
        if name != split and other.questions == source.questions
    )
    return max((_count(other.rows) for other in others if other.rows.startswith("last ")), default=0)


def _rows(tasks: Sequence[Task], rows: str, reserved: int) -> Sequence[Task]:
    if rows == "all":
        return tasks
    if rows.startswith("last "):
        return tasks[-_count(rows) :]
    if rows.startswith("after "):
        return tasks[_count(rows) :]
    return tasks[: max(0, min(_count(rows), len(tasks) - reserved))]


def _count(rows: str) -> int:
    return int(rows.split()[1])


def _generated(card: EnvCard, split: str) -> Found:
    source = card.dataset.splits[split][0]
    if not source.rows.startswith("first "):
        raise CardError(f"{card.path}: a generated stream is endless: give its rows as 'first N', not {source.rows!r}.")
    if not re.fullmatch(r"[\w-]+", source.questions):
        raise CardError(f"{card.path}: a question stream is named in letters and digits, not {source.questions!r}.")
    options = card.dataset.options
    if not set(options) <= {"passages", "seed"} or not all(type(value) is int for value in options.values()):
        raise CardError(f"{card.path}: options of a synthetic world are integers passages and seed, given: {options}.")
    from raggym_env.data.synth import SynthWorld

    world = SynthWorld(**options)
    tasks = cached_tasks(world, source.questions, _count(source.rows))
    words = " ".join(f"{name}={value}" for name, value in options.items())
    read = f"synthetic world ({words}), {source.questions} ({source.rows})"
    return Found(_task_set(card, split, tasks, read), world)
