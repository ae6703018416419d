from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from raggym_env.core import Passage
from raggym_env.errors import OptionError, RetrievalError
from raggym_env.protocols import Hit, Retriever
from raggym_env.retrieval.cache import CachedRetriever


class Echo:
    """Returns one passage per query, with the query as its text; records the calls; fails while `broken`."""

    def __init__(self) -> None:
        self.fingerprint = "echo"
        self.calls: list[tuple[list[str], int]] = []
        self.broken = False

    def search(self, queries, k):
        self.calls.append((list(queries), k))
        if self.broken:
            raise RetrievalError("down")
        return [[Hit(Passage(str(k), self.fingerprint, query), 1.0)] for query in queries]


@pytest.fixture
def echo() -> Echo:
    return Echo()


def texts(results) -> list[str]:
    return [hits[0].passage.text for hits in results]


def test_only_misses_reach_the_retriever_once_each_in_one_call(echo):
    cached = CachedRetriever(echo)
    cached.search(["a"], 3)

    results = cached.search(["b", "a", "c", "b"], 3)

    assert texts(results) == ["b", "a", "c", "b"]
    assert echo.calls == [(["a"], 3), (["b", "c"], 3)]
    assert (cached.hits, cached.misses) == (2, 3)


def test_a_request_that_is_cached_in_full_makes_no_call(echo):
    cached = CachedRetriever(echo)
    cached.search(["a", "b"], 3)
    cached.search(["b", "a"], 3)
    cached.search([], 3)
    assert len(echo.calls) == 1


def test_queries_are_the_same_only_if_every_character_and_k_are(echo):
    cached = CachedRetriever(echo)
    for query, k in [("a", 3), ("A", 3), ("a ", 3), ("a", 4)]:
        [[hit]] = cached.search([query], k)
        assert (hit.passage.text, hit.passage.id) == (query, str(k))
    assert len(echo.calls) == 4


def test_the_least_recently_used_query_is_dropped_first(echo):
    cached = CachedRetriever(echo, size=2)
    for query in ["a", "b", "a", "c", "a", "b"]:
        cached.search([query], 1)
    assert [queries for queries, _ in echo.calls] == [["a"], ["b"], ["c"], ["b"]]


def test_a_request_larger_than_the_cache_is_answered_in_full(echo):
    cached = CachedRetriever(echo, size=2)
    assert texts(cached.search(list("abcde"), 1)) == list("abcde")


def test_nothing_is_cached_when_the_retriever_fails(echo):
    cached = CachedRetriever(echo)
    echo.broken = True
    with pytest.raises(RetrievalError, match="down"):
        cached.search(["a"], 1)
    assert (cached.hits, cached.misses) == (0, 0)
    echo.broken = False
    assert texts(cached.search(["a"], 1)) == ["a"]


def test_changing_a_result_changes_no_later_one(echo):
    cached = CachedRetriever(echo)
    first, twin = cached.search(["a", "a"], 1)
    first.clear()
    assert len(twin) == len(cached.search(["a"], 1)[0]) == 1


def test_a_retriever_that_changed_is_searched_again(echo):
    cached = CachedRetriever(echo)
    cached.search(["a"], 1)
    echo.fingerprint = "another index"
    assert cached.search(["a"], 1)[0][0].passage.title == "another index"
    assert cached.fingerprint == "another index"


def test_a_retriever_that_loses_results_is_an_error(echo):
    echo.search = lambda queries, k: [[]]
    with pytest.raises(RetrievalError, match="got 1 lists for 2 queries"):
        CachedRetriever(echo).search(["a", "b"], 1)


def test_clear_empties_the_cache(echo):
    cached = CachedRetriever(echo)
    cached.search(["a"], 1)
    cached.clear()
    cached.search(["a"], 1)
    assert len(echo.calls) == 2


def test_wrong_requests_and_sizes_are_refused(echo):
    with pytest.raises(RetrievalError, match="list of queries"):
        CachedRetriever(echo).search("a", 1)
    for size in (0, -1, 2.5, "3", None, True):
        with pytest.raises(OptionError, match="size"):
            CachedRetriever(echo, size=size)
    assert echo.calls == []


def test_threads_get_their_own_results_and_every_query_is_counted(echo):
    cached = CachedRetriever(echo, size=5)
    requests = [[str(i % 9), str(i % 7)] for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda request: texts(cached.search(request, 1)), requests))
    assert results == requests
    assert cached.hits + cached.misses == 800


def test_it_is_a_retriever(echo):
    assert isinstance(CachedRetriever(echo), Retriever)
