"""Episode records: what happened in an episode, as data, and the append-only files they are kept in."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from raggym_env.core import Action, Answer, Passage, Search, State, Usage
from raggym_env.errors import MalformedData

__all__ = [
    "Candidate",
    "Episode",
    "Step",
    "action_from_json",
    "action_to_json",
    "append_record",
    "check_episode",
    "read_records",
    "repair",
]

Json = dict[str, Any]


class Candidate(NamedTuple):
    """One of the actions that a step was chosen from."""

    action: Action | None
    """None if the output was no action."""
    score: float | None = None
    text: str = ""
    """The raw output it was parsed from."""

    def to_json(self) -> Json:
        record = {**action_to_json(self.action), "score": None if self.score is None else _finite(self.score)}
        return {**record, "text": self.text} if self.text else record


@dataclass(frozen=True, slots=True)
class Step:
    """One action, what it found and how it was rewarded."""

    action: Action
    passages: tuple[Passage, ...] = ()
    """What it found, best first."""
    outcome: float = 0.0
    process_reward: float = 0.0
    text: str = ""
    """The raw output the action was parsed from."""
    score: float | None = None
    """What ranked the action, where something did."""
    candidates: tuple[Candidate, ...] = ()
    """What the action was chosen from, best first."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The prompt that the action was the reply to, where there was one. Too long for the record of a run."""
    usage: Usage = field(default_factory=Usage)

    @classmethod
    def of(
        cls, before: State, action: Action, after: State, outcome: float, process_reward: float, **rest: Any
    ) -> Step:
        """The record of taking `action` in `before`, which led to `after`."""
        found = after.history[-1].passages if len(after.history) > len(before.history) else ()
        return cls(action, found, outcome, process_reward, **rest)

    def to_json(self) -> Json:
        """The record of a run: of passages only their ids and titles, of the prompt nothing."""
        record: Json = {**action_to_json(self.action), "outcome": self.outcome, "process_reward": self.process_reward}
        if self.passages:
            record["passages"] = [[passage.id, passage.title] for passage in self.passages]
        if self.text:
            record["text"] = self.text
        if self.score is not None:
            record["score"] = _finite(self.score)
        if self.candidates:
            record["candidates"] = [candidate.to_json() for candidate in self.candidates]
        if self.usage != Usage():
            record["usage"] = asdict(self.usage)
        return record


@dataclass(frozen=True, slots=True)
class Episode:
    """One question from its first action to its end."""

    id: str
    question: str
    steps: tuple[Step, ...]
    answer: str | None
    """The answer that counts; None if the episode ended without one."""
    stop: str | None
    """Why it ended, a `StopReason`; None if it failed."""
    error: str | None = None
    """Why it failed. A failed episode has no score, and a resumed run tries it again."""
    output: str = ""
    """Of an episode that ended by an output that was no action: that output in full."""
    usage: Usage = field(default_factory=Usage)
    """What the policy's proposals cost, those that failed included."""
    seconds: float = 0.0
    """Wall time from its first action to its end, while other episodes ran beside it."""

    @classmethod
    def of(cls, state: State, steps: tuple[Step, ...], *, error: str | None = None, **rest: Any) -> Episode:
        """The record of an episode that ended, or failed, in `state`."""
        stop = None if error is not None or state.stop is None else state.stop.value
        return cls(state.question.id, state.question.text, steps, state.answer, stop, error, **rest)

    def to_json(self) -> Json:
        return {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "stop": self.stop,
            "error": self.error,
            "steps": [step.to_json() for step in self.steps],
            **({"output": self.output} if self.output else {}),
            **({"usage": asdict(self.usage)} if self.usage != Usage() else {}),
            "seconds": round(self.seconds, 4),
        }


def _finite(value: float) -> float | None:
    """As JSON can hold it: a score that is infinite or no number is recorded as none."""
    number = float(value)  # a NumPy scalar is no JSON
    return number if math.isfinite(number) else None


def action_to_json(action: Action | None) -> Json:
    """`{"search": ...}` with its draft if it has one, `{"answer": ...}`, or `{}` for no action."""
    match action:
        case Search(query, None):
            return {"search": query}
        case Search(query, draft):
            return {"search": query, "draft": draft}
        case Answer(text):
            return {"answer": text}
    return {}


def action_from_json(record: Mapping[str, Any]) -> Action | None:
    """The action of a record made by `action_to_json`, whatever else is in it; None if it holds none."""
    if "search" in record:
        return Search(record["search"], record.get("draft"))
    return Answer(record["answer"]) if "answer" in record else None


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line, so that a killed process leaves at most one torn line, the last.

    Raises:
        OSError: The line could not be written whole (a full disk, say).
    """
    # ensure_ascii: lone surrogates in model output would make the file unreadable as UTF-8.
    line = json.dumps(record, ensure_ascii=True, allow_nan=False) + "\n"
    with path.open("ab") as file:  # buffered: unlike a raw file's, its write takes all or raises
        file.write(line.encode("ascii"))


def check_episode(record: Json, path: Path, where: str) -> None:
    """Check that a record read from a file is an episode's, as far as scoring and reporting rely on it.

    Raises:
        MalformedData: Names the field.
    """
    text = (str, type(None))
    for name, kinds in (("id", str), ("question", str), ("answer", text), ("stop", text), ("error", text)):
        if name not in record or not isinstance(record[name], kinds):
            raise MalformedData(path, where, f"field {name!r} is missing or no text: {record.get(name)!r:.80}")
    steps = record.get("steps")
    if not isinstance(steps, list) or not all(_is_step(step) for step in steps):
        raise MalformedData(path, where, f"field 'steps' is missing or no list of steps: {steps!r:.80}")
    if "usage" in record and not _is_usage(record["usage"]):
        raise MalformedData(path, where, f"field 'usage' is no usage: {record['usage']!r:.80}")


def _is_step(step: Any) -> bool:
    if not isinstance(step, dict) or not any(isinstance(step.get(kind), str) for kind in ("search", "answer")):
        return False
    passages = step.get("passages", [])
    return isinstance(passages, list) and all(
        isinstance(each, list) and len(each) in (2, 3) and all(isinstance(part, str) for part in each)
        for each in passages
    )


def _is_usage(usage: Any) -> bool:
    names = {each.name for each in fields(Usage)}
    return isinstance(usage, dict) and usage.keys() == names and all(type(v) in (int, float) for v in usage.values())


def repair(path: Path) -> None:
    """Cut off a torn last line, which a process killed while writing leaves. A missing file is left missing."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())


def read_records(path: Path) -> Iterator[Json]:
    """The records of a file, in order. A torn last line is passed over; it was never finished.

    Raises:
        MalformedData: A finished line is no JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise MalformedData(path, f"line {number}", f"not JSON: {error}") from error
            if not isinstance(record, dict):
                raise MalformedData(path, f"line {number}", f"a record is a JSON object, found {line[:80]!r}")
            yield record
