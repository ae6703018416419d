from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Passage
from raggym_env.errors import OptionError, RetrievalError, UnknownName
from raggym_env.protocols import Retriever
from raggym_env.retrieval import Hit, make
from raggym_env.retrieval.fusion import DEPTH, RRFRetriever
from raggym_env.testing import ScriptedRetriever, check_retriever

TOWNS = [Passage(str(i), f"Town {i % 9}", f"On the river number {i % 5}, mile {i}.") for i in range(60)]
BM25 = {"name": "bm25", "store": False}
PLAIN = {**BM25, "stemmer": "none", "k1": 0.9}


def scripted(*titles: str, **options: object) -> ScriptedRetriever:
    return ScriptedRetriever({}, default=titles, **options)


def fused(*retrievers: object, **options: object) -> RRFRetriever:
    return RRFRetriever([], retrievers=retrievers, **options)


def ids(hits) -> list[str]:
    return [hit.passage.id for hit in hits]


def test_a_passage_scores_the_sum_of_its_reciprocal_ranks():
    retriever = fused(scripted("a", "b", "c"), scripted("c", "a"))

    [hits] = retriever.search(["q"], 3)

    assert ids(hits) == ["a", "c", "b"]
    assert [hit.score for hit in hits] == pytest.approx([1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62])


def test_rrf_k_and_weights_enter_as_the_formula_says():
    retriever = fused(scripted("a", "b"), scripted("b"), rrf_k=0, weights=[3, 1])
    assert retriever.search(["q"], 2) == [[(_passage("a"), 3.0), (_passage("b"), 3 / 2 + 1.0)]]


def _passage(title: str) -> Passage:
    return Passage(title, title, f"Text of {title}.")


def test_of_equal_scores_the_best_single_rank_comes_first_and_then_the_retriever_named_first():
    one, two = scripted("a", "b", "x"), scripted("c", "a", "b")
    retriever = fused(one, two, weights=[1, 1], rrf_k=60)
    [hits] = retriever.search(["q"], 9)
    assert ids(hits) == ["a", "b", "c", "x"]

    assert ids(fused(scripted("a"), scripted("b")).search(["q"], 2)[0]) == ["a", "b"]
    assert ids(fused(scripted("b"), scripted("a")).search(["q"], 2)[0]) == ["b", "a"]

    crossed = fused(scripted("a", "b"), scripted("b", "a"))  # each is first in one list
    assert ids(crossed.search(["q"], 2)[0]) == ["a", "b"]

    # 1/1 once, as much as twice 1/2: the better single rank decides.
    halves = fused(scripted("x", "a"), scripted("y", "a"), rrf_k=0)
    assert ids(halves.search(["q"], 3)[0]) == ["x", "y", "a"]


@given(st.tuples(*[st.permutations("abcdef")] * 3))
def test_scores_do_not_depend_on_the_order_of_the_retrievers(lists):
    members = [scripted(*titles) for titles in lists]
    orders = [fused(*order).search(["q"], 6)[0] for order in itertools.permutations(members)]
    scores = [{hit.passage.id: hit.score for hit in hits} for hits in orders]
    assert all(score == scores[0] for score in scores)


def test_every_retriever_gets_the_whole_batch_in_one_call_of_the_depth_or_k():
    calls = []

    class Recorded(ScriptedRetriever):
        def search(self, queries, k):
            calls.append((list(queries), k))
            return super().search(queries, k)

    retriever = fused(Recorded({}), Recorded({}), depth=7)
    retriever.search(["p", "q"], 5)
    retriever.search(["p"], 9)
    fused(Recorded({}), Recorded({})).search(["p"], 3)

    assert calls == [*[(["p", "q"], 7)] * 2, *[(["p"], 9)] * 2, *[(["p"], DEPTH)] * 2]


def test_hits_below_the_depth_do_not_count():
    deep, other = scripted("a", "b", "c"), scripted("c")
    assert ids(fused(deep, other, depth=3).search(["q"], 3)[0]) == ["c", "a", "b"]
    assert ids(fused(deep, other, depth=2).search(["q"], 2)[0]) == ["a", "c"]


def test_k_may_be_more_than_the_depth():
    retriever = fused(scripted(*map(str, range(30))), scripted(*map(str, range(20, 50))), depth=5)
    assert len(retriever.search(["q"], 25)[0]) == 25


def test_a_passage_that_is_in_a_list_twice_counts_once():
    [hits] = fused(scripted("a", "a", "b"), scripted("c")).search(["q"], 9)
    assert {hit.passage.id: hit.score for hit in hits} == {"a": 1 / 61, "b": 1 / 62, "c": 1 / 61}


def test_one_id_is_one_passage_as_the_first_retriever_has_it():
    first, second = Passage("1", "Rome", "first"), Passage("1", "Rome", "second")
    [hits] = fused(scripted(first), scripted(second)).search(["q"], 5)
    assert hits == [Hit(first, 2 / 61)]


def test_no_queries_make_no_call_and_no_hits_fuse_to_none():
    member = scripted()
    assert fused(member, member).search([], 3) == []
    assert member.calls == []
    assert fused(member, member).search(["q"], 3) == [[]]


@pytest.mark.parametrize("name", ["bm25", "rank-bm25"])
def test_retrievers_are_made_by_name_or_table_over_the_same_corpus(name):
    alone = make(name, TOWNS).search(["river number 3"], 60)[0]
    retriever = make("rrf", TOWNS, retrievers=[name, PLAIN])
    assert set(ids(retriever.search(["river number 3"], 60)[0])) >= set(ids(alone))


def test_it_keeps_the_contract_of_retrievers():
    retriever = make("rrf", TOWNS, retrievers=[BM25, PLAIN])
    assert isinstance(retriever, Retriever)
    check_retriever(retriever, ["town 3", "river", "nothing of the kind", "", "number 4 river town 2"])


def test_a_fusion_can_be_fused():
    inner = {"name": "rrf", "retrievers": [BM25, PLAIN]}
    retriever = make("rrf", TOWNS, retrievers=[inner, BM25])
    [hits] = retriever.search(["town 3 river number 3"], 4)
    [alone] = make("rrf", TOWNS, retrievers=[BM25, PLAIN]).search(["town 3 river number 3"], 4)
    assert ids(hits)[0] == ids(alone)[0]


def test_threads_searching_at_once_get_right_results():
    retriever = make("rrf", TOWNS, retrievers=[BM25, PLAIN])
    queries = [f"town {i % 9} number {i % 5}" for i in range(40)]
    expected = [retriever.search([query], 5) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: retriever.search([query], 5), queries)) == expected


def test_a_failure_names_the_retriever_that_failed():
    retriever = fused(scripted("a"), scripted(fails=["q"]))
    with pytest.raises(RetrievalError, match="'ScriptedRetriever' failed: Scripted to fail"):
        retriever.search(["q"], 1)
    inner = RRFRetriever(TOWNS, retrievers=[{"name": "rrf", "retrievers": [BM25, scripted(fails=["q"])]}, BM25])
    with pytest.raises(RetrievalError, match="'rrf' failed: The retriever 'ScriptedRetriever' failed"):
        inner.search(["q"], 1)


def test_a_retriever_that_loses_a_query_is_a_failure():
    class Short(ScriptedRetriever):
        def search(self, queries, k):
            return super().search(queries, k)[:-1]

    with pytest.raises(RetrievalError, match=r"'Short' failed: .* got 1 lists for 2 queries"):
        fused(scripted("a"), Short({})).search(["p", "q"], 1)


def test_the_fingerprint_changes_with_everything_that_changes_results():
    options = [
        {"retrievers": [BM25, PLAIN]},
        {"retrievers": [PLAIN, BM25]},
        {"retrievers": [BM25, {**PLAIN, "b": 0.5}]},
        {"retrievers": [BM25, PLAIN, PLAIN]},
        {"retrievers": [BM25, PLAIN], "rrf_k": 10},
        {"retrievers": [BM25, PLAIN], "depth": 10},
        {"retrievers": [BM25, PLAIN], "weights": [1, 2]},
    ]
    assert len({make("rrf", TOWNS, **option).fingerprint for option in options}) == len(options)
    assert len({make("rrf", corpus, **options[0]).fingerprint for corpus in (TOWNS, TOWNS[::-1])}) == 2
    defaults = [{"depth": DEPTH}, {"rrf_k": 60}, {"weights": [1.0, 1.0]}, {}]
    assert len({make("rrf", TOWNS, **options[0], **default).fingerprint for default in defaults}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "at least two retrievers"),
        ({"retrievers": ["bm25"]}, "at least two retrievers"),
        ({"retrievers": "bm25"}, "retrievers must be a list of items"),
        ({"retrievers": [BM25, 7]}, "7"),
        ({"retrievers": [BM25, {"k1": 1.0}]}, "needs name"),
        ({"retrievers": [BM25, BM25], "rrf_k": -1}, "rrf_k must be a number, at least 0, got -1"),
        ({"retrievers": [BM25, BM25], "rrf_k": True}, "rrf_k"),
        ({"retrievers": [BM25, BM25], "depth": 0}, "depth must be a whole number"),
        ({"retrievers": [BM25, BM25], "depth": 2.0}, "depth must be a whole number"),
        ({"retrievers": None}, "retrievers must be a list of items"),
        ({"retrievers": 7}, "retrievers must be a list of items"),
        ({"retrievers": [BM25, BM25], "rrf_k": 10**400}, "rrf_k must be"),
        ({"retrievers": [BM25, BM25], "weights": 7}, "weights must be"),
        ({"retrievers": [BM25, BM25], "weights": "11"}, "weights must be"),
        ({"retrievers": [BM25, BM25], "weights": [1]}, "2 positive numbers"),
        ({"retrievers": [BM25, BM25], "weights": [1, 0]}, "2 positive numbers"),
        ({"retrievers": [BM25, BM25], "weights": [1, float("nan")]}, "weights must be .* a finite number"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options, message):
    with pytest.raises(OptionError, match=message):
        make("rrf", TOWNS, **options)


def test_an_unknown_retriever_or_option_inside_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'bm25'"):
        make("rrf", TOWNS, retrievers=["bm25", "bm52"])
    with pytest.raises(OptionError, match=r"The retriever 'bm25' has no option 'stemer'. Did you mean 'stemmer'"):
        make("rrf", TOWNS, retrievers=["bm25", {"name": "bm25", "stemer": "none"}])
