"""What every retriever does with a request before it searches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from numbers import Integral

from raggym_env.errors import RetrievalError

__all__ = ["check_request", "encodable"]


def check_request(queries: Sequence[str], k: int) -> None:
    """Refuse a request that no retriever can answer.

    Raises:
        RetrievalError: `queries` is no list of strings, or `k` no whole number from 1.
    """
    # A string is a sequence of strings, so it would be searched letter by letter without any error.
    if isinstance(queries, str):
        raise RetrievalError(f"search takes a list of queries, got one string: {queries!r:.80}. Pass [query].")
    # An array of strings will do; a generator would be used up by this very check, and a set has no order.
    is_list = isinstance(queries, Collection) and not isinstance(queries, Mapping | Set)
    if not is_list or not all(isinstance(query, str) for query in queries):
        raise RetrievalError(f"search takes a list of queries, each a string, got {queries!r:.80}.")
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:  # a bool is an int in Python
        raise RetrievalError(f"k must be a whole number, at least 1, got {k!r:.80}.")


def encodable(text: str) -> str:
    """Return the text with a question mark for each lone surrogate, which neither tokenizers nor Java accept."""
    # Nearly all texts are ASCII, and asking costs nothing: CPython stores the answer with the string.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
