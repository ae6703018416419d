"""Remembering what was searched: the same query is asked of a back end once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from raggym_env.errors import RetrievalError
from raggym_env.protocols import Hit, Retriever, search
from raggym_env.retrieval.requests import check_request

__all__ = ["CachedRetriever"]

_Key = tuple[str, str, int]


class CachedRetriever:
    """A retriever that remembers the results of the `size` most recently used queries. Thread-safe.

    Queries are the same if they are equal, character by character, and ask for the same `k`. The misses of a
    request go to the back end in one call, each distinct query once. If that call raises, nothing is remembered.
    Two threads that miss the same query at once both search for it.
    """

    hits: int
    """Queries answered without the back end, over the lifetime of this object."""
    misses: int
    """Queries sent to the back end. `hits + misses` is the number of queries answered."""

    def __init__(self, retriever: Retriever, *, size: int = 10_000) -> None:
        if size < 1:
            raise RetrievalError(f"size must be at least 1, got {size!r}. To cache nothing, use the retriever itself.")
        self.retriever = retriever
        self.size = size
        self.hits = self.misses = 0
        self._lock = threading.Lock()
        self._found: OrderedDict[_Key, tuple[Hit, ...]] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, and one sent to another process, starts with an empty memory."""
        return _with_size, (self.retriever, self.size)

    @property
    def fingerprint(self) -> str:
        """That of the retriever inside: caching changes no result."""
        return str(getattr(self.retriever, "fingerprint", ""))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`. The lists are the caller's own; changing them changes no later result."""
        check_request(queries, k)
        fingerprint = self.fingerprint  # part of the key: a served index may change under a running client
        keys = [(fingerprint, query, k) for query in queries]
        known = self._recall(keys)
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        if missing:
            known.update(zip(missing, self._ask([query for _, query, _ in missing], k), strict=True))
        self._remember(known, hits=len(keys) - len(missing), misses=len(missing))
        return [list(known[key]) for key in keys]

    def clear(self) -> None:
        """Forget every result. The counters go on."""
        with self._lock:
            self._found.clear()

    def _recall(self, keys: Sequence[_Key]) -> dict[_Key, tuple[Hit, ...]]:
        with self._lock:
            return {key: self._found[key] for key in keys if key in self._found}

    def _ask(self, queries: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        results = search(self.retriever, queries, k)
        if len(results) != len(queries):
            raise RetrievalError(
                f"{type(self.retriever).__name__} gave {len(results)} results for {len(queries)} queries."
            )
        return [tuple(hits) for hits in results]

    def _remember(self, known: dict[_Key, tuple[Hit, ...]], hits: int, misses: int) -> None:
        with self._lock:
            self.hits += hits
            self.misses += misses
            for key, found in known.items():
                self._found[key] = found
                self._found.move_to_end(key)
            while len(self._found) > self.size:
                self._found.popitem(last=False)


def _with_size(retriever: Retriever, size: int) -> CachedRetriever:
    return CachedRetriever(retriever, size=size)
