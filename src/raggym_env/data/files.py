"""Read the records of a question or corpus file (JSON array, JSON lines or TSV; plain, gzip or bzip2) as a stream.

Every fault in a file is reported as one `MalformedData` that names the file, the line or record, the field and the
value. A record, and what a compressed file may expand to, are limited, so that no file fills the memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Self, TextIO, TypeVar

from raggym_env.errors import DataError, DataNotFound, MalformedData
from raggym_env.storage.parsing import MAX_BYTES, ParseError, check_value, json_decoder, open_file, parse_json

__all__ = ["COMPRESSED", "Record", "archive_records", "is_archive", "json_document", "json_records", "tsv_records"]

COMPRESSED: Mapping[str, Callable[[BinaryIO], BinaryIO]] = {".gz": gzip.open, ".bz2": bz2.open}  # type: ignore[dict-item]
"""The last suffix of a compressed file's name -> the function that expands it."""

_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20  # characters read at a time
# A compressed file may expand to the larger of the two. Text is compressed to a fifth or so; a file of one repeated
# byte, made to fill a memory or a day, to a thousandth and less.
_EXPANSION, _EXPANDED = 250, 256 << 20

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
        """Return `value` if it is a string; the field's `name` is for the error."""
        if not isinstance(value, str):
            raise self.wrong(name, "a string", value)
        return value


def json_records(path: Path) -> Iterator[Record]:
    """Return the objects of a JSON array or of JSON lines, whichever the file holds.

    Raises:
        DataNotFound: The file does not exist.
        DataError: The file cannot be read, or is a pipe or a device.
        MalformedData: The file is not UTF-8, not JSON (`NaN` is not), cut off, empty, holds values other than
            objects, a record of more than `MAX_BYTES`, or expands to far more than its size.
    """
    # By content, not by name: 2WikiMultihopQA's official id_aliases.json holds JSON lines.
    with _opened(path) as stream:
        start = stream.read(_CHUNK).removeprefix(_BOM).lstrip()[:1]
    if not start:
        raise MalformedData(path, "line 1", "the file is empty")
    if start == b"[":
        return _array_records(path)
    return _line_records(path)


def json_document(path: Path) -> Any:
    """Return the one JSON value of a file of at most `MAX_BYTES`, plain or compressed.

    Raises:
        DataNotFound: The file does not exist.
        DataError: The file cannot be read, or is a pipe or a device.
        MalformedData: The file is larger, or not one JSON value in UTF-8.
    """
    with _opened(path) as stream:
        content = stream.read(MAX_BYTES + 1)
    try:
        return parse_json(content)
    except ParseError as error:
        raise MalformedData(path, "the whole file", str(error)) from error


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


def is_archive(path: Path) -> bool:
    """True if a file's name is that of a tar archive, compressed or not."""
    return path.suffix in (".tar", ".tgz") or (path.suffix in COMPRESSED and Path(path.stem).suffix == ".tar")


def archive_records(path: Path, names: re.Pattern[str]) -> Iterator[Record]:
    """Yield the JSON lines of the files in a tar archive, in its order, as a stream. Nothing is extracted.

    Args:
        path: The archive; its files may be compressed themselves.
        names: What the names of the files that are read match, without their folders.

    Raises:
        DataNotFound: The archive does not exist, or has no file of such a name.
        DataError: The archive cannot be read.
        MalformedData: It is damaged, or a file in it is not JSON lines; see `json_records`.
    """
    index, matched = 0, False
    with _opened(path) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isreg() else None
                    name = Path(member.name).name
                    if content is None or not names.fullmatch(name):
                        continue
                    matched = True
                    place = path / member.name.lstrip("/")  # for messages
                    for record in _line_records(place, _expanded(content, Path(name), member.size)):
                        yield replace(record, index=index)
                        index += 1
        except tarfile.TarError as error:
            raise MalformedData(path, "archive", f"damaged or not a tar archive ({error})") from error
    if not matched:
        raise DataNotFound(f"The archive {path} has no file of a corpus: none is named wiki_NN or *.jsonl (.gz, .bz2).")


class _Member(tarfile.TarInfo):
    """A file of an archive. Long names and other texts about it, which tarfile reads into memory, are limited."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> Self:
        member = super().frombuf(buf, encoding or "utf-8", errors)
        if not member.isfile() and member.size > MAX_BYTES:
            raise tarfile.ReadError(f"a header of more than {MAX_BYTES:,} bytes")
        return member


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with open_file(path) as raw:
            yield _expanded(raw, path, os.fstat(raw.fileno()).st_size)
    except FileNotFoundError as error:
        raise DataNotFound(f"No file at {path}.") from error
    except (EOFError, _Damaged, zlib.error) as error:
        raise MalformedData(path, "compressed stream", f"damaged or cut off ({error})") from error
    except _TooLarge as error:
        raise MalformedData(path, "compressed stream", str(error)) from error
    except (OSError, ParseError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _expanded(raw: Any, path: Path, size: int) -> BufferedReader:
    """Return the content of a file of `size` bytes, which is expanded if its name is that of a compressed one."""
    expand = COMPRESSED.get(".gz" if path.suffix == ".tgz" else path.suffix)
    if expand is None:
        return raw  # type: ignore[no-any-return]
    return BufferedReader(_Expanded(expand(raw), max(_EXPANDED, _EXPANSION * size)), _CHUNK)


class _Damaged(Exception):
    pass


class _TooLarge(Exception):
    pass


class _Expanded(io.RawIOBase):
    """The content of a compressed file, up to a limit."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream = stream
        self._left = self._limit = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except OSError as error:  # both classes raise it for content that is not theirs
            raise _Damaged(str(error)) from error
        self._left -= len(data)
        if self._left < 0:
            raise _TooLarge(f"it expands to more than {self._limit:,} bytes, far more than text does")
        buffer[: len(data)] = data
        return len(data)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are not blank, with their numbers from 1."""
    with _opened(path) as stream:
        yield from _lines_of(path, stream)


def _lines_of(path: Path, stream: BufferedReader) -> Iterator[tuple[int, str]]:
    # Read as bytes and decoded line by line, so that the error can name the line that is not UTF-8.
    for number in itertools.count(1):
        if not (line := stream.readline(MAX_BYTES + 1)):
            return
        if len(line) > MAX_BYTES:
            raise MalformedData(path, f"line {number}", f"longer than {MAX_BYTES:,} bytes")
        if number == 1:
            line = line.removeprefix(_BOM)
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise MalformedData(path, f"line {number}", f"not UTF-8 ({error})") from error
        if text.strip():
            yield number, text


def _line_records(path: Path, stream: BufferedReader | None = None) -> Iterator[Record]:
    lines = _lines(path) if stream is None else _lines_of(path, stream)
    for index, (number, text) in enumerate(lines):
        try:
            row = parse_json(text)
        except ParseError as error:
            raise MalformedData(path, f"line {number}", str(error)) from error
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
            except ParseError as error:
                raise MalformedData(path, where, str(error)) from error
            except RecursionError:
                raise MalformedData(path, where, "not readable JSON: nested too deeply") from None
            except ValueError as error:
                raise MalformedData(path, where, f"not JSON: {getattr(error, 'msg', error)}") from error
            yield Record(path, "record", index + 1, index, _object(row, path, where))


def _object(row: object, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise MalformedData(path, where, f"expected a JSON object, found {row!r:.80}")
    return row


class _Array:
    """The elements of one JSON array, decoded while the file is read.

    `json.load` would hold an official training set of 0.6 GB in memory several times over, and a streaming parser
    such as ijson would be one more compiled dependency.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""  # the part of the file in memory
        self._position = 0  # of the next character in `_text` that was not read
        self._decoder = json_decoder()

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
            start = self._position
            try:
                value, self._position = self._decoder.raw_decode(self._text, start)
            except json.JSONDecodeError:
                if len(self._text) - start > MAX_BYTES:
                    raise ParseError(f"no record ends within {MAX_BYTES:,} characters") from None
                if not self._grow():
                    raise
            else:
                return check_value(value, self._text[start : self._position])

    def _grow(self) -> bool:
        """Read the next part of the file; False at its end."""
        rest = self._text[self._position :]
        # At least as much again as is in memory: a huge record is then decoded anew only log(size) times.
        more = self._stream.read(max(_CHUNK, len(rest)))
        self._text, self._position = rest + more, 0
        return bool(more)
