"""Read the passages of a corpus file: JSON lines, plain or gzip, in the forms used by published corpora."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from raggym_env.core import Passage
from raggym_env.data.files import Record, json_records
from raggym_env.data.formats import clean_title
from raggym_env.errors import MalformedData

__all__ = ["as_passages", "read_passages"]


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield the passages of a corpus file, in the file's order, as a stream.

    The form is detected from the first row and then required of every row:

    - `id, title, text` (ours; BEIR's `_id` is read as `id`)
    - `id, title, content` (MedRAG)
    - `id, contents`, the title being the first line (Pyserini; Search-R1 puts it in double quotes)

    Raises:
        DataNotFound: The file does not exist.
        MalformedData: A row does not have the form. A text may be empty; an id may not.
    """
    return as_passages(json_records(path), path)


def as_passages(records: Iterable[Record], path: Path) -> Iterator[Passage]:
    """Yield the passages of corpus records from any source; see `read_passages`."""
    read: Callable[[Record], Passage] | None = None
    for record in records:
        read = read or _reader(record)
        yield read(record)
    if read is None:
        raise MalformedData(path, "all records", "the file holds no passage")


def _reader(first: Record) -> Callable[[Record], Passage]:
    """Return the function that reads rows of the form of the first."""
    fields = first.fields
    key = "id" if "id" in fields or "_id" not in fields else "_id"
    # MedRAG's rows also have `contents`, where the title is not a line of its own, so `content` is tried first.
    for body in ("text", "content"):
        if "title" in fields and body in fields:
            return lambda record: Passage(
                record.identifier(key), clean_title(_string(record, "title")), _string(record, body)
            )
    if "contents" not in fields:
        raise first.error(
            "not a passage: expected the fields id, title, text or id, title, content or id, contents, "
            f"found {sorted(fields)}"
        )
    # Quotes are taken off only if the first title has them: "Heroes" in quotes is a title of its own.
    quoted = _is_quoted(first.optional_text("contents").partition("\n")[0])

    def read_contents(record: Record) -> Passage:
        title, newline, text = _string(record, "contents").partition("\n")
        if not newline:  # a passage without a title
            title, text = "", title
        elif quoted and _is_quoted(title):
            title = title[1:-1]
        return Passage(record.identifier(key), clean_title(title), text)

    return read_contents


def _is_quoted(line: str) -> bool:
    return len(line) >= 2 and line.startswith('"') and line.endswith('"')


def _string(record: Record, name: str) -> str:
    # Unlike `Record.text`, an empty string will do.
    value = record.fields.get(name)
    if value is None:
        raise record.error(f"field {name!r} is missing or null, unlike in the first row")
    return record.checked(name, value)
