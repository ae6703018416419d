"""Prepare corpora: convert a source into an Arrow file in the cache, once, under a lock, complete or not at all.

A prepared corpus is in `<cache>/corpora/<words>-<hash>/`. The hash covers the format version and the source: for a
file its resolved path, size and modification time, for a generated world its fingerprint. A changed source therefore
gets a new folder and is prepared again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

from raggym_env.core import Passage
from raggym_env.data.corpus import BATCH_ROWS, FORMAT_VERSION, Corpus, write_corpus
from raggym_env.data.formats import read_contexts
from raggym_env.data.passages import corpus_files, read_passages
from raggym_env.errors import DataError, DataNotFound
from raggym_env.storage.atomic import atomic_folder, build_once
from raggym_env.storage.paths import cache_dir

__all__ = ["CorpusSource", "contexts_source", "file_source", "prepare_corpus", "prepared_corpus"]

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
    return CorpusSource(str(path), ("file", *itertools.chain.from_iterable(stamps)), lambda: read_passages(path))


def contexts_source(path: Path, format: str) -> CorpusSource:
    """Return the source for the paragraphs of all records of a question file, each title-and-text pair once."""
    identity = ("contexts", format, *_stamp(path))
    return CorpusSource(f"{path} (contexts)", identity, lambda: read_contexts(path, format))


def prepared_corpus(source: CorpusSource) -> Corpus | None:
    """Open the source's corpus if it is already prepared, else return None."""
    return Corpus(source.folder) if source.folder.is_dir() else None


def prepare_corpus(source: CorpusSource | Path) -> Corpus:
    """Open a source's corpus, preparing it first if that has not been done.

    Reads the source as a stream, so memory stays bounded. Of several processes that prepare the same source at once,
    one does and the others wait. What a killed process leaves behind is deleted by the next.

    Args:
        source: A `CorpusSource`, or the path of a corpus file.

    Raises:
        DataNotFound: The file does not exist.
        MalformedData: The source does not follow its format.
    """
    source = file_source(source) if isinstance(source, Path) else source

    def build(folder: Path) -> None:
        _log.info("Preparing the corpus of %s in %s", source.origin, folder)
        with atomic_folder(folder) as partial:
            write_corpus(source.passages(), partial, origin=source.origin)

    return Corpus(build_once(source.folder, build))


def _stamp(path: Path) -> tuple[str, int, int]:
    # Hashing the content instead would read a Wikipedia dump of 14 GB at every start.
    try:
        stat = path.stat()
    except FileNotFoundError as error:
        raise DataNotFound(f"No file at {path}.") from error
    if not S_ISREG(stat.st_mode):  # reading a pipe or a device may never end
        raise DataError(f"{path} is not a regular file.")
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns
