"""Process data: trajectories with every candidate action of every state, as one JSON object per line.

The line of a trajectory is the record of its episode (`raggym_env.mdp.records`) with what training needs in addition:
the texts of passages, the prompt of each step, and for every candidate that answers its score by the environment's
metric. States are not stored; they follow from the question and the steps.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from raggym_env.core import Action, Answer, Question, State, Task, Turn
from raggym_env.errors import DataError, MalformedData, RunError, check_option
from raggym_env.mdp.metrics import score as metric_score
from raggym_env.mdp.records import Candidate, Episode, typed_fields
from raggym_env.runs.run import Run
from raggym_env.storage.parsing import ParseError, open_file

__all__ = [
    "AnyCollection",
    "Collection",
    "Trajectory",
    "TrajectoryStep",
    "WeightedCollection",
    "drawn",
    "trajectory_to_json",
]

Json = dict[str, Any]
T = TypeVar("T")


class TrajectoryStep(NamedTuple):
    """A state of a trajectory, its candidates and the action that was executed."""

    state: State
    candidates: tuple[Candidate, ...] = ()
    """Distinct candidates, best score first. All have an action and a score."""
    action: Action | None = None
    """The executed action; None for a state in which none was executed yet."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The prompt that the executed action replies to; empty for policies without prompts. If the policy was asked to
    repeat an unreadable reply, that reply and the request are at the end."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One question from its first state to its last action."""

    question: Question
    steps: tuple[TrajectoryStep, ...]
    answer: str | None
    """The answer that counts; None if the episode ended without one."""
    outcome: float
    """The answer's score in [0, 1] by the collection's metric; 0 without an answer."""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Trajectory:
        """Read a record made by `trajectory_to_json`.

        Raises:
            DataError: A field is missing or has the wrong type; the message names it.
        """
        episode = Episode.from_json(record)
        own = typed_fields(record, {"max_searches": "a count", "outcome": "an amount", "options": "a list"})
        for option in own["options"]:
            if type(option) is not str:
                raise DataError(f"field 'options' must be a list of strings, got {option!r:.80}")
        if len(own["options"]) > len(string.ascii_uppercase) or own["outcome"] > 1:
            raise DataError("field 'options' must have at most 26 items, and 'outcome' must be in [0, 1]")
        # States are replayed from the steps rather than stored: each repeats all passages before it.
        question = Question(episode.id, episode.question, tuple(own["options"]))
        state = State(question, (), own["max_searches"])
        steps = []
        for step in episode.steps:
            # Outputs that could not be parsed, and scores that were not finite, teach nothing.
            scored = (option for option in step.candidates if option.action is not None and option.score is not None)
            steps.append(TrajectoryStep(state, tuple(scored), step.action, step.messages))
            # An answer, and a search beyond the budget, end the episode: the state that they lead to is not used.
            if not isinstance(step.action, Answer) and state.searches_left > 0:
                turn = Turn(step.action.query, step.passages)
                state = State(question, (*state.history, turn), state.searches_left - 1)
        return cls(question, tuple(steps), episode.answer, float(own["outcome"]))


def trajectory_to_json(episode: Episode, task: Task, max_searches: int, metric: str) -> Json:
    """Return the record of an episode with its outcome and those of its candidates, by the name of a metric."""

    # Here, and not when rows are made: only the environment's task has the gold answers.
    def graded(candidate: Candidate) -> Candidate:
        if not isinstance(candidate.action, Answer):
            return candidate
        return candidate._replace(outcome=metric_score(metric, candidate.action.text, task))

    steps = tuple(replace(step, candidates=tuple(map(graded, step.candidates))) for step in episode.steps)
    record = {**replace(episode, steps=steps).to_json(full=True), "options": list(task.question.options)}
    outcome = None if episode.error is not None else metric_score(metric, episode.answer, task)
    return {**record, "max_searches": max_searches, "outcome": outcome}


@dataclass(frozen=True, slots=True)
class Collection:
    """A folder of process data: a run folder whose records are trajectories."""

    run: Run

    @classmethod
    def read(cls, path: str | Path) -> Collection:
        """Open a folder made by `raggym collect`.

        Raises:
            RunError: The folder holds no process data.
        """
        # Checked before `Run.read`, whose message would point to `raggym eval`.
        if not os.path.lexists(Path(path) / "run.json"):
            raise RunError(f"{path} holds no process data: it has no run.json. `raggym collect` makes such folders.")
        run = Run.read(path)
        if "collect" not in run.config:
            raise RunError(f"{path} is a run of `raggym eval`, not process data. Make some with `raggym collect`.")
        return cls(run)

    @property
    def settings(self) -> Json:
        """The settings it was collected with: `n`, `critic`, `keep`, `execute`, `explore`, `metric`."""
        settings: Json = self.run.config["collect"]
        return settings

    @property
    def sha256(self) -> str:
        """Checksum of the records written so far."""
        path = self.run.episodes_file
        if not os.path.lexists(path):
            return hashlib.sha256().hexdigest()
        try:
            with open_file(path, follow_links=False) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except ParseError as error:
            raise DataError(f"{path} cannot be read: {error}.") from error

    def trajectories(self, *, kept: bool = True) -> Iterator[Trajectory]:
        """Yield the trajectories of episodes that ended, sorted by the question's id.

        The order does not depend on which episode ended first, so neither do the rows that are made of them.

        Args:
            kept: True for the trajectories that pass `keeps`; False for all.

        Raises:
            MalformedData: A record was changed by hand.
        """
        for number, record in self._latest():
            if record["error"] is not None:
                continue
            try:
                trajectory = Trajectory.from_json(record)
            except DataError as error:
                raise MalformedData(self.run.episodes_file, f"line {number}", f"no trajectory: {error}") from error
            if not kept or self.keeps(trajectory):
                yield trajectory

    @property
    def failed(self) -> int:
        """Number of questions whose episode failed, e.g. by an outage. The same `raggym collect` retries them."""
        return sum(record["error"] is not None for _, record in self._latest())

    def _latest(self) -> list[tuple[int, Json]]:
        """Return the last record of each question with the number of its line, sorted by the question's id.

        A question whose episode failed and was run again has several records.
        """
        records = {record["id"]: (number, record) for number, record in self.run.numbered_records()}
        return [records[question] for question in sorted(records)]

    def keeps(self, trajectory: Trajectory) -> bool:
        """True if a trajectory passes the filter of the collection, `keep`: "correct" requires an outcome of 1."""
        return self.settings["keep"] == "all" or trajectory.outcome >= 1.0


@dataclass(frozen=True, slots=True)
class WeightedCollection:
    """A collection in a mixture of several, and how much of it is used.

    Raises:
        OptionError: The weight is out of range.
    """

    collection: Collection
    weight: float = 1.0
    """Share of its trajectories that is used, above 0 and at most 100. Above 1 trajectories are repeated: with 2.5
    each is used twice, and half of them a third time."""

    def __post_init__(self) -> None:
        valid = isinstance(self.weight, int | float) and 0 < self.weight <= 100
        check_option("weight", self.weight, valid, "a number above 0 and at most 100")

    @classmethod
    def read(cls, source: AnyCollection) -> WeightedCollection:
        """Return the collection that a folder, "FOLDER:WEIGHT" or a collection stands for.

        Raises:
            RunError: The folder holds no process data.
            OptionError: The weight is not a number, or out of range.
        """
        if isinstance(source, WeightedCollection):
            return source
        if not isinstance(source, str | Path):
            return cls(source)
        folder, colon, weight = str(source).rpartition(":")
        # A folder's own name may have a colon.
        if not colon or os.path.lexists(source):
            return cls(Collection.read(source))
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        check_option(f"the weight of {folder}", weight, 0 < value <= 100, "a number above 0 and at most 100")
        return cls(Collection.read(folder), value)

    def trajectories(self, *, kept: bool = True, limit: int | None = None, seed: int = 0) -> list[Trajectory]:
        """Return the share of the trajectories, which a seed draws.

        Args:
            kept: As for `Collection.trajectories`.
            limit: Draw among the first `limit` of them only.
            seed: Seed of the draw.
        """
        return drawn(list(self.collection.trajectories(kept=kept))[:limit], self.weight, seed)


AnyCollection = str | Path | Collection | WeightedCollection
"""A collection, its folder, or "FOLDER:WEIGHT"."""


def drawn(items: Sequence[T], weight: float, seed: int) -> list[T]:
    """Return `weight` times as many items, in order: all as often as possible, and a random sample once more.

    If there are items, at least one is returned.

    >>> drawn("abcd", 1.0, 0), len(drawn("abcd", 0.5, 0)), len(drawn("abcd", 2.25, 0))
    (['a', 'b', 'c', 'd'], 2, 9)
    """
    count = max(1, round(weight * len(items))) if items else 0
    once_more = set(random.Random(seed).sample(range(len(items)), count % len(items))) if items else set()
    times = count // len(items) if items else 0
    return [item for place, item in enumerate(items) for _ in range(times + (place in once_more))]
