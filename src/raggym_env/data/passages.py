"""Passages from a corpus file: JSON lines, plain or gzip, in the forms that the field's corpora come in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from raggym_env.core import Passage
from raggym_env.data.files import Record, json_records
from raggym_env.data.formats import clean_title
from raggym_env.errors import MalformedData

__all__ = ["as_passages", "read_passages"]


def read_passages(path: Path) -> Iterator[Passage]:
    """The passages of a corpus file, in its order, read as a stream.

    The form is taken from the first row and then required of every row:

    - `id, title, text` (ours; BEIR's `_id` is read as `id`)
    - `id, title, content` (MedRAG)
    - `id, contents`, the title being the first line (Pyserini; Search-R1 puts it in double quotes)

    Raises:
        DataNotFound: There is no such file.
        MalformedData: A row breaks the form. A text may be empty; an id may not.
    """
    return as_passages(json_records(path), path)


def as_passages(records: Iterable[Record], path: Path) -> Iterator[Passage]:
    """The passages of corpus records from any source; see `read_passages`."""
    read: Callable[[Record], Passage] | None = None
    for record in records:
        if read is None:
            read = _form(record)
        yield read(record)
    if read is None:
        raise MalformedData(path, "all records", "the file holds no passage")


def _form(first: Record) -> Callable[[Record], Passage]:
    fields = first.fields
    key = "id" if "id" in fields or "_id" not in fields else "_id"
    for text in ("text", "content"):
        if "title" in fields and text in fields:
            return lambda record: _titled(record, key, text)
    if "contents" in fields:
        quoted = _is_quoted(first.optional_text("contents").partition("\n")[0])
        return lambda record: _contents(record, key, quoted)
    raise first.error(
        "not a passage: expected the fields id, title, text or id, title, content or id, contents, "
        f"found {sorted(fields)}"
    )


def _titled(record: Record, key: str, text: str) -> Passage:
    title = clean_title(_string(record, "title"))
    return Passage(record.identifier(key), title, _string(record, text))


def _contents(record: Record, key: str, quoted: bool) -> Passage:
    first, newline, rest = _string(record, "contents").partition("\n")
    if not newline:
        return Passage(record.identifier(key), "", first)
    title = first[1:-1] if quoted and _is_quoted(first) else first
    return Passage(record.identifier(key), clean_title(title), rest)


def _is_quoted(line: str) -> bool:
    return len(line) >= 2 and line.startswith('"') and line.endswith('"')


def _string(record: Record, name: str) -> str:
    value = record.fields.get(name)
    if value is None:
        raise record.error(f"field {name!r} is missing or null, unlike in the first row")
    return record.checked(name, value)
