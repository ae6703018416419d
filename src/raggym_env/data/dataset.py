"""Load one split of a card's data set: its questions with their answers, and the corpus to search."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raggym_env.cards import EnvCard, env_card
from raggym_env.core import Task
from raggym_env.data.corpus import Corpus
from raggym_env.data.formats import read_tasks
from raggym_env.data.hub import HubName, hub_records
from raggym_env.data.passages import as_passages
from raggym_env.data.prepare import CorpusSource, contexts_source, file_source, prepare_corpus
from raggym_env.data.row_lists import listed
from raggym_env.data.sources import Located, locate, no_corpus, not_found
from raggym_env.data.synth import SynthWorld
from raggym_env.data.synth.cached_tasks import cached_tasks
from raggym_env.errors import CardError, DataNotFound, MissingExtra, UnknownName, check_option

__all__ = ["Dataset", "TaskSet", "load", "load_tasks", "split_name", "tasks_fingerprint"]

_MOST_GENERATED = 1_000_000  # rows, which take about a gigabyte of the cache


@dataclass(frozen=True, kw_only=True)
class TaskSet:
    """The tasks of one split, without a corpus."""

    card: EnvCard
    split: str
    tasks: Sequence[Task]
    source: str
    """Description of what was read: questions file, rows and corpus."""
    fingerprint: str
    """Hash of the tasks' content, computed by `tasks_fingerprint`. A run records it, so that it is not resumed on
    other questions."""


@dataclass(frozen=True, kw_only=True)
class Dataset(TaskSet):
    """The tasks of one split and the corpus to search."""

    corpus: Corpus
    """Opened, and memory-mapped rather than loaded."""


def load(card: EnvCard | str | Path, split: str | None = None, *, root: Path | None = None) -> Dataset:
    """Load a split's tasks and open its corpus, preparing the corpus on first use.

    Sources are tried in the card's order; the split is read from the first source whose files all lie in one folder.
    The folders searched are those of `raggym_env.data.sources.places`, followed by the Hugging Face hub for sources
    that name it.

    Splits that take the first and the last rows of the same file never overlap: in a file too short for both, the
    "last" split gets all of its rows and the "first" split gets the rest.

    Args:
        card: An environment card, its name or its path.
        split: Name of a split; None for the card's default split.
        root: Search for files in this folder only.

    Raises:
        UnknownName: No card or no split has that name.
        DataNotFound: No source is complete. The message lists what is missing in which folder and how to get it.
        MalformedData: A file exists but does not follow its format.
        DataError: The split takes listed rows of a complete questions file, and the file is another one.
        CardError: The card cannot be read, or its sources are invalid.
    """
    resolved = resolve_split(card, split, root=root)
    return Dataset(**vars(resolved.task_set), corpus=resolved.prepare())


def load_tasks(
    card: EnvCard | str | Path, split: str | None = None, *, root: Path | None = None, use_hub: bool = True
) -> TaskSet:
    """Load a split's tasks without preparing or opening its corpus. Arguments and errors are those of `load`.

    With `use_hub` false nothing is downloaded; rows that were downloaded before are used.
    """
    return resolve_split(card, split, root=root, use_hub=use_hub).task_set


def tasks_fingerprint(tasks: Sequence[Task]) -> str:
    """Return a hash of the tasks' ids, questions, options and answers, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for task in tasks:
        question = task.question
        content = (question.id, question.text, question.options, task.answers, task.correct)
        digest.update(json.dumps(content).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class ResolvedSplit:
    """A split's tasks, and the files or the generated world that they were read from."""

    task_set: TaskSet
    origin: Located | SynthWorld

    def corpus_source(self) -> CorpusSource:
        """Return the source that the split's corpus is prepared from."""
        if isinstance(self.origin, SynthWorld):
            return CorpusSource("synthetic world", ("synth", self.origin.fingerprint), self.origin.passages)
        corpus = self.origin.corpus
        if isinstance(corpus, HubName):
            name = str(corpus)
            return CorpusSource(name, ("hub", *corpus), lambda: as_passages(hub_records(corpus), Path(name)))
        if corpus is None:
            return contexts_source(self.origin.questions, self.task_set.card.dataset.format)
        return file_source(corpus)

    def prepare(self) -> Corpus:
        """Open the split's corpus, preparing it on first use.

        Raises:
            DataNotFound: The corpus is on the hub and cannot be downloaded. The message says why, and which corpus
                files would do instead.
            MalformedData: The corpus does not follow its format.
        """
        try:
            return prepare_corpus(self.corpus_source())
        except (DataNotFound, MissingExtra) as error:
            if isinstance(self.origin, Located) and isinstance(self.origin.corpus, HubName):
                raise no_corpus(self.task_set.card, self.task_set.split, self.origin, str(error)) from error
            raise


def resolve_split(
    card: EnvCard | str | Path, split: str | None, *, root: Path | None = None, use_hub: bool = True
) -> ResolvedSplit:
    """Read a split's tasks from its first complete source. Arguments and errors are those of `load`.

    With `use_hub` false nothing is downloaded; rows that were downloaded before are used.
    """
    card = env_card(card)
    split = split_name(card, split)
    if card.dataset.format == "synth":
        return _generated(card, split)
    reasons: list[str] = []
    taken_ids: set[str] = set()
    for source in card.dataset.sources_of(split):
        try:
            located = locate(card, source, root=root, use_hub=use_hub)
        except DataNotFound as error:
            reasons.append(str(error))
            continue
        # A malformed file is an error and does not count as a missing one: the next source could hold other
        # questions, and scores would change without a word.
        in_file = read_tasks(located.questions, card.dataset.format)
        # The last rows of the file that belong to other splits.
        others = (other for name in card.dataset.splits if name != split for other in card.dataset.sources_of(name))
        same_file = (other.rows for other in others if other.questions == source.questions)
        reserved = max((_count(rows) for rows in same_file if rows.startswith("last ")), default=0)
        selected = _select(in_file, source.rows, reserved, located.questions)
        tasks = [task for task in selected if task.id not in taken_ids]
        if tasks:
            return ResolvedSplit(_task_set(card, split, tasks, str(located)), located)
        reasons.append(f"{located.questions} has {len(in_file)} questions and another split takes all of them")
        # Other files of the data set may hold the same questions under the same ids. The other split keeps them.
        taken_ids.update(task.id for task in in_file)
    raise not_found(card, split, reasons)


def split_name(card: EnvCard, split: str | None) -> str:
    """Return the name of a split; None stands for the card's default split.

    Raises:
        UnknownName: The card has no such split.
    """
    split = card.dataset.default_split if split is None else split
    check_option("split", split, isinstance(split, str), "a name")
    if split not in card.dataset.splits:
        raise UnknownName(f"split of {card.name}", split, card.dataset.splits)
    return split


def _task_set(card: EnvCard, split: str, tasks: Sequence[Task], source: str) -> TaskSet:
    return TaskSet(card=card, split=split, tasks=tuple(tasks), source=source, fingerprint=tasks_fingerprint(tasks))


def _select(tasks: Sequence[Task], rows: str, reserved: int, path: Path) -> Sequence[Task]:
    if rows == "all":
        return tasks
    if rows.startswith("listed "):
        return listed(rows.split()[1], tasks, path)
    if rows.startswith("last "):
        return tasks[-_count(rows) :]
    if rows.startswith("after "):
        return tasks[_count(rows) :]
    # Test questions matter more than training questions, so "first" is the one that gives way in a short file.
    return tasks[: max(0, min(_count(rows), len(tasks) - reserved))]


def _count(rows: str) -> int:
    return int(rows.split()[1])


def _generated(card: EnvCard, split: str) -> ResolvedSplit:
    source = card.dataset.sources_of(split)[0]
    if not source.rows.startswith("first "):
        raise CardError(f"{card.path}: a generated stream is endless: give its rows as 'first N', not {source.rows!r}.")
    # They are stored in the cache, and a run folder from somebody else may name any number.
    if _count(source.rows) > _MOST_GENERATED:
        raise CardError(f"{card.path}: a generated split has at most {_MOST_GENERATED:,} rows, not {source.rows!r}.")
    # The name becomes part of a file name in the cache.
    if not re.fullmatch(r"[\w-]+", source.questions):
        raise CardError(
            f"{card.path}: the name of a question stream consists of letters, digits, '-' and '_', "
            f"got {source.questions!r}."
        )
    options = card.dataset.options
    # type() rather than isinstance(): True is an int.
    if not set(options) <= {"passages", "seed"} or not all(type(value) is int for value in options.values()):
        raise CardError(f"{card.path}: options of a synthetic world are integers passages and seed, got {options}.")
    world = SynthWorld(**options)
    tasks = cached_tasks(world, source.questions, _count(source.rows))
    settings = " ".join(f"{name}={value}" for name, value in options.items())
    description = f"synthetic world ({settings}), {source.questions} ({source.rows})"
    return ResolvedSplit(_task_set(card, split, tasks, description), world)
