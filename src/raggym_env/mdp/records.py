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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import IO, Any, NamedTuple, Self

from raggym_env.core import Action, Answer, Passage, Search, State, StopReason, Usage
from raggym_env.errors import DataError, MalformedData
from raggym_env.storage.atomic import sync_folder
from raggym_env.storage.parsing import MAX_BYTES, MAX_INT, ParseError, open_file, parse_json

__all__ = [
    "Candidate",
    "Episode",
    "RecordWriter",
    "Step",
    "action_from_json",
    "action_to_json",
    "append_record",
    "check_episode",
    "damaged_lines",
    "numbered_records",
    "read_episodes",
    "read_records",
    "repair",
    "typed_fields",
]

Json = dict[str, Any]

_SYNC_SECONDS = 0.2  # between two writes to disk, which take 0.1 to 30 ms each, by the disk


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
        return cls(action, **typed_fields(record, {"score": "a number or null"}, optional))

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
    prompt: tuple[str, ...] = ()
    """Read from the record of a run with recorded prompts: the ids of those messages; see `raggym_env.runs.prompts`."""
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
        lists: _Kinds = {"passages": [_passage], "candidates": [Candidate.from_json]}
        optional = {**lists, **_PROMPT, "text": "a string", "score": "a number", "usage": _usage}
        return cls(action, **typed_fields(record, required, optional))

    def to_json(self, *, full: bool = False, prompts: bool = False) -> Json:
        """Return the step as JSON. Empty fields are left out.

        Args:
            prompts: Also record the prompt.
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
        record |= _prompt_to_json(self, full or prompts)
        if self.usage != Usage():
            record["usage"] = _usage_to_json(self.usage)
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
    failure: str = ""
    """Why that output is not an action."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The prompt that this output replies to; empty if there is none."""
    prompt: tuple[str, ...] = ()
    """As `Step.prompt`: the ids of those messages."""
    usage: Usage = field(default_factory=Usage)
    """What the policy's proposals cost, those that failed included."""
    seconds: float = 0.0
    """Wall time from the first action to the end, in seconds, while other episodes ran beside it."""

    @property
    def outcome(self) -> float | None:
        """The score of the answer in the episode; 0 for an output that is no action, None if the episode failed."""
        if self.error is not None:
            return None
        return self.steps[-1].outcome if self.steps and self.stop != StopReason.NO_ACTION else 0.0

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
        texts = dict.fromkeys(("output", "failure"), "a string")
        optional: _Kinds = {**texts, **_PROMPT, "usage": _usage, "seconds": "an amount"}
        return cls(**typed_fields(record, required, optional))

    def to_json(self, *, full: bool = False, prompts: bool = False) -> Json:
        """Return the episode as JSON. `full` adds passage texts and prompts, `prompts` these; see `Step.to_json`."""
        return {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "stop": self.stop,
            "error": self.error,
            "steps": [step.to_json(full=full, prompts=prompts) for step in self.steps],
            **({"output": self.output} if self.output else {}),
            **({"failure": self.failure} if self.failure else {}),
            **_prompt_to_json(self, prompts),
            **({"usage": _usage_to_json(self.usage)} if self.usage != Usage() else {}),
            "seconds": round(self.seconds, 4),  # 0.1 ms; more digits would only make records longer
        }


def _finite(value: float | None) -> float | None:
    """Return a score as JSON can hold it: None for an infinite one or NaN, which strict JSON does not have."""
    try:
        # float: a NumPy scalar cannot be serialised.
        return float(value) if value is not None and math.isfinite(value) else None
    except (TypeError, OverflowError):
        return value  # not a number, from a plug-in: reading the record names the field


def _prompt_to_json(holder: Step | Episode, messages: bool) -> Json:
    record: Json = {}
    if messages and holder.messages:
        record["messages"] = [dict(message) for message in holder.messages]
    if holder.prompt:
        record["prompt"] = list(holder.prompt)
    return record


def _usage_to_json(usage: Usage) -> Json:
    # A plug-in may count in NumPy's or torch's numbers, which cannot be serialised.
    return {name: value.item() if hasattr(value, "item") else value for name, value in asdict(usage).items()}


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
    texts = typed_fields(record, {}, {"search": "a string", "answer": "a string"})
    if len(texts) == 2:
        raise _FieldError("answer", "stands beside 'search': a record holds one action")
    if "search" in texts:
        return Search(texts["search"], **typed_fields(record, {}, {"draft": "a string"}))
    return Answer(texts["answer"]) if texts else None


# -- reading fields that may have been changed by hand ------------------------------------------------------------

_Kinds = Mapping[str, str | Callable[[Any], Any] | list[Callable[[Any], Any]]]
"""Field -> its type: a key of `_TYPES`, a function that reads an object or, in a list, one that reads the items."""

_TYPES: dict[str, tuple[type, ...]] = {
    "a string": (str,),
    "a string or null": (str, NoneType),
    "a number": (int, float),
    "a number or null": (int, float, NoneType),
    "an amount": (int, float),
    "a count": (int,),
    "a list": (list,),
    "an object": (dict,),
}
_RANGES = {"an amount": "a number of 0 or more", "a count": "a whole number of 0 or more"}
_LARGEST: dict[type, float] = {int: MAX_INT - 1, float: sys.float_info.max}

# The defaults are 0 for counts and 0.0 for seconds.
_USAGE = {spec.name: "a count" if type(spec.default) is int else "an amount" for spec in fields(Usage)}


class _FieldError(DataError):
    """A field that is missing or has the wrong type."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"field {path!r} {problem}")
        self.path, self.problem = path, problem


def typed_fields(record: Any, required: _Kinds, optional: _Kinds = MappingProxyType({})) -> Json:
    """Return fields of a decoded JSON object. Absent optional ones are left out, so that the class's defaults hold.

    Raises:
        DataError: The record is not an object, or a field is missing or of the wrong type; the message names it.
    """
    if not isinstance(record, dict):
        first = next(iter(required or optional))
        raise _FieldError(first, f"is missing: its record is not an object but {reprlib.repr(record)}")
    values = {}
    for name, kind in {**optional, **required}.items():
        expected = kind if isinstance(kind, str) else "a list" if isinstance(kind, list) else "an object"
        if name not in record:
            if name in required:
                raise _FieldError(name, f"is missing: it must be {_RANGES.get(expected, expected)}")
            continue
        value = record[name]
        # By exact type, since True is an int. reprlib: the full repr of a hostile value can be endless, or too deep.
        # By range, since NaN, and numbers that `parse_json` refuses, could not be read back.
        largest = _LARGEST.get(type(value))
        in_range = largest is None or (0 if expected in _RANGES else -largest) <= value <= largest
        if type(value) not in _TYPES[expected] or not in_range:
            raise _FieldError(name, f"must be {_RANGES.get(expected, expected)}, got {reprlib.repr(value)}")
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


def _message_id(item: Any) -> str:
    if type(item) is not str:
        raise _FieldError("", f"must be the id of a message, a string, got {reprlib.repr(item)}")
    return item


_PROMPT: _Kinds = {
    "messages": [lambda message: typed_fields(message, {"role": "a string", "content": "a string"})],
    "prompt": [_message_id],
}


def _usage(record: Any) -> Usage:
    return Usage(**typed_fields(record, _USAGE))


# -- files --------------------------------------------------------------------------------------------------------
# The file of a run may come from somebody else: it is read and written only if it is a regular file and no link.


class RecordWriter:
    """Appends records to a run's file, which is opened for the first of them. A context, which closes the file.

    A process that is killed leaves at most one torn line, the last. A power cut loses at most the records appended in
    the 0.2 s after a write to disk, which the next batch, or closing, makes up for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._synced = -math.inf

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append a batch, one JSON line each.

        Raises:
            DataError: A record cannot be written as JSON, or the path is a link. None was appended.
            OSError: The lines could not be written whole (a full disk, say).
        """
        lines = b"".join(map(_line, records))
        if self._file is None:
            is_new = not self.path.exists()
            self._file = _open_own(self.path, "ab")
            if is_new:
                sync_folder(self.path.parent)
        self._file.write(lines)
        self._file.flush()  # buffered: unlike a raw file's, its write takes all or raises
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            self._sync(self._file)

    def _sync(self, file: IO[bytes]) -> None:
        os.fsync(file.fileno())
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with self._file as file:
                file.flush()  # what an interruption between write and flush left
                self._sync(file)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line. Errors are those of `RecordWriter.append`; the path is the user's own and may be a link."""
    line = _line(record)
    with path.open("ab") as file:
        file.write(line)


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        # ensure_ascii: lone surrogates in model output would make the file unreadable as UTF-8.
        line = (json.dumps(record, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
        if len(line) > MAX_BYTES:
            raise ValueError(f"it has {len(line):,} bytes, and {MAX_BYTES:,} can be read")
        return line
    except (TypeError, ValueError) as error:
        raise DataError(f"The record of the question {record.get('id')!r:.100} cannot be written: {error}.") from error


def _open_own(path: Path, mode: str) -> IO[bytes]:
    """Open a file for writing, without following a link at its end."""
    if path.is_symlink():
        raise DataError(f"{path} is a symbolic link, which is not followed. Replace it by the file itself.")
    return path.open(mode)


def repair(path: Path) -> None:
    """Cut off what a killed process or a power cut left at the end: a torn line, blank lines and NUL bytes.

    Ignores a missing file. The errors are those of `read_records`.
    """
    if not path.exists():
        return
    whole = end = 0
    for _, end, line in _lines(path):
        # A file system may write a file's new length before the bytes that fill it; they read as NUL.
        if line.endswith(b"\n") and b"\0" not in line and not line.isspace():
            whole = end
    if whole < end:
        with _open_own(path, "r+b") as file:
            file.truncate(whole)
            # Before anything is appended: otherwise a crash could leave a new record behind half of an old one.
            os.fsync(file.fileno())


def read_records(path: Path) -> Iterator[Json]:
    """Yield the records of a file in order. What `repair` would cut off is skipped: it was never finished.

    Raises:
        DataError: The file is a link, or not a regular file.
        MalformedData: A finished line is not a JSON object, or too long.
    """
    return (record for _, record in numbered_records(path))


def numbered_records(path: Path) -> Iterator[tuple[int, Json]]:
    """Yield the records of a file with the numbers of their lines; see `read_records`."""
    for number, line in _finished_lines(path):
        yield number, _record(line, path, number)


def read_episodes(path: Path) -> Iterator[Episode]:
    """Yield the episodes of a file in order; see `read_records`.

    Raises:
        DataError: The file is a link, or not a regular file.
        MalformedData: A finished line is not the record of an episode; names the line and the field.
    """
    for number, record in numbered_records(path):
        yield check_episode(record, path, f"line {number}")


def damaged_lines(path: Path) -> list[int]:
    """Return the numbers of the lines that `read_episodes` refuses."""
    damaged = []
    for number, line in _finished_lines(path):
        try:
            check_episode(_record(line, path, number), path, f"line {number}")
        except MalformedData:
            damaged.append(number)
    return damaged


def _finished_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the finished lines that hold something, with their numbers."""
    for number, _, line in _lines(path):
        if line.endswith(b"\n") and line.strip(b"\0 \t\r\n"):
            yield number, line


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number of each line, the offset of its end, and its bytes, of which one too many shows excess."""
    number = end = 0
    try:
        with open_file(path, follow_links=False) as file:
            while line := file.readline(MAX_BYTES + 1):
                number, end = number + 1, end + len(line)
                rest = line
                while len(rest) >= MAX_BYTES and not rest.endswith(b"\n"):
                    rest = file.readline(MAX_BYTES)
                    end += len(rest)
                yield number, end, line if rest is line else line + rest[-1:]
    except ParseError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _record(line: bytes, path: Path, number: int) -> Json:
    try:
        record = parse_json(line)
    except ParseError as error:
        raise MalformedData(path, f"line {number}", str(error)) from error
    if not isinstance(record, dict):
        raise MalformedData(path, f"line {number}", f"a record is a JSON object, found {line[:80]!r}")
    return record


def check_episode(record: Any, path: Path, where: str) -> Episode:
    """Return the episode of a decoded record that was read from `path`, at the place `where`, e.g. "line 3".

    Raises:
        MalformedData: The record is not an episode's; the message names file, place and field.
    """
    try:
        return Episode.from_json(record)
    except DataError as error:
        raise MalformedData(path, where, str(error)) from error
