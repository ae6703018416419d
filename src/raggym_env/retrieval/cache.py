"""A cache in front of a retriever: a repeated query is searched for once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

from raggym_env.errors import check_option
from raggym_env.protocols import Hit, Retriever, search
from raggym_env.retrieval.requests import check_request
from raggym_env.storage.lru import LRU

__all__ = ["CachedRetriever"]


class CachedRetriever:
    """A retriever with a cache of the `size` most recently used queries. Thread-safe.

    Two queries are the same if they are equal, character by character, and have the same `k`. The misses of a request
    go to the retriever in one call, each distinct query once. If that call raises, nothing is cached. Two threads
    that miss the same query at the same time both search for it.

    Raises:
        OptionError: `size` is no whole number from 1. To cache nothing, use the retriever itself.
    """

    hits: int
    """Queries answered from the cache, over the lifetime of this object."""
    misses: int
    """Queries sent to the retriever. `hits + misses` is the number of queries answered."""

    def __init__(self, retriever: Retriever, *, size: int = 10_000) -> None:
        check_option("size", size, type(size) is int and size >= 1, "a whole number, at least 1")
        self.retriever = retriever
        self.size = size
        self.hits = self.misses = 0
        self._lock = threading.Lock()
        # Tuples, so that no caller can change a cached result through the list it got.
        self._results = LRU[tuple[str, str, int], tuple[Hit, ...]](size)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, also one sent to another process, starts with an empty cache: sending results costs more than a miss.
        return functools.partial(CachedRetriever, self.retriever, size=self.size), ()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the retriever inside: caching changes no result."""
        return str(getattr(self.retriever, "fingerprint", ""))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`. The lists belong to the caller; changing them changes no later result."""
        check_request(queries, k)
        fingerprint = self.fingerprint  # part of the key: the index of a server may change while its client runs
        keys = [(fingerprint, query, k) for query in queries]
        with self._lock:
            results = {key: self._results[key] for key in keys if key in self._results}
        missing = [key for key in dict.fromkeys(keys) if key not in results]
        if missing:
            # Outside the lock, since a search may take seconds and other threads may find theirs in the cache.
            rankings = search(self.retriever, [query for _, query, _ in missing], k)
            results.update(zip(missing, map(tuple, rankings), strict=True))
        with self._lock:
            # Counted only now, so that a search that raised counts neither as hits nor as misses.
            self.hits += len(keys) - len(missing)
            self.misses += len(missing)
            for key, hits in results.items():
                self._results[key] = hits  # also marks it as used now
        return [list(results[key]) for key in keys]

    def clear(self) -> None:
        """Empty the cache. The counters stay."""
        with self._lock:
            self._results.clear()
