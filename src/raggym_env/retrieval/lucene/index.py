"""A Lucene index: written from a corpus, opened and searched, through the Java classes themselves."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from raggym_env.core import Passage
from raggym_env.errors import DataError, RetrievalError, UnknownName
from raggym_env.retrieval.lucene import jvm as _jvm
from raggym_env.retrieval.requests import encodable

__all__ = [
    "STEMMERS",
    "STOP_WORDS",
    "IndexBuilder",
    "LuceneIndex",
    "in_memory",
    "java_classes",
    "make_analyzer",
    "on_disk",
]

STEMMERS = ("porter", "krovetz", "none")
STOP_WORDS = ("english", "none")

_BUFFER_MB = 256.0  # words gathered in memory before they are written
_BATCH = 1024  # passages between two chances for other threads to search
_SEGMENT = 1_000_000  # passages in a part of the index that is not merged any more: one thread searches one part
_MERGED = 4  # parts that are merged into one
_TRIMMED = "".join(map(chr, range(33)))  # by Java
_CLASSES = """
io.anserini.analysis.AnalyzerMap
io.anserini.analysis.DefaultEnglishAnalyzer
io.anserini.collection.JsonCollection$Document
io.anserini.index.IndexCollection$Args
io.anserini.index.generator.DefaultLuceneDocumentGenerator
io.anserini.search.query.BagOfWordsQueryGenerator
java.nio.file.Paths
java.util.concurrent.ForkJoinPool
org.apache.lucene.index.DirectoryReader
org.apache.lucene.index.FieldInfos
org.apache.lucene.index.IndexWriter
org.apache.lucene.index.IndexWriterConfig
org.apache.lucene.index.LogDocMergePolicy
org.apache.lucene.search.FieldDoc
org.apache.lucene.search.IndexSearcher
org.apache.lucene.search.ScoreDoc
org.apache.lucene.search.Sort
org.apache.lucene.search.SortField
org.apache.lucene.search.SortField$Type
org.apache.lucene.search.TopDocs
org.apache.lucene.search.TopFieldDocs
org.apache.lucene.search.similarities.BM25Similarity
org.apache.lucene.store.ByteBuffersDirectory
org.apache.lucene.store.FSDirectory
org.apache.lucene.util.Version
"""


def java_classes(heap: str) -> SimpleNamespace:
    """The Java classes, by their last names, in a running JVM."""
    jnius = _jvm.start(heap)
    with _jvm.calls("The classes of Lucene cannot be loaded"):
        return _classes(jnius)


@functools.cache
def _classes(jnius: Any) -> SimpleNamespace:
    names = _CLASSES.split()
    classes = {name.rpartition(".")[2].rpartition("$")[2]: jnius.autoclass(name) for name in names}
    # Lucene refuses a query of more than 1,024 different words, a guard for queries that it expands itself.
    classes["IndexSearcher"].setMaxClauseCount(2**31 - 1)
    return SimpleNamespace(cast=jnius.cast, **classes)


def make_analyzer(java: Any, stemmer: str, stop_words: str, language: str) -> Any:
    """Anserini's analyser for English, or Lucene's for another language."""
    if stemmer not in STEMMERS:
        raise UnknownName("stemmer of 'lucene'", str(stemmer), STEMMERS)
    if stop_words not in STOP_WORDS:
        raise UnknownName("list of stop words", str(stop_words), STOP_WORDS)
    with _jvm.calls("Lucene cannot make the analyser"):
        if language == "en":
            return java.DefaultEnglishAnalyzer.fromArguments(stemmer, stop_words == "none", None)
        if language not in (known := set(java.AnalyzerMap.analyzerMap.keySet().toArray())):
            raise UnknownName("language of 'lucene'", str(language), {"en", *known})
        return java.AnalyzerMap.getLanguageSpecificAnalyzer(language)


def on_disk(java: Any, folder: Path) -> Any:
    """The Lucene directory in a folder."""
    with _jvm.calls(f"Lucene cannot open {folder}"):
        return java.FSDirectory.open(java.Paths.get(str(folder)))


def in_memory(java: Any) -> Any:
    """A Lucene directory in the Java heap."""
    with _jvm.calls("Lucene cannot make a directory in memory"):
        return java.ByteBuffersDirectory()


class LuceneIndex:
    """An open Lucene index. Its documents go by their numbers.

    Args:
        java: The classes.
        directory: Where the index is.
        analyzer: Cuts queries into words.
        k1: See `LuceneRetriever`, like `b`.
        b: See `k1`.
        threads: Parts of the index to search at once.
        ties_by_id: Order equal scores by the ids of documents, not by their numbers.
    """

    size: int
    """Number of documents."""
    has_words: bool

    def __init__(
        self,
        java: Any,
        directory: Any,
        analyzer: Any,
        k1: float,
        b: float,
        *,
        threads: int = 1,
        ties_by_id: bool = False,
    ) -> None:
        self._analyzer = analyzer
        with _jvm.calls("Lucene cannot open the index"):
            self._reader = java.DirectoryReader.open(directory)
            self._searcher = _searcher(java, self._reader, threads)
            self._searcher.setSimilarity(java.BM25Similarity(float(k1), float(b)))
            self._order = _score_then_id(java) if ties_by_id and _has_sortable_ids(java, self._reader) else None
            self._generator = java.BagOfWordsQueryGenerator()
            self.size = int(self._reader.maxDoc())
            self.has_words = bool(self._reader.getDocCount("contents") > 0)

    def find(self, query: str, k: int) -> list[tuple[int, float]]:
        """Numbers and scores of the `k` best documents, best first."""
        with _jvm.calls(f"Lucene failed on the query {query!r:.80}"):
            words = self._generator.buildQuery("contents", self._analyzer, encodable(query))
            if self._order is None:
                found = self._searcher.search(words, k)
            else:
                found = self._searcher.search(words, k, self._order, True)
            return [(hit.doc, hit.score) for hit in found.scoreDocs]

    def stored(self, number: int) -> dict[str, str | None]:
        """What is stored of a document, by Anserini's names."""
        with _jvm.calls(f"Lucene cannot read document {number}"):
            document = self._searcher.storedFields().document(number)
            return {name: document.get(name) for name in ("id", "raw", "contents")}


class IndexBuilder(NamedTuple):
    """Writes an index with one document for each passage, numbered in corpus order.

    One thread, since Lucene numbers documents as they arrive; merging goes on beside it in Java's own.
    """

    java: Any
    corpus: Sequence[Passage]
    analyzer: Any
    title_weight: int

    def build(self, directory: Any) -> None:
        """Index the corpus, read once as a stream.

        Raises:
            DataError: The corpus holds no word.
            RetrievalError: The index could not be written.
        """
        document = self.java.Document.fromFields
        with self._writer(directory) as writer:
            generator = self.java.DefaultLuceneDocumentGenerator(self.java.Args())
            passages = iter(self.corpus)
            while batch := list(itertools.islice(passages, _BATCH)):
                with _jvm.calls("Lucene cannot index a passage"):
                    for passage in batch:
                        fields = document(encodable(passage.id), self._contents(passage))
                        writer.addDocument(generator.createDocument(fields))
        self._check(directory)

    def _contents(self, passage: Passage) -> str:
        text = encodable(f"{passage.title}\n" * self.title_weight + passage.text)
        # Anserini refuses an empty document; without it, all that follow would have a wrong number.
        return text if text.strip(_TRIMMED) else "."

    def _check(self, directory: Any) -> None:
        index = LuceneIndex(self.java, directory, self.analyzer, 1.0, 0.0)
        if not index.has_words:
            raise DataError(f"The corpus of {len(self.corpus)} passages holds no word to search for.")
        if index.size != len(self.corpus):
            raise RetrievalError(f"Lucene indexed {index.size} of {len(self.corpus)} passages.")

    @contextlib.contextmanager
    def _writer(self, directory: Any) -> Iterator[Any]:
        """A writer that has written everything when this ends, or nothing at all if it ends in an error."""
        with _jvm.calls("Lucene cannot write the index"):
            merging = self.java.LogDocMergePolicy()  # merges neighbours only: the order stays
            merging.setMaxMergeDocs(_SEGMENT)
            merging.setMergeFactor(_MERGED)
            config = self.java.IndexWriterConfig(self.analyzer)
            config.setMergePolicy(merging)
            config.setRAMBufferSizeMB(_BUFFER_MB)
            writer = self.java.IndexWriter(directory, config)
        try:
            yield writer
        except BaseException:
            with _jvm.calls("Lucene cannot give up the index"):
                writer.rollback()
            raise
        with _jvm.calls("Lucene cannot write the index"):
            writer.close()


def _searcher(java: Any, reader: Any, threads: int) -> Any:
    reader = java.cast("org.apache.lucene.index.IndexReader", reader)
    if threads > 1:
        searcher = java.IndexSearcher(reader, java.ForkJoinPool(threads))
        if len(searcher.getSlices()) > 1:  # with one, handing it to another thread is all that would come of it
            return searcher
    return java.IndexSearcher(reader)


def _score_then_id(java: Any) -> Any:
    return java.Sort(java.SortField.FIELD_SCORE, java.SortField("id", java.Type.STRING_VAL))


def _has_sortable_ids(java: Any, reader: Any) -> bool:
    """Not in indexes of Lucene 8 and before."""
    field = java.FieldInfos.getMergedFieldInfos(reader).fieldInfo("id")
    return field is not None and field.getDocValuesType().toString() == "BINARY"
