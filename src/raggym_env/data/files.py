"""Read the records of a question or corpus file (JSON array, JSON lines or TSV; plain or gzip) as a stream.

Every fault in a file is reported as one `MalformedData` that names the file, the line or record, the field and the
value.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

from raggym_env.errors import DataError, DataNotFound, MalformedData

__all__ = ["Record", "json_records", "tsv_records"]

_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20  # characters read at a time

C = TypeVar("C", list[Any], dict[str, Any])


@dataclass(slots=True)
class Record:
    """One record, with typed access to its fields."""

    path: Path
    place: str
    """Unit in which `number` counts: "line" (JSON lines, TSV), "record" (JSON array) or "row" (the hub)."""
    number: int
    """Position in the file, from 1, for error messages."""
    index: int
    """Position among the records, from 0. Blank lines and header rows do not count."""
    fields: dict[str, Any]
    """The record's JSON object, or a TSV row's cells by column name."""

    def error(self, problem: str) -> MalformedData:
        """Return an error that names the file and this record's position."""
        return MalformedData(self.path, f"{self.place} {self.number}", problem)

    def wrong(self, name: str, expected: str, value: object) -> MalformedData:
        """Return an error about the value of the field `name`, which should have been as `expected`."""
        return self.error(f"field {name!r} should be {expected}, found {value!r:.80}")

    def text(self, name: str) -> str:
        """Return a required field that is a string and not blank."""
        if name not in self.fields:
            raise self.error(f"field {name!r} is missing; the record has {sorted(self.fields)}")
        value = self.checked(name, self.fields[name])
        if not value.strip():
            raise self.wrong(name, "a string that is not blank", value)
        return value

    def texts(self, name: str, values: Sequence[object]) -> tuple[str, ...]:
        """Return the elements of a list field, each of which must be a string that is not blank."""
        texts = tuple(self.checked(name, value) for value in values)
        if not all(text.strip() for text in texts):
            raise self.wrong(name, "strings that are not blank", values)
        return texts

    def optional_text(self, name: str) -> str:
        """Return a field that is a string, or "" if it is absent or null."""
        value = self.fields.get(name)
        return "" if value is None else self.checked(name, value)

    def identifier(self, name: str) -> str:
        """Return a required id as a string. It may be an integer or a string that is not blank."""
        value = self.fields.get(name)
        # True is an int, but as an id it is a fault in the file.
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(name)

    def optional(self, name: str, kind: type[C]) -> C:
        """Return a field that is a list or a JSON object (`kind` is list or dict), empty if it is absent or null."""
        value = self.fields.get(name)
        if value is None:
            return kind()
        if not isinstance(value, kind):
            raise self.wrong(name, "a list" if kind is list else "an object", value)
        return value

    def checked(self, name: str, value: object) -> str:
        """Return `value` if it is a string that can be stored as UTF-8; the field's `name` is for the error."""
        if not isinstance(value, str):
            raise self.wrong(name, "a string", value)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
                raise self.wrong(name, "valid Unicode", value) from error
        return value


def json_records(path: Path) -> Iterator[Record]:
    """Return the objects of a JSON array or of JSON lines, whichever the file holds.

    Raises:
        DataNotFound: The file does not exist.
        MalformedData: The file is not UTF-8, not JSON (`NaN` is not), cut off, empty, or holds values other than
            objects.
    """
    # By content, not by name: 2WikiMultihopQA's official id_aliases.json holds JSON lines.
    with _opened(path) as stream:
        start = stream.read(_CHUNK).removeprefix(_BOM).lstrip()[:1]
    if not start:
        raise MalformedData(path, "line 1", "the file is empty")
    if start == b"[":
        return _array_records(path)
    return _line_records(path)


def tsv_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a tab-separated file whose first row names the columns. Unnamed columns are left out.

    Quotes have no meaning in it: a cell ends at the next tab.
    """
    lines = _lines(path)
    header = [name.strip() for name in next(lines, (0, ""))[1].split("\t")]
    for index, (number, line) in enumerate(lines):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) > len(header):
            raise MalformedData(path, f"line {number}", f"{len(cells)} cells in a table of {len(header)} columns")
        # Not strict: spreadsheets leave out the empty cells at the end of a row.
        fields = {name: cell for name, cell in zip(header, cells, strict=False) if name}
        yield Record(path, "line", number, index, fields)


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    try:
        with path.open("rb") as raw:
            yield gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
    except FileNotFoundError as error:
        raise DataNotFound(f"No file at {path}.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise MalformedData(path, "gzip stream", f"damaged or cut off ({error})") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    # Read as bytes and decoded line by line, so that the error can name the line that is not UTF-8.
    with _opened(path) as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(_BOM)
            try:
                text = line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise MalformedData(path, f"line {number}", f"not UTF-8 ({error})") from error
            if text.strip():
                yield number, text


def _line_records(path: Path) -> Iterator[Record]:
    for index, (number, text) in enumerate(_lines(path)):
        try:
            row = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:  # RecursionError: a file of 100,000 open brackets
            raise MalformedData(path, f"line {number}", f"not JSON: {error}") from error
        yield Record(path, "line", number, index, _object(row, path, f"line {number}"))


def _array_records(path: Path) -> Iterator[Record]:
    with _opened(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
        elements = iter(_Array(text))
        for index in itertools.count():
            where = f"record {index + 1}"
            try:
                row = next(elements)
            except StopIteration:
                return
            except UnicodeDecodeError as error:  # raised for a whole chunk, which may hold further records
                raise MalformedData(path, f"{where} or later", f"not UTF-8 ({error})") from error
            except (ValueError, RecursionError) as error:
                raise MalformedData(path, where, f"not JSON: {getattr(error, 'msg', error)}") from error
            yield Record(path, "record", index + 1, index, _object(row, path, where))


def _object(row: object, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise MalformedData(path, where, f"expected a JSON object, found {row!r:.80}")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


# Python's decoder accepts NaN and Infinity by default. They are not JSON, and other tools could not read our output.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


class _Array:
    """The elements of one JSON array, decoded while the file is read.

    `json.load` would hold an official training set of 0.6 GB in memory several times over, and a streaming parser
    such as ijson would be one more compiled dependency.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""  # the part of the file in memory
        self._position = 0  # of the next character in `_text` that was not read

    def __iter__(self) -> Iterator[Any]:
        self._expect("[")
        if self._peek() == "]":
            self._position += 1
        else:
            yield self._value()
            while self._expect(",]") == ",":
                yield self._value()
        if extra := self._peek():
            raise ValueError(f"{extra!r} after the end of the array")

    def _expect(self, marks: str) -> str:
        mark = self._peek()
        if not mark or mark not in marks:
            raise ValueError(f"expected one of {marks!r}, found {mark or 'the end of the file'!r}")
        self._position += 1
        return mark

    def _peek(self) -> str:
        """Return the next character that is not white space without reading past it; "" at the end of the file."""
        while True:
            while self._position < len(self._text):
                if (mark := self._text[self._position]) not in " \t\r\n":
                    return mark
                self._position += 1
            if not self._grow():
                return ""

    def _value(self) -> Any:
        self._peek()
        while True:
            # The decoder cannot tell a value that is cut off by the end of the chunk from one that is wrong, so
            # decoding fails for good only when the file has ended.
            try:
                value, self._position = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError:
                if not self._grow():
                    raise
            else:
                return value

    def _grow(self) -> bool:
        """Read the next part of the file; False at its end."""
        rest = self._text[self._position :]
        # At least as much again as is in memory: a huge record is then decoded anew only log(size) times.
        more = self._stream.read(max(_CHUNK, len(rest)))
        self._text, self._position = rest + more, 0
        return bool(more)
