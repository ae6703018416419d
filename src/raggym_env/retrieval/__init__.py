"""Search engines over a corpus, by name. Nothing here knows of episodes, prompts or rewards.

>>> from raggym_env.core import Passage
>>> corpus = [Passage("1", "Paris", "The capital of France."), Passage("2", "Rome", "The capital of Italy.")]
>>> retriever = make("bm25", corpus, store=False)
>>> [[hit.passage.title for hit in hits] for hits in retriever.search(["capital of Italy"], k=1)]
[['Rome']]
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from raggym_env.core import Passage
from raggym_env.errors import RetrievalError, UnknownName
from raggym_env.protocols import Hit, Retriever

__all__ = ["RETRIEVERS", "Hit", "Retriever", "make"]

RETRIEVERS: dict[str, str] = {
    "bm25": "raggym_env.retrieval.bm25.retriever:BM25Retriever",
    "rank-bm25": "raggym_env.retrieval.rank_bm25:RankBM25Retriever",
    "lucene": "raggym_env.retrieval.lucene.retriever:LuceneRetriever",
    "dense": "raggym_env.retrieval.dense.retriever:DenseRetriever",
    "rrf": "raggym_env.retrieval.fusion:RRFRetriever",
    "rerank": "raggym_env.retrieval.dense.rerank:RerankRetriever",
    "http": "raggym_env.retrieval.http:HTTPRetriever",
}
"""Name -> "module:callable". The callable takes the corpus, then its options by keyword. Yours may be added."""


def make(name: str, corpus: Sequence[Passage], **options: Any) -> Retriever:
    """Make the retriever of that name over a corpus.

    Args:
        name: A key of `RETRIEVERS`.
        corpus: The passages; their order decides between equal scores.
        options: Keyword arguments of that retriever, e.g. `k1` and `b` of "bm25".

    Raises:
        UnknownName: No retriever has that name, or it has no option of that name.
        RetrievalError: An option is missing or has a value it cannot have, or the index cannot be opened or built.
        DataError: The corpus has nothing to search in.
        MissingExtra: The retriever needs an optional dependency that is not installed.
    """
    if name not in RETRIEVERS:
        raise UnknownName("retriever", str(name), RETRIEVERS)
    module, _, attribute = RETRIEVERS[name].partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    _check_options(name, factory, options)
    retriever: Retriever = factory(corpus, **options)
    return retriever


def _check_options(name: str, factory: Any, options: dict[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = {each.name: each.default is each.empty for each in parameters if each.kind is each.KEYWORD_ONLY}
    for option in options:
        if option not in known:
            raise UnknownName(f"option of the {name!r} retriever", option, known)
    if missing := [option for option, required in known.items() if required and option not in options]:
        raise RetrievalError(f"The {name!r} retriever needs the option {missing[0]!r}: it has no default.")
