"""BM25 by the rank-bm25 package, which many papers used: the reference for small corpora, and to check `bm25` against.

It scores every passage for every query, in Python: about 30 queries a second on 6 thousand passages. Its inverse
document frequency is Robertson's, which is not positive for a term in half the passages or more (the package then
replaces it by `epsilon` times the mean). So scores differ from those of `bm25`, and on a handful of passages the hits
may differ as well. Use it to reproduce results that were obtained with the package; for everything else `bm25` is
faster by orders of magnitude, and stores its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raggym_env.core import Passage
from raggym_env.errors import DataError, check_option
from raggym_env.protocols import Hit
from raggym_env.retrieval.bm25.options import BM25Options
from raggym_env.retrieval.index_store import corpus_key, key_hash
from raggym_env.retrieval.requests import check_request

__all__ = ["MAX_PASSAGES", "RankBM25Retriever"]

MAX_PASSAGES = 200_000
"""Beyond this a query would take seconds and the index tens of gigabytes."""


@dataclass(eq=False, repr=False, kw_only=True)
class RankBM25Retriever(BM25Options):
    """`rank_bm25.BM25Okapi` over the terms of `Analyzer`. In memory, and built for every retriever. Thread-safe.

    Raises:
        DataError: The corpus has no word, or more than `MAX_PASSAGES` passages.
        OptionError: A parameter is out of its range.
        UnknownName: There is no such stemmer or list of stop words.
    """

    corpus: Sequence[Passage] = field(kw_only=False)
    """The passages. Their order decides between equal scores."""
    epsilon: float = 0.25
    """Share of the mean inverse document frequency that replaces a negative one, at least 0."""
    fingerprint: str = field(init=False)
    """Changes with everything that results depend on."""

    def __post_init__(self) -> None:
        from rank_bm25 import BM25Okapi

        super().__post_init__()
        check_option("epsilon", self.epsilon, self.epsilon >= 0, "at least 0")
        if len(self.corpus) > MAX_PASSAGES:
            raise DataError(
                f"rank-bm25 is for corpora of up to {MAX_PASSAGES:,} passages; this one has {len(self.corpus):,}. "
                "Use the 'bm25' retriever."
            )
        terms = list(self.analyzer.passages(self.corpus, self.title_weight))
        if not any(terms):  # the package would divide by zero
            raise DataError(f"The corpus of {len(self.corpus)} passages holds no word to search for.")
        parameters = {"k1": self.k1, "b": self.b, "epsilon": self.epsilon}
        self._index: Any = BM25Okapi(terms, **parameters)
        analysis = {"analyzer": self.analyzer.params, "title_weight": self.title_weight}
        self.fingerprint = f"rank-bm25-{key_hash({'corpus': corpus_key(self.corpus), **analysis, **parameters})}"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; a hit is a passage with a positive score."""
        check_request(queries, k)
        results = []
        for terms in self.analyzer.batch(queries):
            scores = self._index.get_scores(terms)
            # Stable, so that equal scores stay in corpus order; the package's own `get_top_n` reverses them.
            best = np.argsort(-scores, kind="stable")[:k]
            results.append([Hit(self.corpus[i], float(scores[i])) for i in best.tolist() if scores[i] > 0])
        return results
