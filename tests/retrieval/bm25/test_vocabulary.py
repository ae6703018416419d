from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.retrieval.bm25.vocabulary import Vocabulary, write_vocabulary

NUMBERS = {"cat": 0, "élan": 1, "car": 2, "中文": 3, "c": 4, "zebra" * 100: 5}


@pytest.fixture(params=[True, False], ids=["mapped", "in memory"])
def opened(tmp_path, request) -> Vocabulary:
    write_vocabulary(NUMBERS, tmp_path)
    return Vocabulary.open(tmp_path, mapped=request.param)


def test_every_term_has_its_number(opened):
    assert len(opened) == len(NUMBERS)
    assert {term: opened.find(term) for term in NUMBERS} == NUMBERS


def test_unknown_terms_have_none(opened):
    assert [opened.find(term) for term in ("", "a", "ca", "cats", "zz")] == [-1] * 5


@given(st.sets(st.text(min_size=1), min_size=1), st.lists(st.text(min_size=1)))
def test_it_agrees_with_a_dict(tmp_path_factory, terms, others):
    numbers = {term: number for number, term in enumerate(terms)}
    folder = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(numbers, folder)
    opened = Vocabulary.open(folder)
    opened.check()
    assert [opened.find(term) for term in (*others, *terms)] == [numbers.get(term, -1) for term in (*others, *terms)]


def test_it_can_be_pickled(opened):
    twin = pickle.loads(pickle.dumps(opened))  # noqa: S301
    assert {term: twin.find(term) for term in NUMBERS} == NUMBERS


@pytest.mark.parametrize(
    ("file", "array"),
    [
        ("terms.ids.npy", np.zeros(2, np.int32)),
        ("terms.ids.npy", np.zeros(len(NUMBERS), np.int64)),
        ("terms.bounds.npy", np.zeros(len(NUMBERS) + 1, np.float64)),
        ("terms.bounds.npy", np.array([0, 99, 4, 5, 6, 7, 8], np.int64)),
        ("terms.ids.npy", np.array([0, 1, 2, 3, 4, 6], np.int32)),
        ("terms.ids.npy", np.array([0, 1, 2, 3, 4, -1], np.int32)),
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
    with pytest.raises(ValueError, match=r"terms\.bin, which has 3 bytes"):
        Vocabulary.open(tmp_path)
