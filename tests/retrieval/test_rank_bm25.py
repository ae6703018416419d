from __future__ import annotations

import numpy as np
import pytest

from raggym_env.core import Passage
from raggym_env.errors import DataError, OptionError, RetrievalError, UnknownName
from raggym_env.retrieval import rank_bm25
from raggym_env.retrieval.bm25.retriever import BM25Retriever
from raggym_env.retrieval.rank_bm25 import RankBM25Retriever


def passages(*texts: str) -> list[Passage]:
    return [Passage(str(number), "", text) for number, text in enumerate(texts)]


def ids(hits) -> list[str]:
    return [hit.passage.id for hit in hits]


FILLER = ["filler"] * 9


def test_only_passages_with_a_positive_score_are_hits_best_first():
    retriever = RankBM25Retriever(passages("cat dog dog", "cat cat bird", *FILLER))
    [cat, nothing, unknown] = retriever.search(["cat", "the", "zebra"], k=100)
    assert ids(cat) == ["1", "0"]
    assert nothing == unknown == []


def test_equal_scores_keep_corpus_order():
    retriever = RankBM25Retriever(passages(*FILLER, *["same text"] * 6))
    assert ids(retriever.search(["same"], k=4)[0]) == ["9", "10", "11", "12"]


def test_it_ranks_as_bm25_does_where_their_formulas_agree():
    rng = np.random.default_rng(1)
    corpus = passages(*(" ".join(f"w{i}" for i in rng.zipf(1.3, 20) if i < 500) for _ in range(300)))
    queries = [f"w{i} w{i + 7}" for i in range(20, 60)]
    one, other = RankBM25Retriever(corpus), BM25Retriever(corpus, store=False)
    pairs = zip(one.search(queries, 1), other.search(queries, 1), strict=True)
    assert all(ids(a) == ids(b) for a, b in pairs)


def test_titles_are_found_by_their_ascii_spelling_and_if_they_are_stop_words_alone():
    titles = ["The The", "If/Then", "Łódź", "Kadıköy", "This Is It (song)"]
    corpus = [Passage(str(number), title, "a text") for number, title in enumerate(titles)]
    retriever = RankBM25Retriever([*corpus, *passages(*FILLER)])
    hits = retriever.search(["the the", "if then", "Lodz", "Kadikoy", "this is it", "the zebra"], 1)
    assert [ids(row) for row in hits] == [["0"], ["1"], ["2"], ["3"], ["4"], []]


def test_a_large_corpus_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(rank_bm25, "MAX_PASSAGES", 3)
    with pytest.raises(DataError, match=r"up to 3 passages; this one has 4.*'bm25'"):
        RankBM25Retriever(passages("a", "b", "c", "d"))


def test_wrong_requests_and_options_are_refused():
    retriever = RankBM25Retriever(passages("cat", *FILLER))
    with pytest.raises(RetrievalError, match="list of queries"):
        retriever.search("cat", 1)
    with pytest.raises(OptionError, match="k1"):
        RankBM25Retriever(passages("cat"), k1=-1)
    with pytest.raises(OptionError, match="epsilon"):
        RankBM25Retriever(passages("cat"), epsilon=-1)
    with pytest.raises(UnknownName):
        RankBM25Retriever(passages("cat"), stemmer="none!")
    with pytest.raises(DataError, match="no word"):
        RankBM25Retriever([])


def test_the_fingerprint_changes_with_everything_that_changes_results():
    corpus = passages("cat", *FILLER)
    options = [{}, {"k1": 1.0}, {"b": 0.5}, {"epsilon": 0.1}, {"title_weight": 4}, {"stemmer": "none"}]
    prints = {RankBM25Retriever(corpus, **option).fingerprint for option in options}
    assert len(prints | {RankBM25Retriever(corpus[1:]).fingerprint}) == len(options) + 1
