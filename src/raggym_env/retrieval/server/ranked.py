"""Answers of retrievers that can say where in their corpus the passages are: each passage is read and written once."""

# To read a passage from a mapped corpus and to write it as JSON takes longer than to find it.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeGuard

from raggym_env.core import Passage
from raggym_env.errors import RetrievalError
from raggym_env.protocols import Retriever
from raggym_env.retrieval.wire import write_document

__all__ = ["RankedRows", "Ranker", "is_ranker"]

Ranking = tuple[Sequence[int], Sequence[float]]
"""Positions in the corpus and their scores, best first."""

_MAX_KEPT = 1 << 25  # characters of all documents that are kept


class Ranker(Protocol):
    """A retriever whose `search` is its `rank` with the passages of its corpus in place of their positions."""

    corpus: Sequence[Passage]

    def rank(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """Return a ranking for each query."""
        ...


def is_ranker(retriever: Retriever) -> TypeGuard[Ranker]:
    """True if the class that defines the retriever's `search` defines `rank`, too.

    A subclass with a `search` of its own may find something else than the `rank` that it has inherited.
    """
    owner = next((kind for kind in type(retriever).__mro__ if "search" in vars(kind)), object)
    own = getattr(retriever, "__dict__", {})
    inherited = getattr(type(retriever), "rank", None) is vars(owner).get("rank")
    return "rank" in vars(owner) and inherited and not {"search", "rank"} & own.keys()


class RankedRows:
    """The rows of answers of a `Ranker`. Its documents are kept, until there are too many. Used by several threads."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        # Without a lock: at worst, two threads write the same document, and it is counted twice.
        self._documents: dict[int, str] = {}
        self._room = _MAX_KEPT

    def search(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """Return a ranking for each query.

        Raises:
            RetrievalError: The search failed, or a ranking is malformed.
        """
        rankings = self._ranker.rank(queries, k)
        for positions, scores in rankings:
            if not len(positions) == len(scores) <= k or not all(map(math.isfinite, scores)):
                raise RetrievalError(f"The retriever gave more than {k} passages, or a score that is not finite.")
        return rankings

    def write(self, rankings: Sequence[Ranking], scores: bool, limit: int) -> list[bytes] | None:
        """Return the rows of a part of an answer, as `wire.write_row` writes them; None if they exceed the limit."""
        rows = []
        room = limit
        for positions, numbers in rankings:
            documents = []
            for position in positions:
                document = self._documents.get(position)
                if document is None and (document := self._write(position, room)) is None:
                    return None
                documents.append(document)
            if scores:
                pairs = zip(documents, numbers, strict=True)
                documents = [f'{{"document":{document},"score":{score!r}}}' for document, score in pairs]
            row = f"[{','.join(documents)}]".encode()
            room -= len(row)
            if room < 0:
                return None
            rows.append(row)
        return rows

    def _write(self, position: int, room: int) -> str | None:
        """Write a document and keep it; None, before it is written, if it exceeds the room."""
        passage = self._ranker.corpus[position]
        if len(passage.title) + len(passage.text) > room:
            return None
        document = write_document(passage)
        self._room -= len(document)
        if self._room < 0:
            self._documents.clear()
            self._room = _MAX_KEPT
        self._documents[position] = document
        return document
