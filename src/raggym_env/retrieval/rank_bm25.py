"""BM25 by the rank-bm25 package, which many papers used: the reference for small corpora, and to check `bm25` against.

It scores every passage for every query, in Python: some 30 queries a second on 6 thousand passages. Its inverse
document frequency is Robertson's, which is not positive for a term in half the passages or more (the package then
replaces it by `epsilon` times the mean). So scores differ from those of `bm25`, and on a handful of passages the hits
may differ as well. Use it to reproduce results that were obtained with the package; for everything else `bm25` is
faster by orders of magnitude, and stores its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raggym_env.core import Passage
from raggym_env.errors import DataError, check_option
from raggym_env.protocols import Hit
from raggym_env.retrieval.bm25.analysis import Analyzer
from raggym_env.retrieval.bm25.retriever import K1, TITLE_WEIGHT, B, check_parameters
from raggym_env.retrieval.index_store import corpus_key, key_hash
from raggym_env.retrieval.requests import check_request

__all__ = ["MAX_PASSAGES", "RankBM25Retriever"]

MAX_PASSAGES = 200_000
"""Beyond this a query would take seconds and the index tens of gigabytes."""


class RankBM25Retriever:
    """`rank_bm25.BM25Okapi` over the terms of `Analyzer`. In memory, and built for every retriever. Thread-safe.

    `epsilon` (at least 0) is the share of the mean inverse document frequency that stands for a negative one. The other
    options are those of `raggym_env.retrieval.bm25.retriever.BM25Retriever`.

    Raises:
        DataError: The corpus has no word, or more than `MAX_PASSAGES` passages.
        OptionError: A parameter is out of its range.
        UnknownName: There is no such stemmer or list of stop words.
    """

    fingerprint: str
    """Changes with everything that results depend on."""

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
        check_option("epsilon", epsilon, epsilon >= 0, "at least 0")
        if len(corpus) > MAX_PASSAGES:
            raise DataError(
                f"rank-bm25 is for corpora of up to {MAX_PASSAGES:,} passages; this one has {len(corpus):,}. "
                "Use the 'bm25' retriever."
            )
        self._corpus = corpus
        self._analyzer = Analyzer(stemmer, stop_words)
        terms = list(self._analyzer.passages(corpus, title_weight))
        if not any(terms):  # the package would divide by zero
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
        results = []
        for terms in self._analyzer.batch(queries):
            scores = self._index.get_scores(terms)
            # Stable, so that equal scores stay in corpus order; the package's own `get_top_n` reverses them.
            best = np.argsort(-scores, kind="stable")[:k]
            results.append([Hit(self._corpus[i], float(scores[i])) for i in best.tolist() if scores[i] > 0])
        return results
