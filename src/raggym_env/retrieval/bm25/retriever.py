"""BM25 as bm25s computes it: the default search engine.

As in bm25s (arXiv:2407.03618) every term of every passage is scored when the index is built, by Lucene's formula,
and the scores are stored by term: see `raggym_env.retrieval.bm25.index`. A query is then a sum over the postings of
its terms. That sum and the choice of the best are done here, over the passages that hold a term of the query, in
two ways:

- in NumPy, for a few queries: nothing to import, nothing to compile;
- in a small numba kernel, for `KERNEL_BATCH` queries at once or many in all: see `benchmarks/retrieval.py` for the
  rates, and `benchmarks/scale.py` for those of large corpora.

Both add the same float32 scores into float64 sums in the order of the query's terms: they agree to the last bit.
Skipping common terms by their highest scores (MaxScore) was tried in both: at 56 thousand passages in the kernel and
at a million in NumPy it took longer than adding them.

The defaults are Lucene's own k1 and b, with the title three times: of the 18 combinations that
`benchmarks/retrieval.py --sweep` tries, the question being the only query, they have the best mean recall@5 over
both corpora. Recall@5 for 903 questions of 2Wiki and 3,745 of HotpotQA:

    k1   b     stemmer  title   2Wiki   HotpotQA   mean
    1.2  0.75  english  3       0.660   0.753      0.707    the defaults
    0.9  0.40  english  3       0.670   0.739      0.705
    1.5  0.75  english  3       0.658   0.750      0.704
    1.2  0.75  none     3       0.663   0.742      0.703
    1.2  0.75  english  2       0.658   0.747      0.703
    1.2  0.75  english  1       0.646   0.729      0.688
    0.9  0.40  english  2       0.667   0.734      0.701

They are the best on the first 1,000 questions of HotpotQA too, those to train on. 2Wiki prefers k1=0.9, b=0.4.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Passage
from raggym_env.errors import RAGGymError, RetrievalError, UnknownName
from raggym_env.protocols import Hit
from raggym_env.retrieval.bm25.analysis import Analyzer
from raggym_env.retrieval.bm25.index import FORMAT, Index, write_index
from raggym_env.retrieval.index_store import Store, corpus_key, key_hash, open_or_build, store_folder
from raggym_env.retrieval.requests import check_request

__all__ = ["K1", "KERNEL_AFTER", "KERNEL_BATCH", "TITLE_WEIGHT", "B", "BM25Retriever"]

K1, B, TITLE_WEIGHT = 1.2, 0.75, 3

KERNEL_BATCH = 8
"""Queries in one request from which the numba kernel is used, with `backend="auto"`."""
KERNEL_AFTER = 100_000_000
"""Queries times passages after which it is used for all requests: about when NumPy took as long as loading it takes."""
_KERNEL_K = 256  # the kernel keeps its best by insertion, which is slow for a great many

BACKENDS = ("auto", "numba", "numpy")

_Found = tuple[list[int], list[float]]  # corpus positions and their scores, best first


class BM25Retriever:
    """BM25 with Lucene's formula. Thread-safe; scores and order do not depend on the back end or the batch.

    Args:
        corpus: The passages. Their order decides between equal scores.
        k1: Saturation of the term frequency, in [0, 1000].
        b: Normalisation by passage length, in [0, 1].
        stemmer: "english" or "none".
        stop_words: "english" or "none".
        title_weight: How many times a passage's title is put before its text, at least 0.
        backend: "numpy", "numba", or "auto": numba for requests of `KERNEL_BATCH` queries or more, and for all once
            much was searched (`KERNEL_AFTER`). numba's first request takes about half a second, and two more once
            per machine and version, to compile.
        store: See `index_store.Store`; False builds in a temporary folder and reads the index into memory.

    Raises:
        DataError: The corpus holds no word to search for.
        RetrievalError: A parameter is out of its range, or the index cannot be built or opened.
        UnknownName: There is no such stemmer, list of stop words or back end.
    """

    fingerprint: str
    """Changes with everything that changes results: the corpus, the analyser and the parameters."""

    def __init__(
        self,
        corpus: Sequence[Passage],
        *,
        k1: float = K1,
        b: float = B,
        stemmer: str = "english",
        stop_words: str = "english",
        title_weight: int = TITLE_WEIGHT,
        backend: str = "auto",
        store: Store = True,
    ) -> None:
        check_parameters(k1, b, title_weight)
        if backend not in BACKENDS:
            raise UnknownName("back end of 'bm25'", str(backend), BACKENDS)
        self._corpus = corpus
        self._analyzer = Analyzer(stemmer, stop_words)
        self._backend = backend
        self._searched = 0
        key = {
            "corpus": corpus_key(corpus),
            "analyzer": self._analyzer.params,
            "title_weight": title_weight,
            "method": "lucene",
            "k1": float(k1),
            "b": float(b),
        }
        self.fingerprint = f"bm25-{key_hash(key)}"

        def write(folder: Path) -> None:
            write_index(self._analyzer.passages(corpus, title_weight), folder, k1=k1, b=b)

        indexes = store_folder(store)
        if indexes is None:
            self._index = _in_memory(write)
        else:
            folder = open_or_build(
                "bm25",
                {**key, "format": FORMAT},  # of the files alone: it changes no result, so no fingerprint
                write,
                store=indexes,
                libraries=("numpy", "PyStemmer"),
            )
            self._index = Index.load(folder)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; a hit is a passage that holds a term of the query."""
        check_request(queries, k)
        terms = [self._index.vocabulary.ids(terms) for terms in self._analyzer.batch(queries)]
        k = min(k, self._index.passages)
        passage = self._corpus.__getitem__
        return [list(map(Hit, map(passage, positions), sums)) for positions, sums in self._search(terms, k)]

    def _search(self, queries: list[list[int]], k: int) -> list[_Found]:
        if k <= _KERNEL_K and (self._backend == "numba" or (self._backend == "auto" and self._pays(len(queries)))):
            return _search_numba(self._index, queries, k)
        return [_search_numpy(self._index, ids, k) for ids in queries]

    def _pays(self, queries: int) -> bool:
        """Whether the kernel is worth loading. It makes the same results sooner, so it may come in at any time."""
        self._searched += queries * self._index.passages  # a count lost to another thread does no harm
        return queries >= KERNEL_BATCH or self._searched >= KERNEL_AFTER


def check_parameters(k1: float, b: float, title_weight: int) -> None:
    """Refuse parameters of BM25 that are out of range.

    Raises:
        RetrievalError: Says which one.
    """
    # Up to 1000 no term's score can underflow to zero in float32, so a sum of zero means: no term of the query.
    for name, value, high in (("k1", k1, 1000), ("b", b, 1)):
        if not isinstance(value, int | float) or not 0 <= value <= high:
            raise RetrievalError(f"{name} must be a number in [0, {high}], got {value!r}.")
    if not isinstance(title_weight, int) or title_weight < 0:
        raise RetrievalError(f"title_weight must be a whole number, at least 0, got {title_weight!r}.")


def _in_memory(write: Callable[[Path], None]) -> Index:
    try:
        with tempfile.TemporaryDirectory(prefix="raggym-bm25-") as folder:
            write(Path(folder))
            return Index.load(Path(folder), mapped=False)
    except RAGGymError:  # some of ours are OSErrors too
        raise
    except OSError as error:
        raise RetrievalError(
            f"Could not build the index in {tempfile.gettempdir()}: {error}. Free it, or set TMPDIR to another place."
        ) from error


def _search_numpy(index: Index, ids: list[int], k: int) -> _Found:
    if not ids:
        return [], []
    spans = [slice(*index.starts[i : i + 2].tolist()) for i in ids]
    positions = np.concatenate([index.positions[span] for span in spans])
    weights = np.concatenate([index.scores[span] for span in spans])
    if len(positions) * 16 < index.passages:
        touched, inverse = np.unique(positions, return_inverse=True)
        sums = np.bincount(inverse, weights)
    else:
        dense = np.bincount(positions, weights, minlength=index.passages)
        touched = np.flatnonzero(dense > 0)  # of booleans, which NumPy finds several times faster than of floats
        sums = dense[touched]
    if len(sums) > k:
        good = sums >= np.partition(sums, -k)[-k]
        touched, sums = touched[good], sums[good]
    best = np.argsort(-sums, kind="stable")[:k]
    return touched[best].tolist(), sums[best].tolist()


def _search_numba(index: Index, queries: list[list[int]], k: int) -> list[_Found]:
    ids = np.array([i for query in queries for i in query], np.int64)
    ends = np.cumsum([0, *map(len, queries)], dtype=np.int64)
    arrays = _kernel()(ids, ends, index.starts, index.positions, index.scores, index.passages, k)
    positions, sums, counts = (array.tolist() for array in arrays)
    return [(row[:count], scores[:count]) for row, scores, count in zip(positions, sums, counts, strict=True)]


@functools.cache
def _kernel() -> Callable[..., Any]:
    from numba import njit

    try:
        return njit(_best, nogil=True, cache=True)
    except RuntimeError:  # no folder to keep the compiled code in
        return njit(_best, nogil=True)


def _best(
    ids: NDArray[np.int64],
    ends: NDArray[np.int64],
    starts: NDArray[np.int64],
    positions: NDArray[np.int32],
    scores: NDArray[np.float32],
    passages: int,
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """The `k` best passages of `n` queries; compiled by numba, so one function of plain loops.

    Args:
        ids: The terms of all queries.
        ends: Query `q` has the terms `ids[ends[q]:ends[q + 1]]`; shape `(n + 1,)`.
        starts: As in `Index`, like `positions` and `scores`.
        positions: See `starts`.
        scores: See `starts`.
        passages: Size of the corpus.
        k: How many to keep.

    Returns:
        Positions and scores of shape `(n, k)`, best first, lower position first among equals; and how many of each
        row are found.
    """
    n = len(ends) - 1
    best = np.zeros((n, k), np.int64)
    best_sums = np.zeros((n, k), np.float64)
    counts = np.zeros(n, np.int64)
    sums = np.zeros(passages, np.float64)  # all zero between two queries
    for q in range(n):
        for i in ids[ends[q] : ends[q + 1]]:
            for j in range(starts[i], starts[i + 1]):
                sums[positions[j]] += scores[j]
        # A second walk over the same postings takes half the time of noting in the first which passages are new.
        count, least = 0, 0.0
        for i in ids[ends[q] : ends[q + 1]]:
            for j in range(starts[i], starts[i + 1]):
                position = positions[j]
                total = sums[position]
                sums[position] = 0.0
                # Most are below the best so far: first the test that nearly always decides (twice as fast).
                if total < least or total == 0.0 or (total == least and position > best[q, k - 1]):
                    continue
                slot = min(count, k - 1)
                while slot > 0 and (
                    total > best_sums[q, slot - 1] or (total == best_sums[q, slot - 1] and position < best[q, slot - 1])
                ):
                    best[q, slot], best_sums[q, slot] = best[q, slot - 1], best_sums[q, slot - 1]
                    slot -= 1
                best[q, slot], best_sums[q, slot] = position, total
                count = min(count + 1, k)
                if count == k:
                    least = best_sums[q, k - 1]
        counts[q] = count
    return best, best_sums, counts
