"""Episode records: what happened in an episode, as typed data, as JSON and in append-only files.

A record may have been written or edited by somebody else, so every `from_json` checks the type of each field it reads
and raises a `DataError` that names a missing or wrong one, as in `steps[2].candidates[0].score`. It ignores fields that
it does not know: process data adds its own to an episode's record.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

from raggym_env.core import Action, Answer, Passage, Search, State, Usage
from raggym_env.errors import DataError, MalformedData

__all__ = [
    "Candidate",
    "Episode",
    "Step",
    "action_from_json",
    "action_to_json",
    "append_record",
    "check_episode",
    "read_episodes",
    "read_records",
    "repair",
]

Json = dict[str, Any]


class Candidate(NamedTuple):
    """One of the actions that a step was chosen from."""

    action: Action | None
    """None if the policy's output could not be parsed as an action."""
    score: float | None = None
    """The critic's or the policy's own score, higher is better; None if it has none that is finite."""
    text: str = ""
    """The raw output the action was parsed from; empty for policies that write none."""
    outcome: float | None = None
    """In process data: an answer's score in [0, 1] by the collection's metric. None elsewhere, and for a search."""

    @classmethod
    def from_json(cls, record: Any) -> Candidate:
        """Read a candidate written by `to_json`."""
        action = action_from_json(record)
        optional = {"text": "a string", "outcome": "a number"}
        return cls(action, **_fields(record, {"score": "a number or null"}, optional))

    def to_json(self) -> Json:
        """Return the candidate as JSON; a score that is not finite becomes null."""
        record = {**action_to_json(self.action), "score": _finite(self.score)}
        if self.text:
            record["text"] = self.text
        if self.outcome is not None:
            record["outcome"] = self.outcome
        return record


@dataclass(frozen=True, slots=True)
class Step:
    """One action, the passages it retrieved and how it was rewarded."""

    action: Action
    passages: tuple[Passage, ...] = ()
    """Passages that the search retrieved, best first. Read from the record of a run, their texts are empty."""
    outcome: float = 0.0
    """Outcome reward in [0, 1], before weighting."""
    process_reward: float = 0.0
    """Process reward, before weighting."""
    text: str = ""
    """The raw output the action was parsed from; empty for policies that write none."""
    score: float | None = None
    """The score by which the action was chosen; None if none was computed."""
    candidates: tuple[Candidate, ...] = ()
    """The actions it was chosen from, best first; empty if the policy proposed only one."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The prompt that the action replies to, as chat messages; empty for policies without one."""
    usage: Usage = field(default_factory=Usage)
    """What proposing the action cost."""

    @classmethod
    def of(
        cls, before: State, action: Action, after: State, outcome: float, process_reward: float, **rest: Any
    ) -> Step:
        """Return the record of taking `action` in the state `before`, which led to the state `after`."""
        # An answer, and a search beyond the budget, add no turn: the last one belongs to an earlier step.
        passages = after.history[-1].passages if len(after.history) > len(before.history) else ()
        return cls(action, passages, outcome, process_reward, **rest)

    @classmethod
    def from_json(cls, record: Any) -> Step:
        """Read a step written by `to_json`, whether `full` or not."""
        action = action_from_json(record)
        if action is None:
            raise _FieldError("search", "or 'answer' is missing: a step needs an action")
        required: _Kinds = {"outcome": "a number", "process_reward": "a number"}
        lists: _Kinds = {"passages": [_passage], "candidates": [Candidate.from_json], "messages": [_message]}
        optional = {**lists, "text": "a string", "score": "a number", "usage": _usage}
        return cls(action, **_fields(record, required, optional))

    def to_json(self, *, full: bool = False) -> Json:
        """Return the step as JSON. Empty fields are left out.

        Args:
            full: Also record the passages' texts and the prompt. The record of a run omits both, which would make
                it many times as long; process data needs them. A passage is `[id, title, text]`, or `[id, title]`
                where it has no text, so one read from either record is written as it was read.
        """
        record: Json = {**action_to_json(self.action), "outcome": self.outcome, "process_reward": self.process_reward}
        if self.passages:
            record["passages"] = [list(passage if full and passage.text else passage[:2]) for passage in self.passages]
        if self.text:
            record["text"] = self.text
        if (score := _finite(self.score)) is not None:
            record["score"] = score
        if self.candidates:
            record["candidates"] = [candidate.to_json() for candidate in self.candidates]
        if full and self.messages:
            record["messages"] = [dict(message) for message in self.messages]
        if self.usage != Usage():
            record["usage"] = asdict(self.usage)
        return record


@dataclass(frozen=True, slots=True)
class Episode:
    """One question from its first action to its end."""

    id: str
    """The question's id."""
    question: str
    """The question's text."""
    steps: tuple[Step, ...]
    """The actions taken, in order."""
    answer: str | None
    """The answer that counts; None if the episode ended without one."""
    stop: str | None
    """Why the episode ended: a `StopReason`, or a wrapper's own reason. None if it failed."""
    error: str | None = None
    """Why the episode failed, or None. A failed episode has no score, and a resumed run repeats it."""
    output: str = ""
    """The policy's last output in full, if it could not be parsed as an action and so ended the episode."""
    usage: Usage = field(default_factory=Usage)
    """What the policy's proposals cost, those that failed included."""
    seconds: float = 0.0
    """Wall time from the first action to the end, in seconds, while other episodes ran beside it."""

    @classmethod
    def of(cls, state: State, steps: tuple[Step, ...], *, error: str | None = None, **rest: Any) -> Episode:
        """Return the record of an episode that ended, or failed, in `state`."""
        stop = None if error is not None or state.stop is None else state.stop.value
        return cls(state.question.id, state.question.text, steps, state.answer, stop, error, **rest)

    @classmethod
    def from_json(cls, record: Any) -> Episode:
        """Read an episode written by `to_json`, whether `full` or not.

        Writing it with `to_json` gives the record of a run again. Of process data, the passages' texts and the prompts
        are written with `full=True`, and the fields that process data adds are lost.

        Raises:
            DataError: A field is missing or has the wrong type; the message names it.
        """
        nullable = dict.fromkeys(("answer", "stop", "error"), "a string or null")
        required: _Kinds = {"id": "a string", "question": "a string", "steps": [Step.from_json], **nullable}
        return cls(**_fields(record, required, {"output": "a string", "usage": _usage, "seconds": "a number"}))

    def to_json(self, *, full: bool = False) -> Json:
        """Return the episode as JSON. `full` adds passage texts and prompts; see `Step.to_json`."""
        return {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "stop": self.stop,
            "error": self.error,
            "steps": [step.to_json(full=full) for step in self.steps],
            **({"output": self.output} if self.output else {}),
            **({"usage": asdict(self.usage)} if self.usage != Usage() else {}),
            "seconds": round(self.seconds, 4),  # 0.1 ms; more digits would only make records longer
        }


def _finite(value: float | None) -> float | None:
    """Return a score as JSON can hold it: None for an infinite one or NaN, which strict JSON does not have."""
    # float: a NumPy scalar cannot be serialised.
    return float(value) if value is not None and math.isfinite(value) else None


def action_to_json(action: Action | None) -> Json:
    """Return `{"search": ...}`, with its draft if it has one, `{"answer": ...}`, or `{}` for no action."""
    match action:
        case Search(query, None):
            return {"search": query}
        case Search(query, draft):
            return {"search": query, "draft": draft}
        case Answer(text):
            return {"answer": text}
    return {}


def action_from_json(record: Any) -> Action | None:
    """Return the action of a record made by `action_to_json`, or None if it has none. Other fields are ignored.

    Raises:
        DataError: The action is not a string, or there are two; the message names the field.
    """
    texts = _fields(record, {}, {"search": "a string", "answer": "a string"})
    if len(texts) == 2:
        raise _FieldError("answer", "stands beside 'search': a record holds one action")
    if "search" in texts:
        return Search(texts["search"], **_fields(record, {}, {"draft": "a string"}))
    return Answer(texts["answer"]) if texts else None


# -- reading fields that may have been changed by hand ------------------------------------------------------------

_Kinds = Mapping[str, str | Callable[[Any], Any] | list[Callable[[Any], Any]]]
"""Field -> its type: a key of `_TYPES`, a function that reads an object or, in a list, one that reads the items."""

_TYPES: dict[str, tuple[type, ...]] = {
    "a string": (str,),
    "a string or null": (str, NoneType),
    "a number": (int, float),
    "a number or null": (int, float, NoneType),
    "a whole number": (int,),
    "a list": (list,),
    "an object": (dict,),
}

# The defaults are 0 for counts and 0.0 for seconds.
_USAGE = {spec.name: "a whole number" if type(spec.default) is int else "a number" for spec in fields(Usage)}


class _FieldError(DataError):
    """A field that is missing or has the wrong type."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"field {path!r} {problem}")
        self.path, self.problem = path, problem


def _fields(record: Any, required: _Kinds, optional: _Kinds = MappingProxyType({})) -> Json:
    """Return fields of a decoded JSON object. Absent optional ones are left out, so that the class's defaults hold."""
    if not isinstance(record, dict):
        first = next(iter(required or optional))
        raise _FieldError(first, f"is missing: its record is not an object but {reprlib.repr(record)}")
    values = {}
    for name, kind in {**optional, **required}.items():
        expected = kind if isinstance(kind, str) else "a list" if isinstance(kind, list) else "an object"
        if name not in record:
            if name in required:
                raise _FieldError(name, f"is missing: it must be {expected}")
            continue
        value = record[name]
        # By exact type, since True is an int. By range, since Python's json reads NaN, Infinity and 1e400, and whole
        # numbers too large for a float. reprlib: the full repr of a hostile value can be endless, or too deep.
        in_range = type(value) not in (int, float) or abs(value) <= sys.float_info.max
        if type(value) not in _TYPES[expected] or not in_range:
            raise _FieldError(name, f"must be {expected}, got {reprlib.repr(value)}")
        if isinstance(kind, list):
            value = tuple([_at(f"{name}[{index}]", kind[0], item) for index, item in enumerate(value)])
        values[name] = _at(name, kind, value) if callable(kind) else value
    return values


def _at(path: str, read: Callable[[Any], Any], value: Any) -> Any:
    """Return `read(value)`; an error's path gets the `path` in front, since `read` knows its own record only."""
    try:
        return read(value)
    except _FieldError as error:
        raise _FieldError(f"{path}.{error.path}".rstrip("."), error.problem) from None


def _passage(item: Any) -> Passage:
    if type(item) is not list or len(item) not in (2, 3) or not all(type(part) is str for part in item):
        # No path: the item itself is wrong, not a field of it.
        raise _FieldError("", f"must be [id, title] or [id, title, text], all strings, got {reprlib.repr(item)}")
    return Passage(item[0], item[1], "".join(item[2:]))


def _message(record: Any) -> Json:
    return _fields(record, {"role": "a string", "content": "a string"})


def _usage(record: Any) -> Usage:
    return Usage(**_fields(record, _USAGE))


# -- files --------------------------------------------------------------------------------------------------------


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line, so that a killed process leaves at most one torn line, the last.

    Raises:
        OSError: The line could not be written whole (a full disk, say).
    """
    # ensure_ascii: lone surrogates in model output would make the file unreadable as UTF-8.
    line = json.dumps(record, ensure_ascii=True, allow_nan=False) + "\n"
    with path.open("ab") as file:  # buffered: unlike a raw file's, its write takes all or raises
        file.write(line.encode("ascii"))


def repair(path: Path) -> None:
    """Cut off a torn last line, left by a process that was killed while writing. Ignores a missing file."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
            # Before anything is appended: otherwise a crash could leave a new record behind half of an old one.
            os.fsync(file.fileno())


def read_records(path: Path) -> Iterator[Json]:
    """Yield the records of a file in order. A torn last line is skipped: it was never finished.

    Raises:
        MalformedData: A finished line is not a JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # nesting too deep for the parser
                raise MalformedData(path, f"line {number}", f"not JSON: {error}") from error
            if not isinstance(record, dict):
                raise MalformedData(path, f"line {number}", f"a record is a JSON object, found {line[:80]!r}")
            yield record


def read_episodes(path: Path) -> Iterator[Episode]:
    """Yield the episodes of a file in order. A torn last line is skipped: it was never finished.

    Raises:
        MalformedData: A finished line is not the record of an episode; names the line and the field.
    """
    for number, record in enumerate(read_records(path), 1):
        yield check_episode(record, path, f"line {number}")


def check_episode(record: Any, path: Path, where: str) -> Episode:
    """Return the episode of a decoded record that was read from `path`, at the place `where`, e.g. "line 3".

    Raises:
        MalformedData: The record is not an episode's; the message names file, place and field.
    """
    try:
        return Episode.from_json(record)
    except DataError as error:
        raise MalformedData(path, where, str(error)) from error
