from __future__ import annotations

import numpy as np
import pytest

from raggym_env.errors import RetrievalError
from raggym_env.retrieval.requests import check_request, encodable


def test_one_string_is_not_a_list_of_queries():
    with pytest.raises(RetrievalError, match=r"one string: 'who'.*\[query\]"):
        check_request("who", 1)


def test_k_is_at_least_one():
    check_request([], 1)
    with pytest.raises(RetrievalError, match="k must be a whole number, at least 1, got 0"):
        check_request(["who"], 0)


@pytest.mark.parametrize(
    "queries",
    [None, 7, [None], [b"who"], ["who", 7], {"who": 1}, {"who"}, iter(["who"]), b"who"],
    ids=lambda queries: type(queries).__name__,
)
def test_queries_are_strings(queries):
    with pytest.raises(RetrievalError, match="a list of queries, each a string"):
        check_request(queries, 1)


@pytest.mark.parametrize("k", ["3", 2.0, True, None, -1, float("nan")])
def test_k_is_a_whole_number(k):
    with pytest.raises(RetrievalError, match="k must be a whole number, at least 1, got"):
        check_request(["who"], k)
    check_request(np.array(["who"]), np.int64(3))


def test_lone_surrogates_become_question_marks_and_other_texts_stay():
    assert encodable("lone \ud800 half") == "lone ? half"
    for text in ("plain", "Gda\u0144sk \U0001f600"):
        assert encodable(text) == text
