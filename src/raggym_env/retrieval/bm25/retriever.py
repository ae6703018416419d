"""BM25 with the scores of bm25s: the default search engine.

As in bm25s (arXiv:2407.03618) every term of every passage is scored when the index is built, by Lucene's formula,
and the scores are stored by term: see `raggym_env.retrieval.bm25.index`, also for why bm25s does not build it (three
times the memory and CPU time, measured). A query is then a sum over the postings of its terms. The sum and the
choice of the best are computed here, over the passages that contain a term of the query, in one of two ways:

- in NumPy, which needs nothing else and compiles nothing;
- in a small numba kernel (the extra `fast`), for `KERNEL_BATCH` queries at once or many in all: see
  `raggym_env.retrieval.bm25.kernel`, also for why it skips no passage.

Both add the same float32 scores into float64 sums in the order of the query's terms, so they agree to the last bit.
Thousands of queries per CPU second, k=5, from the numbers of the query's terms on (`benchmarks/scale.py --kernels`);
bm25s, whose equal scores have no fixed order, on the same index beside them:

    passages    NumPy   numba, batches of 32   one by one   bm25s with numba, batches   one by one
       12,000   13.1            85.9              44.2                44.8                26.7
      100,000    1.9            18.7              15.1                 7.3                 6.3
      300,000    0.57            6.3               5.1                 2.4                 2.0
    1,000,000    0.19            2.1               1.9                 0.61                0.56
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raggym_env.core import Passage
from raggym_env.errors import MissingExtra, RAGGymError, RetrievalError, UnknownName
from raggym_env.protocols import Hit
from raggym_env.retrieval.bm25.index import FORMAT, Index, write_index
from raggym_env.retrieval.bm25.options import BM25Options
from raggym_env.retrieval.index_store import Store, corpus_key, key_hash, open_or_build, store_folder
from raggym_env.retrieval.requests import check_request

__all__ = ["KERNEL_AFTER", "KERNEL_BATCH", "LARGE_CORPUS", "BM25Retriever"]

BACKENDS = ("auto", "numba", "numpy")
KERNEL_BATCH = 8
"""Queries in one request from which the numba kernel is used, with `backend="auto"`."""
KERNEL_AFTER = 100_000_000
"""Queries times passages after which it is used for all requests: NumPy has then taken as long as loading it takes."""
LARGE_CORPUS = 100_000
"""Passages from which "auto" without numba suggests installing it. Over this many NumPy answers about 1,900 queries per
CPU second (over 12 thousand 13,000), numba about eight times as many."""
_KERNEL_K = 256  # the kernel orders its best by insertion, which is slow for a great many

_log = logging.getLogger(__name__)

_Ranking = tuple[list[int], list[float]]  # corpus positions and their scores, best first


@dataclass(eq=False, repr=False, kw_only=True)
class BM25Retriever(BM25Options):
    """BM25 with Lucene's formula. Thread-safe; scores and order do not depend on the back end or the batch.

    Raises:
        DataError: The corpus has no word to search for.
        OptionError: A parameter is out of its range.
        UnknownName: There is no such stemmer, list of stop words or back end.
        MissingExtra: The back end is "numba", and numba is not installed.
        RetrievalError: The index cannot be built or opened.
    """

    corpus: Sequence[Passage] = field(kw_only=False)
    """The passages. Their order decides between equal scores."""
    backend: str = "auto"
    """"numpy", "numba", or "auto": numba, if it is installed, for requests of `KERNEL_BATCH` queries or more, and for
    all requests after many (`KERNEL_AFTER`); NumPy otherwise. The first request to numba takes half a second to load
    the kernel, and two more once per machine and version to compile it. Without numba "auto" becomes "numpy"."""
    store: Store = True
    """See `index_store.Store`; False builds in a temporary folder and reads the index into memory."""
    fingerprint: str = field(init=False)
    """Changes with everything that results depend on: the corpus, the analyzer and the parameters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.backend = _available_backend(self.backend, len(self.corpus))
        _log.info("bm25 over %s passages, back end %s", f"{len(self.corpus):,}", self.backend)
        self._searched = 0  # queries times passages, over all requests
        key = {
            "corpus": corpus_key(self.corpus),
            "analyzer": self.analyzer.params,
            "title_weight": self.title_weight,
            "method": "lucene",
            "k1": float(self.k1),
            "b": float(self.b),
        }
        self.fingerprint = f"bm25-{key_hash(key)}"

        def write(folder: Path) -> None:
            write_index(self.analyzer.passages(self.corpus, self.title_weight), folder, k1=self.k1, b=self.b)

        indexes = store_folder(self.store)
        if indexes is None:
            self._index = _build_in_memory(write, len(self.corpus))
        else:
            key["format"] = FORMAT  # changes no result, so it is not in the fingerprint
            folder = open_or_build("bm25", key, write, store=indexes, libraries=("numpy", "PyStemmer"))
            self._index = Index.load(folder, len(self.corpus))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; a hit is a passage that contains a term of the query."""
        passage = self.corpus.__getitem__
        return [list(map(Hit, map(passage, positions), scores)) for positions, scores in self.rank(queries, k)]

    def rank(self, queries: Sequence[str], k: int) -> list[_Ranking]:
        """Return the positions in the corpus of what `search` returns, and their scores."""
        check_request(queries, k)
        terms = [self._index.ids(terms) for terms in self.analyzer.batch(queries)]
        k = min(k, self._index.passages)
        kernel = self.backend == "numba"
        if self.backend == "auto":
            # Not locked: a count lost to another thread only delays the kernel, which gives the same results.
            self._searched += len(queries) * self._index.passages
            kernel = len(queries) >= KERNEL_BATCH or self._searched >= KERNEL_AFTER
        if kernel and k <= _KERNEL_K:
            return _search_numba(self._index, terms, k)
        return [_search_numpy(self._index, ids, k) for ids in terms]


def _available_backend(backend: str, passages: int) -> str:
    """Return the back end; "numpy" for "auto" where numba is not installed."""
    if backend not in BACKENDS:
        raise UnknownName("back end of 'bm25'", str(backend), BACKENDS)
    # find_spec imports nothing: loading numba takes half a second, which many processes never need.
    if backend == "numpy" or importlib.util.find_spec("numba"):
        return backend
    if backend == "numba":
        raise MissingExtra("The back end 'numba' of 'bm25'", "fast")
    if passages >= LARGE_CORPUS:
        _suggest_numba()
    return "numpy"


@functools.cache  # once per process: a run makes a retriever for each environment
def _suggest_numba() -> None:
    _log.warning(
        "bm25 searches a corpus of %s passages or more with NumPy alone. numba answers about eight times as fast, "
        "with the same results: pip install 'raggym-env[fast]', or in a checkout pip install -c constraints.txt -e "
        "'.[fast]'",
        f"{LARGE_CORPUS:,}",
    )


def _build_in_memory(write: Callable[[Path], None], passages: int) -> Index:
    # Through files even so: the builder needs the room for its blocks, and one way to build is enough.
    try:
        with tempfile.TemporaryDirectory(prefix="raggym-bm25-") as folder:
            write(Path(folder))
            return Index.load(Path(folder), passages, mapped=False)
    except RAGGymError:  # some of them are OSErrors as well, and say more than the message below
        raise
    except OSError as error:
        raise RetrievalError(
            f"Could not build the index in {tempfile.gettempdir()}: {error}. Free space there, or set TMPDIR to "
            "another folder."
        ) from error


def _search_numpy(index: Index, ids: list[int], k: int) -> _Ranking:
    if not ids:
        return [], []
    spans = [slice(*index.starts[i : i + 2].tolist()) for i in ids]
    positions = np.concatenate([index.positions[span] for span in spans])
    scores = np.concatenate([index.scores[span] for span in spans])
    # bincount adds in the order of its input, which is that of the query's terms, into float64: as the kernel does.
    if len(positions) * 16 < index.passages:
        # Few postings: sorting them takes less time than walking over an array as long as the corpus.
        matches, inverse = np.unique(positions, return_inverse=True)
        sums = np.bincount(inverse, scores)
    else:
        by_position = np.bincount(positions, scores, minlength=index.passages)
        matches = np.flatnonzero(by_position > 0)  # several times faster on booleans than on floats
        sums = by_position[matches]
    if len(sums) > k:
        # A partition instead of a full sort. Ties with the k-th are all left in, for the stable sort to decide.
        best = sums >= np.partition(sums, -k)[-k]
        matches, sums = matches[best], sums[best]
    order = np.argsort(-sums, kind="stable")[:k]  # stable: equal scores stay in corpus order
    return matches[order].tolist(), sums[order].tolist()


def _search_numba(index: Index, queries: list[list[int]], k: int) -> list[_Ranking]:
    from raggym_env.retrieval.bm25 import kernel  # here, since it loads numba

    ids = np.array([i for query in queries for i in query], np.int64)
    ends = np.cumsum([0, *map(len, queries)], dtype=np.int64)
    arrays = kernel.best(ids, ends, index.starts, index.positions, index.scores, k)
    positions, sums, counts = (array.tolist() for array in arrays)
    return [(row[:count], scores[:count]) for row, scores, count in zip(positions, sums, counts, strict=True)]
