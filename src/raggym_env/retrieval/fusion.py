"""Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): merges the ranked lists of several retrievers.

Only ranks count, so scores of different kinds need no calibration: a passage scores the sum, over the retrievers
that returned it, of `weight / (rrf_k + rank)`, ranks from 1. The RAG-Gym paper fuses BM25 with one dense retriever in
this way, with `rrf_k = 60`; its code takes 100 passages of each for the 32 it returns.

`depth` and a small `rrf_k` keep what one retriever ranks first from falling behind what both return at some rank, and
`weights` help where one retriever is the better one. `benchmarks/retrieval.py --fusion` compares settings.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from raggym_env.core import Passage
from raggym_env.errors import OptionError, RetrievalError, check_option
from raggym_env.protocols import Hit, Retriever, search
from raggym_env.retrieval import make
from raggym_env.retrieval.index_store import key_hash
from raggym_env.retrieval.requests import check_request

__all__ = ["DEPTH", "RRF_K", "Member", "RRFRetriever", "Spec", "make_member"]

# With `rrf_k = 60` the ranks hardly differ: rank 62 in both lists is worth as much as rank 1 in one of them. Deep lists
# then raise recall far down and lower it at the top, where a passage that only one retriever returned (of two gold
# passages, often the second) falls behind passages that both returned at some rank. BM25 and MiniLM, with the question
# as the only query:
#
#                                          2Wiki                         HotpotQA, a sample
#                                          r@5    r@20   all@5  MRR      r@5    r@20   all@5  MRR
#     bm25                                 0.660  0.725  0.317  0.967    0.899  0.940  0.799  0.980
#     dense                                0.589  0.681  0.233  0.910    0.824  0.890  0.661  0.950
#     rrf_k=60, depth=100                  0.650  0.739  0.306  0.964    0.883  0.948  0.770  0.981
#     rrf_k=60, depth=20: the defaults     0.663  0.735  0.326  0.965    0.902  0.945  0.806  0.982
#     rrf_k=10, weights=[2, 1]             0.668  0.731  0.331  0.970    0.909  0.949  0.819  0.986
#
# 2Wiki: 903 questions, 12,003 passages. The sample: 700 questions over 4,200 passages, the gold ones and others drawn
# at random.
RRF_K = 60.0
DEPTH = 20

Spec = str | Mapping[str, Any] | Retriever
"""A retriever inside another one: its name, a table with `name` and its options, or the object itself."""


class Member(NamedTuple):
    """A retriever inside another one."""

    name: str
    """The name for error messages."""
    retriever: Retriever

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the retriever; "" if it has none."""
        return str(getattr(self.retriever, "fingerprint", ""))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; the error of a failure names the member."""
        try:
            return search(self.retriever, queries, k)
        except RetrievalError as error:
            raise RetrievalError(f"The retriever {self.name!r} failed: {error}") from error


class RRFRetriever:
    """Fuses the results of several retrievers. Thread-safe if they are.

    The `depth` best hits of each retriever are fused. Hits with the same passage id are one passage. Equal scores are
    common, since ranks are whole numbers: of two passages, the one with the better rank in some list comes first, then
    the one whose list is named first. This says more about them than their positions in the corpus would.

    Args:
        corpus: The passages, for the retrievers that are given by name or table.
        retrievers: Two or more, in order: each a name, a table `{name = "bm25", k1 = 0.9}` with its options (`store`
            is such an option too), or an object with a `search` method.
        rrf_k: At least 0. The larger, the less the first ranks count above the later ones.
        depth: Passages to take from each retriever, at least 1; `k` where that is more. None is `DEPTH`.
        weights: One positive number per retriever; None for equal weights.

    Raises:
        OptionError: An option is out of its range, or a retriever does not have it.
        UnknownName: No retriever has that name.
        RetrievalError: The index of a retriever cannot be built or opened.
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
        # A string is a sequence as well, and would be read letter by letter.
        if isinstance(retrievers, str) or not isinstance(retrievers, Sequence) or len(retrievers) < 2:
            raise OptionError(
                f"'rrf' fuses at least two retrievers, got {retrievers!r:.200}. "
                'Give them as retrievers = ["bm25", {name = "dense"}].'
            )
        check_option("rrf_k", rrf_k, _is_number(rrf_k) and rrf_k >= 0, "a number, at least 0")
        if weights is None:
            weights = [1.0] * len(retrievers)
        is_list = isinstance(weights, Sequence) and not isinstance(weights, str)
        positive = is_list and all(_is_number(weight) and weight > 0 for weight in weights)
        expected = f"{len(retrievers)} positive numbers, one per retriever"
        check_option("weights", weights, positive and len(weights) == len(retrievers), expected)
        self._rrf_k = float(rrf_k)
        self._weights = [float(weight) for weight in weights]
        self._depth = DEPTH if depth is None else check_depth(depth)
        self._members = [make_member(spec, corpus) for spec in retrievers]

    @property
    def fingerprint(self) -> str:
        """Changes with everything that results depend on, as far as the fingerprints of the retrievers do."""
        key = {
            "members": [member.fingerprint for member in self._members],
            "weights": self._weights,
            "rrf_k": self._rrf_k,
            "depth": self._depth,
        }
        return f"rrf-{key_hash(key)}"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`, with the whole batch to every retriever; ties as described for the class."""
        check_request(queries, k)
        if not queries:
            return []
        depth = max(self._depth, k)
        rankings = [member.search(queries, depth) for member in self._members]
        return [self._fuse(lists)[:k] for lists in zip(*rankings, strict=True)]

    def _fuse(self, lists: Sequence[list[Hit]]) -> list[Hit]:
        """Return all hits of one query's lists, fused, best first."""
        passages: dict[str, Passage] = {}
        shares: dict[str, list[float]] = {}
        firsts: dict[str, tuple[int, int]] = {}  # best rank, and the number of the list it is in
        for number, (hits, weight) in enumerate(zip(lists, self._weights, strict=True)):
            # A list that contains a passage twice must not count it twice: its first rank stands.
            unique: dict[str, Passage] = {}
            for hit in hits:
                unique.setdefault(hit.passage.id, hit.passage)
            for rank, (key, passage) in enumerate(unique.items(), 1):
                passages.setdefault(key, passage)
                shares.setdefault(key, []).append(weight / (self._rrf_k + rank))
                firsts[key] = min(firsts.get(key, (rank, number)), (rank, number))
        # fsum: shares added in any order have the same sum to the last bit, so that ties are ties.
        scores = {key: math.fsum(values) for key, values in shares.items()}
        order = sorted(scores, key=lambda key: (-scores[key], firsts[key]))
        return [Hit(passages[key], scores[key]) for key in order]


def make_member(spec: Spec, corpus: Sequence[Passage]) -> Member:
    """Return the retriever that a name, a table or an object stands for.

    Raises:
        OptionError: `spec` is none of these, the table has no name, or the retriever does not have the option.
        UnknownName: No retriever has that name.
    """
    if isinstance(spec, str):
        spec = {"name": spec}
    if isinstance(spec, Mapping):
        options = dict(spec)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise OptionError(f'A table for a retriever needs name = "...", got {dict(spec)!r:.200}.')
        return Member(name, make(name, corpus, **options))
    if isinstance(spec, Retriever):
        return Member(type(spec).__name__, spec)
    raise OptionError(
        f"A retriever is a name, a table with name and options, or has a search method; got {spec!r:.100}."
    )


def check_depth(depth: int) -> int:
    """Return `depth` if it is a whole number, at least 1.

    Raises:
        OptionError: It is not. A bool is refused, although Python counts it as an int.
    """
    check_option("depth", depth, type(depth) is int and depth >= 1, "a whole number, at least 1")
    return depth


def _is_number(value: object) -> bool:
    # A bool is an int in Python; nan and infinity would make scores that cannot be sorted.
    # Compared, since math.isfinite raises for a whole number that is too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
