from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.retrieval.bm25 import vocabulary
from raggym_env.retrieval.bm25.vocabulary import Vocabulary, write_vocabulary

NUMBERS = {"cat": 0, "élan": 1, "car": 2, "中文": 3, "c": 4, "zebra" * 100: 5}


@pytest.fixture(params=[True, False], ids=["mapped", "in memory"])
def opened(tmp_path, request) -> Vocabulary:
    write_vocabulary(NUMBERS, tmp_path)
    return Vocabulary.open(tmp_path, mapped=request.param)


def test_terms_get_their_numbers_in_order_and_with_repetitions(opened):
    assert len(opened) == len(NUMBERS)
    assert opened.ids([*NUMBERS, "cat", "cat"]) == [*NUMBERS.values(), 0, 0]


def test_unknown_terms_are_left_out_also_the_second_time(opened):
    for _ in range(2):
        assert opened.ids(["", "a", "ca", "cat", "cats", "zz"]) == [0]


def test_a_term_is_searched_for_once(opened, monkeypatch):
    opened.ids(["cat", "dog"])
    monkeypatch.setattr(Vocabulary, "_term", lambda *_: pytest.fail("searched again"))
    assert opened.ids(["dog", "cat"]) == [0]


def test_the_memo_of_terms_is_bounded(opened, monkeypatch):
    monkeypatch.setattr(vocabulary, "_MEMO_SIZE", 10)
    for number in range(100):
        assert opened.ids([f"unknown {number}", "car"]) == [2]
    assert len(opened._memo) <= 10


@given(st.sets(st.text(min_size=1), min_size=1), st.lists(st.text(min_size=1)))
def test_it_agrees_with_a_dict(tmp_path_factory, terms, others):
    numbers = {term: number for number, term in enumerate(terms)}
    folder = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(numbers, folder)
    queries = [*others, *terms]
    assert Vocabulary.open(folder).ids(queries) == [numbers[term] for term in queries if term in numbers]


def test_it_can_be_pickled(opened):
    assert pickle.loads(pickle.dumps(opened)).ids(NUMBERS) == list(NUMBERS.values())  # noqa: S301


@pytest.mark.parametrize(
    ("file", "array"),
    [
        ("terms.ids.npy", np.zeros(2, np.int32)),
        ("terms.ids.npy", np.zeros(len(NUMBERS), np.int64)),
        ("terms.bounds.npy", np.zeros(len(NUMBERS) + 1, np.float64)),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(tmp_path, file, array):
    write_vocabulary(NUMBERS, tmp_path)
    np.save(tmp_path / file, array)
    with pytest.raises(ValueError, match=file):
        Vocabulary.open(tmp_path)


def test_terms_cut_short_are_refused(tmp_path):
    write_vocabulary(NUMBERS, tmp_path)
    (tmp_path / "terms.bin").write_bytes(b"cat")
    with pytest.raises(ValueError, match=r"terms\.bin has 3 bytes"):
        Vocabulary.open(tmp_path)
