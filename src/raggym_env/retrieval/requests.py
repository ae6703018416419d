"""What every retriever does with a request before it searches."""

from __future__ import annotations

from collections.abc import Sequence

from raggym_env.errors import RetrievalError

__all__ = ["check_request", "encodable"]


def check_request(queries: Sequence[str], k: int) -> None:
    """Refuse a request that no retriever can answer.

    Raises:
        RetrievalError: `queries` is one string instead of a list of strings, or `k` is below 1.
    """
    # A string is a sequence of strings, so it would be searched letter by letter without any error.
    if isinstance(queries, str):
        raise RetrievalError(f"search takes a list of queries, got one string: {queries!r:.80}. Pass [query].")
    if k < 1:
        raise RetrievalError(f"k must be at least 1, got {k!r}.")


def encodable(text: str) -> str:
    """Return the text with a question mark for each lone surrogate, which neither tokenizers nor Java accept."""
    # Nearly all texts are ASCII, and asking costs nothing: CPython stores the answer with the string.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
