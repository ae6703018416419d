"""BM25 by the rank-bm25 package, which many papers used: for small corpora, and to check `bm25` against.

It scores every passage for every query, in Python: some 30 queries a second on 6 thousand passages. Its inverse
document frequency is Robertson's, which is not positive for a term in half the passages or more (the package then
puts `epsilon` times the mean in its place). So scores differ from those of `bm25`, and on a handful of passages
the hits may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raggym_env.core import Passage
from raggym_env.errors import DataError, RetrievalError
from raggym_env.protocols import Hit
from raggym_env.retrieval.bm25.analysis import Analyzer
from raggym_env.retrieval.bm25.retriever import K1, TITLE_WEIGHT, B, check_parameters
from raggym_env.retrieval.index_store import corpus_key, key_hash
from raggym_env.retrieval.requests import check_request

__all__ = ["MAX_PASSAGES", "RankBM25Retriever"]

MAX_PASSAGES = 200_000
"""Beyond this a query would take seconds and the index tens of gigabytes."""


class RankBM25Retriever:
    """`rank_bm25.BM25Okapi` over the terms of `Analyzer`. Kept in memory; built anew every time. Thread-safe.

    The options mean what they do for `raggym_env.retrieval.bm25.retriever.BM25Retriever`.

    Raises:
        DataError: The corpus holds no word, or more than `MAX_PASSAGES` passages.
        RetrievalError: A parameter is out of its range.
        UnknownName: There is no such stemmer or list of stop words.
    """

    fingerprint: str
    """Changes with everything that changes results."""

    def __init__(
        self,
        corpus: Sequence[Passage],
        *,
        k1: float = K1,
        b: float = B,
        epsilon: float = 0.25,
        stemmer: str = "english",
        stop_words: str = "english",
        title_weight: int = TITLE_WEIGHT,
    ) -> None:
        from rank_bm25 import BM25Okapi

        check_parameters(k1, b, title_weight)
        if not epsilon >= 0:
            raise RetrievalError(f"epsilon must be at least 0, got {epsilon!r}.")
        if len(corpus) > MAX_PASSAGES:
            raise DataError(
                f"rank-bm25 is for corpora of up to {MAX_PASSAGES:,} passages; this one has {len(corpus):,}. "
                "Use the 'bm25' retriever."
            )
        self._corpus = corpus
        self._analyzer = Analyzer(stemmer, stop_words)
        terms = list(self._analyzer.passages(corpus, title_weight))
        if not any(terms):
            raise DataError(f"The corpus of {len(corpus)} passages holds no word to search for.")
        self._index: Any = BM25Okapi(terms, k1=k1, b=b, epsilon=epsilon)
        self.fingerprint = "rank-bm25-" + key_hash(
            {
                "corpus": corpus_key(corpus),
                "analyzer": self._analyzer.params,
                "title_weight": title_weight,
                "k1": k1,
                "b": b,
                "epsilon": epsilon,
            }
        )

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; a hit is a passage with a positive score."""
        check_request(queries, k)
        return [self._search(query, k) for query in queries]

    def _search(self, query: str, k: int) -> list[Hit]:
        scores = self._index.get_scores(self._analyzer(query))
        best = np.argsort(-scores, kind="stable")[:k]
        return [Hit(self._corpus[i], float(scores[i])) for i in best.tolist() if scores[i] > 0]
