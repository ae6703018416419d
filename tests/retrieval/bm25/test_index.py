from __future__ import annotations

import json
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.errors import DataError, RetrievalError
from raggym_env.retrieval.bm25 import index as postings
from raggym_env.retrieval.bm25.index import Index, write_index

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
