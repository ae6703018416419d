"""Read the passages of a corpus: JSON lines, plain or compressed, in the forms used by published corpora."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from raggym_env.core import Passage
from raggym_env.data.files import Record, archive_records, is_archive, json_records
from raggym_env.data.formats import clean_title, joined, web_page
from raggym_env.errors import DataNotFound, MalformedData

__all__ = ["as_passages", "corpus_files", "read_passages"]

# The names of the files that WikiExtractor writes, and of JSON files, compressed or not.
_PART = re.compile(r"(?:wiki_\d+|.*\.jsonl?)(?:\.gz|\.bz2)?")


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield the passages of a corpus file, in the file's order, as a stream.

    The form is detected from the first row and then required of every row:

    - `id, title, text` (ours; BEIR's `_id` is read as `id`)
    - `id, title, content` (MedRAG)
    - `id, contents`, the title being the first line (Pyserini; Search-R1 puts it in double quotes)
    - `docid, text` (BrowseComp-Plus), the title standing in the first lines of the text

    The title may be missing or null. A text may be a list of sentences, or of paragraphs of sentences, as in the dumps
    that HotpotQA publishes.

    Args:
        path: A file; a folder such as one of those dumps: its files `wiki_NN` and `*.jsonl`, also compressed, in
            subfolders too, are read in the order of their paths; or such a dump as it is published, a `.tar.bz2` (or
            `.tar.gz`) of such files, in the order of the archive.

    Raises:
        DataNotFound: The file does not exist, or the folder has no such file.
        MalformedData: A row does not have the form. A text may be empty; an id may not.
    """
    if is_archive(path):
        return as_passages(archive_records(path, _PART), path)
    return as_passages(itertools.chain.from_iterable(map(json_records, corpus_files(path))), path)


def corpus_files(path: Path) -> list[Path]:
    """Return the files of a corpus: the file itself, or those of a folder; see `read_passages`.

    Raises:
        DataNotFound: The folder has no file of a corpus.
    """
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if _PART.fullmatch(file.name) and file.is_file())
    if not files:
        raise DataNotFound(f"The folder {path} has no file of a corpus: none is named wiki_NN or *.jsonl (.gz, .bz2).")
    return files


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
    key = next((name for name in ("id", "_id", "docid") if name in fields), "id")
    # MedRAG's rows also have `contents`, where the title is not a line of its own, so `content` is tried first.
    body = next((name for name in ("text", "content", "contents") if name in fields), None)
    if body is None:
        raise first.error(
            "not a passage: expected the fields id, title, text or id, title, content or id, contents or docid, text, "
            f"found {sorted(fields)}"
        )
    if key == "docid" and "title" not in fields:
        return lambda record: web_page(record.identifier(key), _text(record, body))
    if body != "contents":
        return lambda record: Passage(
            record.identifier(key), clean_title(record.optional_text("title")), _text(record, body)
        )
    # Quotes are taken off only if the first title has them: "Heroes" in quotes is a title of its own.
    quoted = _is_quoted(first.optional_text("contents").partition("\n")[0])

    def read_contents(record: Record) -> Passage:
        contents, title = _text(record, "contents"), record.optional_text("title")
        head, newline, text = contents.partition("\n")
        if quoted and _is_quoted(head):
            head = head[1:-1]
        # The first line is the title, unless it is all there is or the row has another title.
        if not newline or title not in ("", head):
            return Passage(record.identifier(key), clean_title(title), contents)
        return Passage(record.identifier(key), clean_title(head), text)

    return read_contents


def _is_quoted(line: str) -> bool:
    return len(line) >= 2 and line.startswith('"') and line.endswith('"')


def _text(record: Record, name: str) -> str:
    """Return a required field as one text. Unlike for `Record.text`, an empty one will do."""
    value = record.fields.get(name)
    if value is None:
        raise record.error(f"field {name!r} is missing or null, unlike in the first row")
    if not isinstance(value, list):
        return record.checked(name, value)
    # Paragraphs are lists themselves. Sentences begin with the space that parts them.
    sentences = itertools.chain.from_iterable(part if isinstance(part, list) else [part] for part in value)
    return joined(record.checked(name, sentence) for sentence in sentences)
