"""The retriever seam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from raggym_env.core import Passage

__all__ = ["Hit", "Retriever"]


class Hit(NamedTuple):
    """One retrieved passage. Scores compare within one query of one retriever only; higher is better."""

    passage: Passage
    score: float


@runtime_checkable
class Retriever(Protocol):
    """Finds passages for queries; knows nothing of episodes, prompts or rewards."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the `k` best passages for each query.

        Args:
            queries: `n` query strings; an empty sequence gives an empty list.
            k: Passages per query, at least 1. Fewer come back where fewer match at all.

        Returns:
            `n` lists in query order, best first; equal scores keep corpus order. The result for a query does
            not depend on the other queries of the batch.

        Raises:
            RetrievalError: The back end failed. No partial result is returned.
        """
        ...
