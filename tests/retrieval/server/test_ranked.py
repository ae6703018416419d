from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Passage
from raggym_env.errors import RetrievalError
from raggym_env.retrieval import Hit, make
from raggym_env.retrieval.bm25.retriever import BM25Retriever
from raggym_env.retrieval.server import ranked
from raggym_env.retrieval.server.ranked import RankedRows, is_ranker
from raggym_env.retrieval.wire import write_row

CORPUS = [Passage(str(i), f"Title {i}", f"word{i} common text") for i in range(20)]


class Ranks:
    """Finds given positions with given scores, whatever the query."""

    def __init__(self, corpus, positions=(), scores=()):
        self.corpus = corpus
        self.ranking = positions, scores

    def search(self, queries, k):
        return [[Hit(self.corpus[i], score) for i, score in zip(*self.ranking, strict=True)] for _ in queries]

    def rank(self, queries, k):
        return [self.ranking for _ in queries]


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)


@given(st.lists(st.builds(Passage, texts, texts, texts), min_size=1, max_size=5), st.data())
def test_rows_are_those_of_the_hits_byte_by_byte(corpus, data):
    positions = data.draw(st.lists(st.integers(0, len(corpus) - 1), max_size=8))
    scores = data.draw(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=8, max_size=8))
    retriever = Ranks(corpus, positions, scores[: len(positions)])
    rows = RankedRows(retriever)
    (hits,) = retriever.search(["q"], 8)
    for with_scores in (True, False, True):
        written = rows.write(rows.search(["q"], 8), with_scores, 1 << 20)
        assert written == [write_row(hits, scores=with_scores)]


def test_bm25_ranks_what_it_finds():
    retriever = make("bm25", CORPUS, store=False)
    queries = ["word3 common", "nothing", "word7"]
    rankings = retriever.rank(queries, 4)
    found = [
        [Hit(CORPUS[i], score) for i, score in zip(positions, scores, strict=True)] for positions, scores in rankings
    ]
    assert found == retriever.search(queries, 4)
    assert is_ranker(retriever)


class SearchesOtherwise(BM25Retriever):
    def search(self, queries, k):
        return [[] for _ in queries]


class RanksOtherwise(BM25Retriever):
    def rank(self, queries, k):
        return [([], []) for _ in queries]


class SearchesAndRanks(SearchesOtherwise):
    def rank(self, queries, k):
        return [([], []) for _ in queries]


def test_a_retriever_with_a_search_of_its_own_is_asked_for_that():
    wrapped = make("bm25", CORPUS, store=False)
    wrapped.search = lambda queries, k: [[] for _ in queries]
    others = [kind(CORPUS, store=False) for kind in (SearchesOtherwise, RanksOtherwise, SearchesAndRanks)]
    assert not any(is_ranker(retriever) for retriever in (wrapped, *others, object()))


@pytest.mark.parametrize("limit", range(0, 200, 7))
def test_no_more_is_written_than_the_limit(limit):
    retriever = Ranks(CORPUS, [1, 2], [2.0, 1.0])
    rows = RankedRows(retriever)
    whole = len(write_row(retriever.search(["q"], 2)[0], scores=True))
    for _ in range(2):  # the second time, the documents are there
        written = rows.write(retriever.rank(["q"], 2), True, limit)
        assert (written is None) == (whole > limit)


def test_a_passage_beyond_the_limit_is_not_written_at_all(monkeypatch):
    monkeypatch.setattr(ranked, "write_document", lambda passage: pytest.fail("written"))
    rows = RankedRows(Ranks([Passage("1", "", "x" * 100)], [0], [1.0]))
    assert rows.write([([0], [1.0])], True, 99) is None


@pytest.mark.parametrize("ranking", [([0, 1, 2], [3, 2, 1]), ([0], [float("nan")]), ([0], [float("inf")]), ([0], [])])
def test_a_malformed_ranking_is_a_failure(ranking):
    with pytest.raises(RetrievalError, match="more than 2 passages, or a score that is not finite"):
        RankedRows(Ranks(CORPUS, *ranking)).search(["q"], 2)


def test_documents_are_kept_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(ranked, "_MAX_KEPT", 300)
    rows = RankedRows(Ranks(CORPUS))
    for position in range(20):
        assert rows.write([([position], [1.0])], False, 999) == [write_row([Hit(CORPUS[position], 1.0)], scores=False)]
        assert sum(map(len, rows._documents.values())) <= 400
