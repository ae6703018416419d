from __future__ import annotations

import numpy as np
import pytest

from hostile_files import sign
from raggym_env.core import Passage
from raggym_env.errors import RetrievalError
from raggym_env.retrieval.bm25.retriever import BM25Retriever
from raggym_env.retrieval.verify import index_folders, verify_index

CORPUS = [Passage(str(number), f"title {number}", f"text {number % 5}") for number in range(50)]


class Encoder:
    query_key = passage_key = {"encoder": "digits"}  # noqa: RUF012

    def __init__(self, options):
        pass

    def passages(self):
        return lambda batch: np.array([[int(p.id) + 1, 1, 0, 2] for p in batch], np.float32)


@pytest.fixture
def dense(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    from raggym_env.retrieval.dense import retriever

    monkeypatch.setattr(retriever, "Encoder", Encoder)
    for options in ({}, {"dtype": "float16"}, {"index": "hnsw"}, {"index": "ivf", "dtype": "float16"}):
        retriever.DenseRetriever(CORPUS, store=tmp_path, **options)
    return tmp_path


def descriptions(store):
    return {verify_index(folder).rpartition(",")[0] for folder in index_folders(store)}


def test_every_kind_of_dense_index_is_verified(dense):
    assert len(index_folders(dense)) == 4
    assert descriptions(dense) == {"embeddings index of 50 passages", "dense index of 50 passages"}


@pytest.mark.parametrize(("pattern", "mark"), [("embeddings-*/*.npy", b"\x93NUM"), ("dense-*/index.faiss", b"IwSq")])
def test_numbers_that_cannot_be_are_found_behind_a_right_checksum(dense, pattern, mark):
    file = next(path for path in sorted(dense.glob(pattern)) if path.read_bytes().startswith(mark))
    file.write_bytes(file.read_bytes()[:-8] + b"\xff" * 8)  # a vector of nan, or a position beyond the corpus
    with pytest.raises(RetrievalError, match="is not what was written"):
        verify_index(file.parent)
    sign(file.parent)
    with pytest.raises(RetrievalError):
        verify_index(file.parent)


def test_bm25_is_verified_and_reading_is_reported(tmp_path):
    BM25Retriever(CORPUS, store=tmp_path, backend="numpy")
    [folder] = index_folders(tmp_path)
    assert index_folders(folder) == [folder]
    parts: list[int] = []
    assert verify_index(folder, parts.append).startswith("bm25 index of 50 passages")
    assert sum(parts) == sum(path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json")


@pytest.mark.slow
def test_lucene_is_verified_by_its_own_checksums_too(tmp_path):
    pytest.importorskip("pyserini", exc_type=ImportError)
    from raggym_env.retrieval.lucene.retriever import LuceneRetriever

    LuceneRetriever(CORPUS, store=tmp_path)
    [folder] = index_folders(tmp_path)
    assert verify_index(folder).startswith("lucene index of 50 passages")
    file = next(folder.glob("*.cfs"), None) or next(folder.glob("*.fdt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    sign(folder)
    with pytest.raises(RetrievalError, match="damaged"):
        verify_index(folder)
