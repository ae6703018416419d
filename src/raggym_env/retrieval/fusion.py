"""Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): several retrievers heard as one.

Only ranks count, so scores of different kinds need no calibration: a passage scores the sum, over the retrievers
that found it, of `weight / (rrf_k + rank)`, ranks from 1. The RAG-Gym paper fuses BM25 with one dense retriever in
this way, with `rrf_k = 60`; its code takes 100 passages of each for the 32 it returns.

With `rrf_k = 60` the ranks hardly differ: rank 62 in both lists is worth as much as rank 1 in one of them. Deep lists
then raise recall far down and lower it at the top, where what one retriever alone has found (of two gold passages,
often the second) gives way to what both have found somewhere. `depth` bounds this, and a small `rrf_k` ends it.
Weights help where one retriever is the better one. BM25 and MiniLM, the question being the only query:

                                         2Wiki                         HotpotQA, a sample
                                         r@5    r@20   all@5  MRR      r@5    r@20   all@5  MRR
    bm25                                 0.660  0.725  0.317  0.967    0.899  0.940  0.799  0.980
    dense                                0.589  0.681  0.233  0.910    0.824  0.890  0.661  0.950
    rrf_k=60, depth=100                  0.650  0.739  0.306  0.964    0.883  0.948  0.770  0.981
    rrf_k=60, depth=20: the defaults     0.663  0.735  0.326  0.965    0.902  0.945  0.806  0.982
    rrf_k=10, weights=[2, 1]             0.668  0.731  0.331  0.970    0.909  0.949  0.819  0.986

2Wiki: 903 questions, 12,003 passages. The sample: 700 questions over 4,200 passages, the gold ones and others drawn at
random. `benchmarks/retrieval.py --fusion` tries more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from raggym_env.core import Passage
from raggym_env.errors import RetrievalError
from raggym_env.protocols import Hit, Retriever, search
from raggym_env.retrieval import make
from raggym_env.retrieval.index_store import key_hash
from raggym_env.retrieval.requests import check_request

__all__ = ["DEPTH", "RRF_K", "Member", "RRFRetriever", "Spec", "make_member"]

RRF_K = 60.0
DEPTH = 20

Spec = str | Mapping[str, Any] | Retriever
"""How a retriever is named inside another: its name, a table with `name` and its options, or itself."""


class Member(NamedTuple):
    """A retriever inside another one."""

    name: str
    """What messages call it."""
    retriever: Retriever

    @property
    def fingerprint(self) -> str:
        return str(getattr(self.retriever, "fingerprint", ""))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; a failure names the member."""
        try:
            results = search(self.retriever, queries, k)
        except RetrievalError as error:
            raise RetrievalError(f"The retriever {self.name!r} failed: {error}") from error
        if len(results) != len(queries):
            raise RetrievalError(f"The retriever {self.name!r} gave {len(results)} results for {len(queries)} queries.")
        return results


class RRFRetriever:
    """Fuses what several retrievers find. As thread-safe as they are.

    The `depth` best of each retriever are fused. Passages of one id are one passage. Equal scores are common, since
    ranks are whole numbers: of two passages, the one that stands higher in some list comes first, then the one
    whose list is named first. Where the corpus has it, this says more than the position in the corpus would.

    Args:
        corpus: The passages, given to every retriever that is named rather than passed in.
        retrievers: Two or more, in order: each a name, a table `{name = "bm25", k1 = 0.9}` with options of its own
            (`store`, too, is each retriever's own), or an object with a `search` method.
        rrf_k: At least 0. The larger, the less the first ranks count above the later ones.
        depth: Passages taken from each retriever, at least 1; `k` where that is more. None is `DEPTH`.
        weights: One positive number per retriever; None for equal weights.

    Raises:
        RetrievalError: An option has a value it cannot have, or a retriever cannot be made.
        UnknownName: No retriever has such a name or option.
        MissingExtra: A retriever needs an optional dependency that is not installed.
    """

    def __init__(
        self,
        corpus: Sequence[Passage],
        *,
        retrievers: Sequence[Spec] = (),
        rrf_k: float = RRF_K,
        depth: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        if isinstance(retrievers, str | Mapping) or len(retrievers) < 2:
            raise RetrievalError(
                f"'rrf' fuses at least two retrievers, got {retrievers!r:.200}. "
                'Give them as retrievers = ["bm25", {name = "dense"}].'
            )
        if not _is_number(rrf_k) or rrf_k < 0:
            raise RetrievalError(f"rrf_k must be a number, at least 0, got {rrf_k!r}.")
        self._rrf_k = float(rrf_k)
        self._weights = _weights(weights, len(retrievers))
        self._depth = DEPTH if depth is None else check_depth(depth)
        self._members = [make_member(spec, corpus) for spec in retrievers]

    @property
    def fingerprint(self) -> str:
        """Changes with everything that changes results, as far as the retrievers' own fingerprints do."""
        key = {
            "members": [member.fingerprint for member in self._members],
            "weights": self._weights,
            "rrf_k": self._rrf_k,
            "depth": self._depth,
        }
        return f"rrf-{key_hash(key)}"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`, with the whole batch to every retriever; ties as the class says."""
        check_request(queries, k)
        if not queries:
            return []
        found = [search(member, queries, max(self._depth, k)) for member in self._members]
        return [self._fused(lists)[:k] for lists in zip(*found, strict=True)]

    def _fused(self, lists: Sequence[list[Hit]]) -> list[Hit]:
        passages: dict[str, Passage] = {}
        parts: dict[str, list[float]] = {}
        firsts: dict[str, tuple[int, int]] = {}  # best rank, and the number of the list it is in
        for number, (hits, weight) in enumerate(zip(lists, self._weights, strict=True)):
            for rank, (key, passage) in enumerate(_distinct(hits).items(), 1):
                passages.setdefault(key, passage)
                parts.setdefault(key, []).append(weight / (self._rrf_k + rank))
                firsts[key] = min(firsts.get(key, (rank, number)), (rank, number))
        # fsum: parts added in any order have the same sum to the last bit, so that ties are ties.
        scores = {key: math.fsum(part) for key, part in parts.items()}
        order = sorted(scores, key=lambda key: (-scores[key], firsts[key]))
        return [Hit(passages[key], scores[key]) for key in order]


def make_member(spec: Spec, corpus: Sequence[Passage]) -> Member:
    """The retriever that a name, a table or an object stands for.

    Raises:
        RetrievalError: It is none of these, or the table has no name.
        UnknownName: No retriever has that name or option.
    """
    if isinstance(spec, str):
        spec = {"name": spec}
    if isinstance(spec, Mapping):
        options = dict(spec)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise RetrievalError(f'A table that names a retriever needs name = "...", got {dict(spec)!r:.200}.')
        return Member(name, make(name, corpus, **options))
    if isinstance(spec, Retriever):
        return Member(type(spec).__name__, spec)
    raise RetrievalError(
        f"A retriever is a name, a table with name and options, or has a search method; got {spec!r:.100}."
    )


def check_depth(depth: object) -> int:
    """Refuse a depth that is no whole number from 1.

    Raises:
        RetrievalError: Says what was given.
    """
    if type(depth) is not int or depth < 1:
        raise RetrievalError(f"depth must be a whole number, at least 1, got {depth!r}.")
    return depth


def _distinct(hits: Sequence[Hit]) -> dict[str, Passage]:
    """Passages by id, best first. A list that holds a passage twice must not count it twice."""
    found: dict[str, Passage] = {}
    for hit in hits:
        found.setdefault(hit.passage.id, hit.passage)
    return found


def _weights(weights: Sequence[float] | None, members: int) -> list[float]:
    if weights is None:
        return [1.0] * members
    if isinstance(weights, str) or len(weights) != members or not all(_is_number(w) and w > 0 for w in weights):
        raise RetrievalError(f"weights must be {members} positive numbers, one per retriever, got {weights!r:.200}.")
    return [float(weight) for weight in weights]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
