"""Prepare corpora: convert a source into an Arrow file in the cache, once, under a lock, complete or not at all.

A prepared corpus is in `<cache>/corpora/<words>-<hash>/`. The hash covers the format version and the source: for a
file its resolved path, size and modification time, for a generated world its fingerprint. A changed source therefore
gets a new folder and is prepared again. So is a file that was replaced by another of its size and time: the folder
has its checksum, which is compared when its inode or change time is another than before.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raggym_env.core import Passage
from raggym_env.data.corpus import BATCH_ROWS, FORMAT_VERSION, Corpus, write_corpus
from raggym_env.data.formats import read_contexts
from raggym_env.data.passages import corpus_files, read_passages
from raggym_env.errors import DataError, DataNotFound
from raggym_env.storage.atomic import atomic_folder, build_once
from raggym_env.storage.checksums import checksums, file_problems
from raggym_env.storage.parsing import ParseError, parse_json, read_file
from raggym_env.storage.paths import cache_dir

__all__ = ["CorpusSource", "contexts_source", "file_source", "prepare_corpus", "prepared_corpus", "source_problems"]

_SOURCE = "source.json"  # in a prepared folder, the checksum of the file that it was prepared from
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusSource:
    """Passages that a corpus can be prepared from."""

    origin: str
    """Description of the source for messages and the manifest, such as the path of a file."""
    identity: tuple[Any, ...]
    """JSON values that differ between any two sources, and between a source's present and earlier contents."""
    passages: Callable[[], Iterable[Passage]]
    """Starts to read the passages. Not called if the corpus is already prepared."""
    file: Path | None = None
    """The file that the passages are read from, if there is one."""

    @property
    def folder(self) -> Path:
        """The folder of the prepared corpus, whether or not it exists."""
        text = json.dumps([FORMAT_VERSION, BATCH_ROWS, *self.identity])
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        # The hash identifies the folder; the words are for people who look through the cache.
        words = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(Path(self.origin).parts[-2:])).strip("-")[:60]
        return cache_dir() / "corpora" / f"{words}-{digest}"


def file_source(path: Path) -> CorpusSource:
    """Return the source for a corpus file or folder in one of the forms of `raggym_env.data.passages.read_passages`."""
    stamps = (_stamp(file) for file in corpus_files(path))
    identity = ("file", *itertools.chain.from_iterable(stamps))
    return CorpusSource(str(path), identity, lambda: read_passages(path), path if path.is_file() else None)


def contexts_source(path: Path, format: str) -> CorpusSource:
    """Return the source for the paragraphs of all records of a question file, each title-and-text pair once."""
    identity = ("contexts", format, *_stamp(path))
    return CorpusSource(f"{path} (contexts)", identity, lambda: read_contexts(path, format), path)


def prepared_corpus(source: CorpusSource) -> Corpus | None:
    """Open the source's corpus if it is already prepared, else return None."""
    folder = source.folder
    return Corpus(folder) if folder.is_dir() and not source_problems(source.file, folder) else None


def source_problems(file: Path | None, folder: Path, **options: Any) -> list[str]:
    """Return in what a source file differs from the one that the corpus in `folder` was prepared from.

    `options` are those of `raggym_env.storage.checksums.file_problems`.
    """
    if file is None:
        return []
    try:
        recorded = parse_json(read_file(folder / _SOURCE))
    except (OSError, ParseError) as error:
        return [f"{_SOURCE} cannot be read ({error})"]
    return file_problems(file.parent, recorded, **options)


def prepare_corpus(source: CorpusSource | Path) -> Corpus:
    """Open a source's corpus, preparing it first if that has not been done.

    Reads the source as a stream, so memory stays bounded. Of several processes that prepare the same source at once,
    one does and the others wait. What a killed process leaves behind is deleted by the next.

    Args:
        source: A `CorpusSource`, or the path of a corpus file.

    Raises:
        DataNotFound: The file does not exist.
        DataError: The file cannot be read, or the prepared corpus is damaged.
        MalformedData: The source does not follow its format.
    """
    source = file_source(source) if isinstance(source, Path) else source

    def build(folder: Path) -> None:
        _log.info("Preparing the corpus of %s in %s", source.origin, folder)
        with atomic_folder(folder) as partial:
            if source.file is not None:  # before it is read: should it change meanwhile, the difference is noticed
                checksum = checksums(source.file.parent, [source.file.name])
                (partial / _SOURCE).write_text(json.dumps(checksum), encoding="utf-8")
            write_corpus(source.passages(), partial, origin=source.origin)

    def outdated(folder: Path) -> bool:
        problems = source_problems(source.file, folder)
        if problems:
            _log.warning("%s was replaced, and is prepared again: %s", source.origin, "; ".join(problems))
        return bool(problems)

    return Corpus(build_once(source.folder, build, outdated=outdated))


def _stamp(path: Path) -> tuple[str, int, int]:
    # Hashing the content instead would read a Wikipedia dump of 14 GB at every start.
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise DataNotFound(f"No file at {path}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise DataError(f"{path} is not a regular file.")
    return str(path.resolve()), status.st_size, status.st_mtime_ns
