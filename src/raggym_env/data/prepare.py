"""Preparing corpora: once per source, under a lock, into the cache; complete or not at all.

A prepared corpus lies in `<cache>/corpora/<key>/`. The key names the source by its resolved path, size and time
of change (a generated world by its fingerprint) and the format version, so a changed source is prepared anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raggym_env.core import Passage
from raggym_env.data.corpus import BATCH_ROWS, FORMAT_VERSION, Corpus, write_corpus
from raggym_env.data.formats import read_contexts
from raggym_env.data.hub import PREFIX, HubName, hub_records
from raggym_env.data.passages import as_passages, read_passages
from raggym_env.errors import DataNotFound
from raggym_env.storage.paths import cache_dir

if TYPE_CHECKING:
    from raggym_env.data.synth import SynthWorld

__all__ = [
    "CorpusSource",
    "contexts_source",
    "file_source",
    "hub_source",
    "prepare_corpus",
    "prepared_corpus",
    "world_source",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusSource:
    """Where a corpus can be read from."""

    origin: str
    """For messages and records, e.g. the path of a file."""
    identity: tuple[Any, ...]
    """What tells this source from others and from its own earlier contents, as JSON values."""
    passages: Callable[[], Iterable[Passage]]

    @property
    def folder(self) -> Path:
        """Where its corpus is, once prepared."""
        text = json.dumps([FORMAT_VERSION, BATCH_ROWS, *self.identity])
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        words = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(Path(self.origin).parts[-2:])).strip("-")[:60]
        return cache_dir() / "corpora" / f"{words}-{digest}"


def file_source(path: Path) -> CorpusSource:
    """A corpus file in one of the forms of `raggym_env.data.passages.read_passages`."""
    return CorpusSource(str(path), ("file", *_stamp(path)), lambda: read_passages(path))


def contexts_source(path: Path, format: str) -> CorpusSource:
    """The pooled paragraphs of all records of a question file, each title-and-text pair once."""
    identity = ("contexts", format, *_stamp(path))
    return CorpusSource(f"{path} (contexts)", identity, lambda: read_contexts(path, format))


def hub_source(name: HubName) -> CorpusSource:
    """A corpus on the Hugging Face hub, in one of the same forms."""
    origin = f"{PREFIX}{':'.join(filter(None, name))}"
    return CorpusSource(origin, ("hub", *name), lambda: as_passages(hub_records(name), Path(origin)))


def world_source(world: SynthWorld) -> CorpusSource:
    """The encyclopedia of a generated world."""
    return CorpusSource("synthetic world", ("synth", world.fingerprint), world.passages)


def prepared_corpus(source: CorpusSource) -> Corpus | None:
    """The source's corpus if it was prepared before, else None. Prepares nothing."""
    return Corpus(source.folder) if source.folder.is_dir() else None


def prepare_corpus(source: CorpusSource | Path) -> Corpus:
    """Open a source's corpus, preparing it first where that was not done before.

    Reads the source as a stream; memory stays bounded. Processes that prepare one source at the same time wait for
    the first of them. What a killed process leaves behind is deleted and started anew.

    Args:
        source: A `CorpusSource`, or the path of a corpus file.

    Raises:
        DataNotFound: There is no such file.
        MalformedData: The source breaks its form.
    """
    from filelock import FileLock

    source = file_source(source) if isinstance(source, Path) else source
    if corpus := prepared_corpus(source):
        return corpus
    folder = source.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _prepare(source, folder)
    return Corpus(folder)


def _prepare(source: CorpusSource, folder: Path) -> None:
    _log.info("Preparing the corpus of %s in %s", source.origin, folder)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write_corpus(source.passages(), partial, origin=source.origin)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError as error:
        raise DataNotFound(f"No file at {path}.") from error
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns
