"""A Lucene index: written from a corpus, opened and searched by calling the Java classes.

The index of a corpus has the field "contents", in which the passages are searched, and the field "name" for titles
that are stop words alone, which is searched by queries that are stop words alone.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from raggym_env.core import Passage
from raggym_env.errors import DataError, RetrievalError, UnknownName
from raggym_env.retrieval.bm25.analysis import LUCENE_STOP_WORDS, fold, name_words
from raggym_env.retrieval.lucene.jvm import java_call, start
from raggym_env.retrieval.requests import encodable

__all__ = ["Analysis", "LuceneIndex", "in_memory", "java_classes", "make_analysis", "on_disk", "write_index"]

STEMMERS = ("porter", "krovetz", "none")
STOP_WORDS = ("english", "none")

_BUFFER_MB = 256.0  # memory for words before they are written to disk
_BATCH = 1024  # passages indexed per call into Java; other threads may search between two calls
_SEGMENT = 1_000_000  # passages in a segment that is not merged further: threads search different segments
_MERGED = 4  # segments that are merged into one
_NAME = "name"  # the field of titles that are stop words alone
_TRIMMED = "".join(map(chr, range(33)))  # the characters that Java's String.trim removes
_CLASSES = """
io.anserini.analysis.AnalyzerMap io.anserini.analysis.DefaultEnglishAnalyzer
io.anserini.collection.JsonCollection$Document io.anserini.index.IndexCollection$Args
io.anserini.index.generator.DefaultLuceneDocumentGenerator io.anserini.search.query.BagOfWordsQueryGenerator
java.nio.file.Paths java.util.HashMap java.util.concurrent.ForkJoinPool
org.apache.lucene.analysis.miscellaneous.PerFieldAnalyzerWrapper org.apache.lucene.document.Field$Store
org.apache.lucene.document.TextField org.apache.lucene.index.DirectoryReader org.apache.lucene.index.FieldInfos
org.apache.lucene.index.IndexWriter org.apache.lucene.index.IndexWriterConfig
org.apache.lucene.index.LogDocMergePolicy org.apache.lucene.search.FieldDoc org.apache.lucene.search.IndexSearcher
org.apache.lucene.search.ScoreDoc org.apache.lucene.search.Sort org.apache.lucene.search.SortField
org.apache.lucene.search.SortField$Type org.apache.lucene.search.TopDocs org.apache.lucene.search.TopFieldDocs
org.apache.lucene.search.similarities.BM25Similarity org.apache.lucene.store.ByteBuffersDirectory
org.apache.lucene.store.FSDirectory org.apache.lucene.util.Version
"""


def java_classes(heap: str) -> SimpleNamespace:
    """Return the Java classes by their short names, after starting the JVM if none runs yet. See `jvm.start`."""
    jnius = start(heap)
    with java_call("The classes of Lucene cannot be loaded"):
        return _classes(jnius)


@functools.cache
def _classes(jnius: Any) -> SimpleNamespace:
    names = _CLASSES.split()
    classes = {name.rpartition(".")[2].rpartition("$")[2]: jnius.autoclass(name) for name in names}
    # Lucene refuses a query of more than 1,024 different words, a limit meant for wildcard queries.
    classes["IndexSearcher"].setMaxClauseCount(2**31 - 1)
    return SimpleNamespace(cast=jnius.cast, **classes)


class Analysis(NamedTuple):
    """How passages and queries become words."""

    analyzer: Any
    """Anserini's or Lucene's analyzer."""
    names: Any = None
    """The analyzer of stop words where there is nothing else; None if they are not dropped, or not known."""
    fold: Callable[[str], str] = str
    """Applied to texts before they are analyzed."""


def make_analysis(java: Any, stemmer: str, stop_words: str, language: str) -> Analysis:
    """Return the analysis by Anserini's analyzer for English, or by Lucene's for another language.

    English texts are folded first, as for `bm25`. Other languages tell words apart by accents, and their analyzers
    know which.

    Raises:
        UnknownName: There is no such stemmer, list of stop words or language.
    """
    if stemmer not in STEMMERS:
        raise UnknownName("stemmer of 'lucene'", str(stemmer), STEMMERS)
    if stop_words not in STOP_WORDS:
        raise UnknownName("list of stop words", str(stop_words), STOP_WORDS)
    with java_call("Lucene cannot create the analyzer"):
        if language == "en":
            with_all = java.DefaultEnglishAnalyzer.fromArguments(stemmer, True, None)
            if stop_words == "none":
                return Analysis(with_all, fold=fold)
            return Analysis(java.DefaultEnglishAnalyzer.fromArguments(stemmer, False, None), with_all, fold)
        languages = set(java.AnalyzerMap.analyzerMap.keySet().toArray())
        if language not in languages:
            raise UnknownName("language of 'lucene'", str(language), {"en", *languages})
        return Analysis(java.AnalyzerMap.getLanguageSpecificAnalyzer(language))


def on_disk(java: Any, folder: Path) -> Any:
    """Return the Lucene directory in a folder."""
    with java_call(f"Lucene cannot open {folder}"):
        return java.FSDirectory.open(java.Paths.get(str(folder)))


def in_memory(java: Any) -> Any:
    """Return a Lucene directory in the Java heap."""
    with java_call("Lucene cannot create a directory in memory"):
        return java.ByteBuffersDirectory()


class LuceneIndex:
    """An open Lucene index, whose documents are identified by their numbers.

    Args:
        java: The classes of `java_classes`.
        directory: The Lucene directory that holds the index.
        analysis: Splits queries into words.
        k1, b: As in `LuceneRetriever`.
        threads: Segments searched at once.
        ties_by_id: Order equal scores by the ids of documents, not by their numbers.
    """

    size: int
    """Number of documents."""
    has_words: bool
    """True if any document has a word in the field "contents", which is the one that is searched."""

    def __init__(
        self,
        java: Any,
        directory: Any,
        analysis: Analysis,
        k1: float,
        b: float,
        threads: int = 1,
        ties_by_id: bool = False,
    ) -> None:
        self._analysis = analysis
        with java_call("Lucene cannot open the index"):
            self._reader = java.DirectoryReader.open(directory)
            self._searcher = _searcher(java, self._reader, threads)
            self._searcher.setSimilarity(java.BM25Similarity(float(k1), float(b)))
            self._order = _score_then_id(java, self._reader) if ties_by_id else None
            self._generator = java.BagOfWordsQueryGenerator()
            self.size = int(self._reader.maxDoc())
            self.has_words = bool(self._reader.getDocCount("contents") > 0)

    def find(self, query: str, k: int) -> list[tuple[int, float]]:
        """Return numbers and scores of the `k` best documents, best first."""
        query = encodable(self._analysis.fold(query))
        with java_call(f"Lucene failed on the query {query!r:.80}"):
            words = self._generator.buildQuery("contents", self._analysis.analyzer, query)
            hits = self._search(words, k)
            # Asked only where nothing was found, since every call into Java takes time.
            if not hits and self._analysis.names and words.toString() == "":
                hits = self._search(self._generator.buildQuery(_NAME, self._analysis.names, query), k)
            return hits

    def _search(self, words: Any, k: int) -> list[tuple[int, float]]:
        # True: also compute scores, which a sorted search leaves out.
        ordered = () if self._order is None else (self._order, True)
        return [(hit.doc, hit.score) for hit in self._searcher.search(words, k, *ordered).scoreDocs]

    def stored(self, number: int) -> dict[str, str | None]:
        """Return the stored fields of a document by Anserini's names; None for one that is not stored."""
        with java_call(f"Lucene cannot read document {number}"):
            document = self._searcher.storedFields().document(number)
            return {name: document.get(name) for name in ("id", "raw", "contents")}


def write_index(java: Any, corpus: Sequence[Passage], analysis: Analysis, title_weight: int, directory: Any) -> None:
    """Write an index with one document for each passage, numbered in corpus order. Reads the corpus as a stream.

    `title_weight` is how often a title is repeated before its text.

    Raises:
        DataError: The corpus has no words.
        RetrievalError: The index could not be written.
    """
    document = java.Document.fromFields
    # A single thread adds documents, since Lucene numbers them as they arrive; Java's threads merge segments meanwhile.
    with _writer(java, analysis, directory) as writer:
        generator = java.DefaultLuceneDocumentGenerator(java.Args())
        passages = iter(corpus)
        while batch := list(itertools.islice(passages, _BATCH)):
            with java_call("Lucene cannot index a passage"):
                for passage in batch:
                    text = encodable(analysis.fold(f"{passage.title}\n" * title_weight + passage.text))
                    # Anserini refuses an empty document; without it, all later ones would have wrong numbers.
                    fields = document(encodable(passage.id), text if text.strip(_TRIMMED) else ".")
                    indexed = generator.createDocument(fields)
                    if analysis.names and title_weight and (words := name_words(passage.title, LUCENE_STOP_WORDS)):
                        indexed.add(java.TextField(_NAME, " ".join(words), java.Store.NO))
                    writer.addDocument(indexed)
    # Hits are looked up by number, so a lost document would shift all later ones.
    index = LuceneIndex(java, directory, analysis, 1.0, 0.0)
    if not index.has_words:
        raise DataError(f"The corpus of {len(corpus)} passages has no word to search for.")
    if index.size != len(corpus):
        raise RetrievalError(f"Lucene indexed {index.size} of {len(corpus)} passages.")


@contextlib.contextmanager
def _writer(java: Any, analysis: Analysis, directory: Any) -> Iterator[Any]:
    """Yield a writer. The index is complete when the context ends, and rolled back if it ends in an error."""
    with java_call("Lucene cannot write the index"):
        merging = java.LogDocMergePolicy()  # merges adjacent segments only, which keeps document order
        merging.setMaxMergeDocs(_SEGMENT)
        merging.setMergeFactor(_MERGED)
        analyzers = java.HashMap()
        if analysis.names:
            analyzers.put(_NAME, analysis.names)
        config = java.IndexWriterConfig(java.PerFieldAnalyzerWrapper(analysis.analyzer, analyzers))
        config.setMergePolicy(merging)
        config.setRAMBufferSizeMB(_BUFFER_MB)
        writer = java.IndexWriter(directory, config)
    try:
        yield writer
    except BaseException:
        with java_call("Lucene cannot roll back the index"):
            writer.rollback()
        raise
    with java_call("Lucene cannot write the index"):
        writer.close()


def _searcher(java: Any, reader: Any, threads: int) -> Any:
    # Cast, so that pyjnius can choose among IndexSearcher's overloaded constructors.
    reader = java.cast("org.apache.lucene.index.IndexReader", reader)
    if threads > 1:
        searcher = java.IndexSearcher(reader, java.ForkJoinPool(threads))
        # A single slice would only be handed to another thread, which costs time and gains none.
        if len(searcher.getSlices()) > 1:
            return searcher
    return java.IndexSearcher(reader)


def _score_then_id(java: Any, reader: Any) -> Any:
    """Return the order by score and then by id; None if the index has no sortable ids, as those of Lucene 8."""
    field = java.FieldInfos.getMergedFieldInfos(reader).fieldInfo("id")
    if field is None or field.getDocValuesType().toString() != "BINARY":
        return None
    return java.Sort(java.SortField.FIELD_SCORE, java.SortField("id", java.Type.STRING_VAL))
