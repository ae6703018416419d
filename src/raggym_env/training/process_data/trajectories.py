"""Process data: trajectories with every candidate action of every state, as one JSON object per line.

The line of a trajectory is the record of its episode (`raggym_env.mdp.records`) with what training needs besides:
passages with their texts, the prompt of each step, and of every candidate that answers its score by the metric of
the environment. States are not written out; they follow from the question and the steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from raggym_env.core import Action, Answer, Passage, Question, State, Task, Turn
from raggym_env.errors import MalformedData, RunError
from raggym_env.mdp.metrics import score as metric_score
from raggym_env.mdp.records import Candidate, Episode, action_from_json
from raggym_env.runs.run import Run

__all__ = ["Choice", "Collection", "Labelled", "Trajectory", "trajectory_to_json"]

Json = dict[str, Any]


class Labelled(NamedTuple):
    """A candidate action, what the critic thought of it and, for an answer, how right it is."""

    action: Action
    score: float
    text: str = ""
    """The raw output it was parsed from; empty for policies that write none."""
    outcome: float | None = None
    """For an answer, its score in [0, 1] by the collection's metric; None for a search. Read from gold answers."""


class Choice(NamedTuple):
    """A state of a trajectory, its distinct candidates (best score first) and the one that was executed."""

    state: State
    candidates: tuple[Labelled, ...]
    action: Action
    messages: tuple[Mapping[str, str], ...] = ()
    """The prompt that the executed action was the reply to; empty for policies that use none. If the policy was asked
    a second time, its first reply and the request are at the end; `rows.Render.prompt` leaves them out."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One question from its first state to its last action."""

    question: Question
    choices: tuple[Choice, ...]
    answer: str | None
    """The answer that counts; None if there is none."""
    outcome: float
    """Its score in [0, 1] by the collection's metric; 0 without an answer."""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Trajectory:
        """Read a record made by `trajectory_to_json`.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        question = Question(record["id"], record["question"], tuple(record["options"]))
        state = State(question, (), record["max_searches"])
        choices = []
        for step in record["steps"]:
            choices.append(_choice(state, step))
            state = _after(state, step)
        return cls(question, tuple(choices), record["answer"], float(record["outcome"]))


def trajectory_to_json(episode: Episode, task: Task, max_searches: int, metric: str) -> Json:
    """The record of an episode with what training needs besides.

    Args:
        episode: An episode whose steps hold their candidates.
        task: Its task, for the scores of the answers among the candidates.
        max_searches: The search budget it began with.
        metric: What answers are scored by.
    """
    record = episode.to_json()
    for step, written in zip(episode.steps, record["steps"], strict=True):
        if step.passages:
            written["passages"] = [list(passage) for passage in step.passages]
        if step.messages:
            written["messages"] = [dict(message) for message in step.messages]
        written["candidates"] = [_candidate_to_json(candidate, task, metric) for candidate in step.candidates]
    outcome = None if episode.error is not None else metric_score(metric, episode.answer, task)
    return {**record, "options": list(task.question.options), "max_searches": max_searches, "outcome": outcome}


def _candidate_to_json(candidate: Candidate, task: Task, metric: str) -> Json:
    record = candidate.to_json()
    if isinstance(candidate.action, Answer):
        record["outcome"] = metric_score(metric, candidate.action.text, task)
    return record


def _choice(state: State, step: Mapping[str, Any]) -> Choice:
    action = action_from_json(step)
    if action is None:
        raise ValueError("a step has no action")
    candidates = [
        Labelled(candidate, float(each["score"]), each.get("text", ""), each.get("outcome"))
        for each in step.get("candidates", ())
        if (candidate := action_from_json(each)) is not None and each["score"] is not None
    ]
    return Choice(state, tuple(candidates), action, tuple(step.get("messages", ())))


def _after(state: State, step: Mapping[str, Any]) -> State:
    """The state that a recorded step led to; that of an answer, or of a search beyond the budget, is not needed."""
    if "search" not in step or state.searches_left == 0:
        return state
    turn = Turn(step["search"], tuple(Passage(*passage) for passage in step.get("passages", ())))
    return State(state.question, (*state.history, turn), state.searches_left - 1)


@dataclass(frozen=True, slots=True)
class Collection:
    """A folder of process data: a run folder whose records are trajectories."""

    run: Run

    @classmethod
    def read(cls, path: str | Path) -> Collection:
        """Open a folder made by `raggym collect`.

        Raises:
            RunError: It is none.
        """
        if not (Path(path) / "run.json").exists():
            raise RunError(f"{path} holds no process data: it has no run.json. `raggym collect` makes such folders.")
        run = Run.read(path)
        if "collect" not in run.config:
            raise RunError(f"{path} is a run of `raggym eval`, not process data. Make some with `raggym collect`.")
        return cls(run)

    @property
    def settings(self) -> Json:
        """How it was collected: `n`, `critic`, `keep`, `explore`, `metric`."""
        settings: Json = self.run.config["collect"]
        return settings

    @property
    def sha256(self) -> str:
        """Of the records as they are now."""
        file = self.run.episodes_file
        return hashlib.sha256(file.read_bytes() if file.exists() else b"").hexdigest()

    def trajectories(self, *, kept: bool = True) -> Iterator[Trajectory]:
        """The trajectories that ended, ordered by the id of the question; of `keep = "correct"`, the right ones only.

        The order does not depend on the order in which they ended, so neither do the rows made from them.

        Args:
            kept: False for all of them, whatever was to be kept.

        Raises:
            MalformedData: A record was changed by hand.
        """
        for number, record in self._latest():
            if record["error"] is not None:
                continue
            try:
                trajectory = Trajectory.from_json(record)
            except (KeyError, TypeError, ValueError) as error:
                raise MalformedData(self.run.episodes_file, f"line {number}", f"no trajectory: {error!r}") from error
            if not kept or self.keeps(trajectory):
                yield trajectory

    @property
    def failed(self) -> int:
        """Questions whose episode failed, by an outage say. The same `raggym collect` tries them again."""
        return sum(record["error"] is not None for _, record in self._latest())

    def _latest(self) -> list[tuple[int, Json]]:
        """The record that counts for each question, with the number of its line, ordered by the question's id."""
        records = {record["id"]: (number, record) for number, record in enumerate(self.run.records(), 1)}
        return [records[name] for name in sorted(records)]

    def keeps(self, trajectory: Trajectory) -> bool:
        """Whether a trajectory passes the filter that the collection was made with."""
        return self.settings["keep"] == "all" or trajectory.outcome >= 1.0
