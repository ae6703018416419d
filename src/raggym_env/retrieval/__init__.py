"""Search engines over a corpus, by name. Nothing here depends on episodes, prompts or rewards.

>>> from raggym_env.core import Passage
>>> corpus = [Passage("1", "Paris", "The capital of France."), Passage("2", "Rome", "The capital of Italy.")]
>>> retriever = make("bm25", corpus, store=False)
>>> [[hit.passage.title for hit in hits] for hits in retriever.search(["capital of Italy"], k=1)]
[['Rome']]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raggym_env.core import Passage
from raggym_env.protocols import Hit, Retriever
from raggym_env.registry import RETRIEVERS, Factory

__all__ = ["RETRIEVERS", "Hit", "Retriever", "make"]


def make(retriever: str | Factory, corpus: Sequence[Passage], /, **options: Any) -> Retriever:
    """Create a retriever over a corpus.

    Args:
        retriever: A key of `RETRIEVERS`, "module:Class", or a class.
        corpus: The passages; their order decides between equal scores.
        options: Keyword arguments of that retriever, e.g. `k1` and `b` of "bm25".

    Raises:
        UnknownName: No retriever has that name.
        OptionError: An option does not exist, is missing, or is out of range.
        RetrievalError: The index cannot be opened or built.
        DataError: The corpus has no passage, or no word, to search for.
        MissingExtra: The retriever needs an optional dependency that is not installed.
    """
    engine: Retriever = RETRIEVERS.make(retriever, corpus, **options)
    return engine
