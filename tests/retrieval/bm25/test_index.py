from __future__ import annotations

import json
import shutil
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile_files import sign
from raggym_env.core import Passage
from raggym_env.errors import DataError, RetrievalError
from raggym_env.retrieval.bm25 import index as postings
from raggym_env.retrieval.bm25.index import Index, write_index
from raggym_env.retrieval.bm25.retriever import BM25Retriever

WORDS = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]
FILES = ["data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy"]


def zipf(passages: int, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[f"w{i}" for i in rng.zipf(1.2, rng.integers(0, 40)) if i < 3000] for _ in range(passages)]


def by_bm25s(passages: list[list[str]], folder: Path, k1: float, b: float) -> None:
    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(term, len(vocabulary)) for term in terms] for terms in passages]
    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    index.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    index.save(folder, show_progress=False)


def assert_same_as_bm25s(passages, folder: Path, k1: float = 1.2, b: float = 0.75) -> None:
    for name, build in (("ours", write_index), ("theirs", by_bm25s)):
        (folder / name).mkdir()
        build(passages, folder / name, k1=k1, b=b)
    for file in FILES:
        ours, theirs = (np.load(folder / name / file) for name in ("ours", "theirs"))
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes(), file
    assert _json(folder / "ours") == _json(folder / "theirs")


def _json(folder: Path) -> dict[str, int]:
    return json.loads((folder / "vocab.index.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (0, 0), (2, 1)])
def test_the_index_is_the_one_that_bm25s_builds_to_the_last_bit(tmp_path, k1, b):
    assert_same_as_bm25s(zipf(3000), tmp_path, k1, b)


@pytest.mark.slow
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=6), max_size=30),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 5),
)
def test_it_does_not_depend_on_how_it_is_cut_into_blocks(tmp_path_factory, passages, block, merged, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings, "BLOCK_TERMS", block)
        patch.setattr(postings, "MERGED_POSTINGS", merged)
        patch.setattr(postings, "_CHUNK", chunk)
        assert_same_as_bm25s([["ant"], *passages, []], tmp_path_factory.mktemp("index"))


def test_passages_are_read_as_a_stream_and_nothing_temporary_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(postings, "BLOCK_TERMS", 1000)
    write_index(iter(zipf(3000)), tmp_path, k1=1.2, b=0.75)
    assert {path.name for path in tmp_path.iterdir()} == {
        *FILES,
        "params.index.json",
        "vocab.index.json",
        *(f"terms.{end}" for end in ("bin", "bounds.npy", "ids.npy")),
    }


def test_bm25s_opens_the_index(tmp_path):
    passages = zipf(500)
    write_index(passages, tmp_path, k1=0.9, b=0.4)
    loaded = bm25s.BM25.load(tmp_path, mmap=True)
    assert (loaded.k1, loaded.b, loaded.method) == (0.9, 0.4, "lucene")
    assert loaded.get_scores(passages[7]).argmax() == 7


def test_a_good_index_passes_a_check_in_parts_of_any_size(tmp_path, monkeypatch):
    write_index(zipf(100), tmp_path, k1=1.2, b=0.75)
    for size in (1, 2, 3, 7, 50, 10**6):
        monkeypatch.setattr(postings, "MERGED_POSTINGS", size)
        Index.load(tmp_path, 100).check()


@pytest.mark.parametrize("mapped", [True, False])
def test_an_opened_index_is_read_only(tmp_path, mapped):
    write_index(zipf(10), tmp_path, k1=1.2, b=0.75)
    index = Index.load(tmp_path, 10, mapped=mapped)
    assert index.passages == 10
    assert isinstance(index.scores.base, np.memmap) == mapped
    with pytest.raises(ValueError, match="read-only"):
        index.scores[0] = 1


def test_no_term_at_all_is_refused(tmp_path):
    with pytest.raises(DataError, match="corpus of 2 passages holds no word"):
        write_index([[], []], tmp_path, k1=1.2, b=0.75)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(RetrievalError, match=r"cannot be read.*Delete this folder"):
        Index.load(tmp_path, 1)


@pytest.fixture
def stored(tmp_path):
    write_index([["ant", "bee"], ["bee", "cat"], ["bee"], ["cat"]], tmp_path, k1=1.2, b=0.75)
    return tmp_path


def test_terms_get_their_numbers_in_order_and_with_repetitions(stored):
    index = Index.load(stored, 4)
    for _ in range(2):
        assert index.ids(["bee", "dog", "ant", "", "bee"]) == [1, 0, 1]


def test_a_term_is_searched_for_once(stored, monkeypatch):
    index = Index.load(stored, 4)
    index.ids(["cat", "dog"])
    monkeypatch.setattr(type(index.vocabulary), "find", lambda *_: pytest.fail("searched again"))
    assert index.ids(["dog", "cat"]) == [2]


def test_the_memo_of_terms_is_bounded(stored, monkeypatch):
    monkeypatch.setattr(postings, "_MEMO_SIZE", 10)
    index = Index.load(stored, 4)
    for number in range(100):
        assert index.ids([f"unknown {number}", "ant"]) == [0]
    assert len(index._memo) <= 10


SCORES, POSITIONS, STARTS = FILES
REFUSED = [  # when the index is opened
    (STARTS, np.array([0, 1, 4], np.int64)),
    (STARTS, np.array([0, 1, 4, 6, 6], np.int64)),
    (STARTS, np.array([1, 2, 4, 6], np.int64)),
    (STARTS, np.array([0, 1, 4, 5], np.int64)),
    (STARTS, np.array([0, 1, 4, 7], np.int64)),
    (STARTS, np.array([0, 4, 1, 6], np.int64)),
    (STARTS, np.array([0, 2**62, 4, 6], np.int64)),
    (STARTS, np.array([0, -(2**62), 4, 6], np.int64)),
    (STARTS, np.array([0, 1, 1, 6], np.int64)),
    (STARTS, np.array([0, 1, 4, 6], np.int32)),
    (POSITIONS, np.array([0, 0, 1, 2, 1], np.int32)),
    (POSITIONS, np.array([0, 0, 1, 2, 1, 3], np.int64)),
    (SCORES, np.ones(7, np.float32)),
    (SCORES, np.ones(6, np.float64)),
    (SCORES, np.ones((2, 3), np.float32)),
    ("terms.ids.npy", np.array([0, 1, 3], np.int32)),
    ("terms.ids.npy", np.array([0, 1, -1], np.int32)),
    ("terms.bounds.npy", np.array([0, 3, 2, 9], np.int64)),
    ("terms.bounds.npy", np.array([0, 3, 2**62, 9], np.int64)),
    ("params.index.json", b'{"num_docs": 5}'),
    ("params.index.json", b'{"num_docs": 1000000000000}'),
    ("params.index.json", b'{"num_docs": true}'),
    ("params.index.json", b"[4]"),
    ("params.index.json", b"[" * 100_000),
]


def change(path: Path, content) -> None:
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)


@pytest.mark.parametrize(("file", "content"), REFUSED)
@pytest.mark.parametrize("mapped", [True, False])
def test_an_index_whose_parts_do_not_fit_is_refused_when_it_is_opened(stored, file, content, mapped):
    change(stored / file, content)
    with pytest.raises(RetrievalError, match=r"cannot be read.*Delete this folder"):
        Index.load(stored, 4, mapped=mapped)


DAMAGED = [  # the postings of "bee", the second term, are 1 to 3
    (POSITIONS, np.array([0, 0, 1, 4, 1, 3], np.int32)),
    (POSITIONS, np.array([0, 0, 1, 2**31 - 1, 1, 3], np.int32)),
    (POSITIONS, np.array([0, -1, 1, 2, 1, 3], np.int32)),
    (POSITIONS, np.array([0, 0, 2, 1, 1, 3], np.int32)),
    (POSITIONS, np.array([0, 0, 0, 2, 1, 3], np.int32)),
    (SCORES, np.array([1, 1, np.nan, 1, 1, 1], np.float32)),
    (SCORES, np.array([1, 1, np.inf, 1, 1, 1], np.float32)),
    (SCORES, np.array([1, 1, -1, 1, 1, 1], np.float32)),
    (SCORES, np.array([1, 1, 0, 1, 1, 1], np.float32)),
]


@pytest.mark.parametrize(("file", "content"), DAMAGED)
def test_damaged_postings_are_refused_and_other_terms_are_found(stored, file, content, monkeypatch):
    np.save(stored / file, content)
    index = Index.load(stored, 4)
    assert index.ids(["ant", "cat"]) == [0, 2]
    for _ in range(2):
        with pytest.raises(RetrievalError, match="postings of term 1 are out of range or order"):
            index.ids(["ant", "bee"])
    for size in (1, 2, 100):
        monkeypatch.setattr(postings, "MERGED_POSTINGS", size)
        with pytest.raises(RetrievalError, match=r"postings from . on are out of range or order"):
            index.check()


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("terms.bin", b"antcatbee", "terms.bin is not sorted"),
        ("terms.bin", b"antantcat", "terms.bin is not sorted"),
        ("terms.ids.npy", np.array([0, 1, 1], np.int32), "has a number twice"),
    ],
)
def test_a_check_notices_what_opening_does_not(stored, file, content, problem):
    Index.load(stored, 4).check()
    change(stored / file, content)
    index = Index.load(stored, 4)
    with pytest.raises(RetrievalError, match=problem):
        index.check()


CORPUS = [Passage(str(i), WORDS[i % 8], f"{WORDS[i % 3]} {WORDS[i % 5]}") for i in range(20)]
PARTS = [*FILES, "terms.bin", "terms.bounds.npy", "terms.ids.npy", "params.index.json", "manifest.json"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    BM25Retriever(CORPUS, store=folder, backend="numpy")
    return folder


@settings(max_examples=40)
@given(
    part=st.sampled_from(PARTS), start=st.integers(0, 400), data=st.binary(min_size=1, max_size=8), numba=st.booleans()
)
def test_changed_bytes_give_hits_or_one_clear_error(store, tmp_path_factory, part, start, data, numba):
    changed = tmp_path_factory.getbasetemp() / "changed-bm25"
    shutil.rmtree(changed, ignore_errors=True)
    shutil.copytree(store, changed)
    [folder] = changed.glob("bm25-*/")
    content = bytearray((folder / part).read_bytes())
    content[start : start + len(data)] = data
    (folder / part).write_bytes(content)
    if part != "manifest.json":
        sign(folder)
    try:
        retriever = BM25Retriever(CORPUS, store=changed, backend="numba" if numba else "numpy")
        for hits in retriever.search([*WORDS, " ".join(WORDS)], 30):
            assert all(hit.passage in CORPUS and 0 < hit.score < np.inf for hit in hits)
    except RetrievalError:
        pass
