"""BM25 over bm25s: the default search engine.

bm25s (arXiv:2407.03618) scores every term of every passage when the index is built, by Lucene's formula, and
stores the scores by term. A query is then a sum over the postings of its terms. Only that sum and the choice of
the best are done here, over the passages that hold a term of the query, in two ways:

- in NumPy, for a few queries: nothing to import, nothing to compile;
- in a small numba kernel, for `KERNEL_BATCH` queries or more: see `benchmarks/retrieval.py` for the rates.

Both add the same float32 scores into float64 sums in the order of the query's terms: they agree to the last bit.

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
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Passage
from raggym_env.errors import DataError, RetrievalError, UnknownName
from raggym_env.retrieval.base import Hit
from raggym_env.retrieval.store import corpus_key, key_hash, open_or_build
from raggym_env.retrieval.text import Analyzer, check_request

__all__ = ["K1", "KERNEL_BATCH", "TITLE_WEIGHT", "B", "BM25Retriever"]

K1, B, TITLE_WEIGHT = 1.2, 0.75, 3

KERNEL_BATCH = 8
"""Queries in one request from which the numba kernel is used, with `backend="auto"`."""
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
        backend: "numpy", "numba", or "auto": numba for requests of `KERNEL_BATCH` queries or more. numba's first
            request takes about half a second, and two more once per machine and version, to compile.
        store: The folder of indexes; None or True for the cache's own, False to keep the index in memory only.

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
        store: str | Path | bool | None = None,
    ) -> None:
        check_parameters(k1, b, title_weight)
        if backend not in BACKENDS:
            raise UnknownName("back end of 'bm25'", str(backend), BACKENDS)
        self._corpus = corpus
        self._analyzer = Analyzer(stemmer, stop_words)
        self._backend = backend
        key = {
            "corpus": corpus_key(corpus),
            "analyzer": self._analyzer.params,
            "title_weight": title_weight,
            "method": "lucene",
            "k1": float(k1),
            "b": float(b),
        }
        self.fingerprint = f"bm25-{key_hash(key)}"

        def build() -> Any:
            return _build(self._analyzer.passages(corpus, title_weight), k1, b)

        if store is False:
            self._index = _Index.of(build())
        else:
            folder = open_or_build(
                "bm25",
                key,
                lambda path: build().save(path, show_progress=False),
                store=None if store is None or store is True else Path(store).expanduser(),
                libraries=("bm25s", "numpy", "PyStemmer"),
            )
            self._index = _Index.load(folder)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; a hit is a passage that holds a term of the query."""
        check_request(queries, k)
        terms = [self._index.ids(terms) for terms in self._analyzer.batch(queries)]
        k = min(k, self._index.passages)
        passage = self._corpus.__getitem__
        return [list(map(Hit, map(passage, positions), sums)) for positions, sums in self._search(terms, k)]

    def _search(self, queries: list[list[int]], k: int) -> list[_Found]:
        wanted = self._backend == "numba" or (self._backend == "auto" and len(queries) >= KERNEL_BATCH)
        if wanted and k <= _KERNEL_K:
            return _search_numba(self._index, queries, k)
        return [_search_numpy(self._index, ids, k) for ids in queries]


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


@dataclass(frozen=True)
class _Index:
    """A bm25s index: for each term, the passages that hold it in corpus order, and its score in each."""

    vocabulary: dict[str, int]
    scores: NDArray[np.float32]
    positions: NDArray[np.int32]
    starts: NDArray[np.int64]
    """Term `i` has the postings `starts[i]:starts[i + 1]`."""
    passages: int

    @classmethod
    def of(cls, bm25: Any) -> _Index:
        arrays = bm25.scores
        return cls(
            bm25.vocab_dict,
            _read_only(arrays["data"]),
            _read_only(arrays["indices"]),
            _read_only(arrays["indptr"]),
            int(arrays["num_docs"]),
        )

    @classmethod
    def load(cls, folder: Path) -> _Index:
        """Map what `bm25s.BM25.save` wrote. Importing bm25s to load it would take longer than all the rest."""
        try:
            return cls(
                json.loads((folder / "vocab.index.json").read_bytes()),
                _mapped(folder / "data.csc.index.npy"),
                _mapped(folder / "indices.csc.index.npy"),
                _mapped(folder / "indptr.csc.index.npy"),
                int(json.loads((folder / "params.index.json").read_bytes())["num_docs"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RetrievalError(
                f"The index in {folder} cannot be read: {error!r}. Delete this folder to have it built again."
            ) from error

    def ids(self, terms: list[str]) -> list[int]:
        """The terms that the corpus holds, in order, as often as they occur in the query."""
        vocabulary = self.vocabulary
        return [vocabulary[term] for term in terms if term in vocabulary]


def _build(passages: Any, k1: float, b: float) -> Any:
    import bm25s

    vocabulary: dict[str, int] = {}
    number = vocabulary.setdefault
    ids = [[number(term, len(vocabulary)) for term in terms] for terms in passages]
    if not vocabulary:
        raise DataError(f"The corpus of {len(ids)} passages holds no word to search for.")
    bm25 = bm25s.BM25(k1=float(k1), b=float(b), method="lucene", backend="numpy")
    bm25.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    return bm25


def _mapped(path: Path) -> Any:
    # A plain array over the mapped file: slices of numpy.memmap cost several times more.
    return np.load(path, mmap_mode="r").view(np.ndarray)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False  # as a mapped one is, so that the kernel is compiled for one type only
    return array


def _search_numpy(index: _Index, ids: list[int], k: int) -> _Found:
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


def _search_numba(index: _Index, queries: list[list[int]], k: int) -> list[_Found]:
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
        starts: As in `_Index`, like `positions` and `scores`.
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
        # Skipping common terms (MaxScore) was tried: its branches cost more than it saves at 56 thousand passages.
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
