"""Records of a question or corpus file (JSON array, JSON lines, TSV; plain or gzip), read as a stream.

Whatever is wrong with a file ends in one `MalformedData` that names the file, the line or record, the field and
what was found there.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn, TextIO

from raggym_env.errors import DataError, DataNotFound, MalformedData

__all__ = ["Record", "json_records", "tsv_records"]

_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20


@dataclass(slots=True)
class Record:
    """One record, with typed access to its fields."""

    path: Path
    place: str
    """What `number` counts: "line" or "record"."""
    number: int
    """Position in the file, from 1."""
    index: int
    """Position among the records, from 0. Blank lines and header rows do not count."""
    fields: dict[str, Any]

    def error(self, problem: str) -> MalformedData:
        return MalformedData(self.path, f"{self.place} {self.number}", problem)

    def wrong(self, name: str, expected: str, found: object) -> MalformedData:
        return self.error(f"field {name!r} should be {expected}, found {found!r:.80}")

    def text(self, name: str) -> str:
        """A required string that is not blank."""
        if name not in self.fields:
            raise self.error(f"field {name!r} is missing; the record has {sorted(self.fields)}")
        value = self.checked(name, self.fields[name])
        if not value.strip():
            raise self.wrong(name, "a text that is not blank", value)
        return value

    def optional_text(self, name: str) -> str:
        """A string, or "" where the field is absent or null."""
        value = self.fields.get(name)
        return "" if value is None else self.checked(name, value)

    def identifier(self, name: str) -> str:
        """A required id: a string that is not blank, or an integer."""
        value = self.fields.get(name)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(name)

    def optional_list(self, name: str) -> list[Any]:
        """A list, or an empty one where the field is absent or null."""
        value = self.fields.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "a list", value)
        return value

    def optional_mapping(self, name: str) -> dict[str, Any]:
        """An object, or an empty one where the field is absent or null."""
        value = self.fields.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(name, "an object", value)
        return value

    def checked(self, name: str, value: object) -> str:
        """`value`, if it is a string that can be stored as UTF-8."""
        if not isinstance(value, str):
            raise self.wrong(name, "a text", value)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:  # JSON can escape half a character
                raise self.wrong(name, "valid Unicode", value) from error
        return value


def json_records(path: Path) -> Iterator[Record]:
    """The objects of a JSON array or of JSON lines, whichever the file holds.

    Raises:
        DataNotFound: There is no such file.
        MalformedData: The file is not UTF-8, not JSON (`NaN` is not), cut off, empty, or holds something other
            than objects.
    """
    with _opened(path) as stream:
        start = stream.read(_CHUNK).removeprefix(_BOM).lstrip()[:1]
    if not start:
        raise MalformedData(path, "line 1", "the file is empty")
    if start == b"[":
        return _array_records(path)
    return _line_records(path)


def tsv_records(path: Path) -> Iterator[Record]:
    """The rows of a tab-separated file whose first row names the columns. Columns without a name are left out."""
    lines = _lines(path)
    header = [name.strip() for name in next(lines, (0, ""))[1].split("\t")]
    for index, (number, line) in enumerate(lines):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) > len(header):
            problem = f"{len(cells)} cells in a table of {len(header)} columns"
            raise MalformedData(path, f"line {number}", problem)
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
    """The lines that are not blank, numbered from 1."""
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
        except (ValueError, RecursionError) as error:
            raise MalformedData(path, f"line {number}", f"not JSON: {error}") from error
        yield Record(path, "line", number, index, _object(row, path, f"line {number}"))


def _array_records(path: Path) -> Iterator[Record]:
    index = -1
    with _opened(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
        elements = iter(_Array(text))
        while True:
            index += 1
            where = f"record {index + 1}"
            try:
                row = next(elements)
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                raise MalformedData(path, f"{where} or later", f"not UTF-8 ({error})") from error
            except (ValueError, RecursionError) as error:
                raise MalformedData(path, where, f"not JSON: {getattr(error, 'msg', error)}") from error
            yield Record(path, "record", index + 1, index, _object(row, path, where))


def _object(row: object, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise MalformedData(path, where, f"expected a JSON object, found {row!r:.80}")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


class _Array:
    """The elements of one JSON array, decoded while it is read: the official training sets are 0.6 GB each."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._at = 0

    def __iter__(self) -> Iterator[Any]:
        self._expect("[")
        if self._peek() == "]":
            self._at += 1
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
        self._at += 1
        return mark

    def _peek(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                if (mark := self._text[self._at]) not in " \t\r\n":
                    return mark
                self._at += 1
            if not self._grow():
                return ""

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._grow():
                    raise
            else:
                return value

    def _grow(self) -> bool:
        """Read on; False at the end of the file."""
        rest = self._text[self._at :]
        # As much again as is held, so that one huge record is not decoded anew for every chunk of it.
        more = self._stream.read(max(_CHUNK, len(rest)))
        self._text, self._at = rest + more, 0
        return bool(more)
