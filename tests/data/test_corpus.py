from __future__ import annotations

import copy
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from raggym_env.core import Passage
from raggym_env.data import corpus as module
from raggym_env.data.corpus import Corpus, write_corpus
from raggym_env.errors import DataError, DataNotFound, MalformedData

PASSAGES = [Passage(f"p{number}", f"Title {number}", "ä" * number) for number in range(10)]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 4)


def stored(folder: Path, passages: list[Passage] = PASSAGES) -> Path:
    folder.mkdir(parents=True)
    write_corpus(passages, folder, origin="test")
    return folder


def test_passages_are_read_by_index_slice_and_iteration(tmp_path):
    corpus = Corpus(stored(tmp_path / "c"))
    assert len(corpus) == 10
    assert [corpus[row] for row in range(10)] == list(corpus) == corpus[:] == PASSAGES
    assert corpus[-1] == corpus[np.int64(9)] == PASSAGES[9]
    assert corpus[8:2:-3] == [PASSAGES[8], PASSAGES[5]]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_any_number_of_passages_can_be_stored(tmp_path, count):
    assert list(Corpus(stored(tmp_path / "c", PASSAGES[:count]))) == PASSAGES[:count]


@pytest.mark.parametrize("index", [10, -11])
def test_an_index_beyond_the_corpus_is_an_index_error(tmp_path, index):
    with pytest.raises(IndexError, match=f"passage {index} of a corpus of 10"):
        Corpus(stored(tmp_path / "c"))[index]


def test_the_fingerprint_depends_on_content_and_order_and_not_on_batches(tmp_path, monkeypatch):
    first = Corpus(stored(tmp_path / "a")).fingerprint
    assert Corpus(stored(tmp_path / "b", PASSAGES[::-1])).fingerprint != first
    shifted = [Passage("p0T", "itle 0", ""), *PASSAGES[1:]]
    assert Corpus(stored(tmp_path / "c", shifted)).fingerprint != first
    monkeypatch.setattr(module, "BATCH_ROWS", 3)
    assert Corpus(stored(tmp_path / "d")).fingerprint == first


def test_opening_reads_no_passage(tmp_path, monkeypatch):
    folder = stored(tmp_path / "c")
    monkeypatch.setattr(Corpus, "_columns", lambda *_: pytest.fail("read a batch"))
    assert len(Corpus(folder)) == 10


def test_ids_that_occur_twice_are_refused(tmp_path):
    with pytest.raises(MalformedData, match="passage 11: id 'p3' occurred before"):
        stored(tmp_path / "c", [*PASSAGES, PASSAGES[3]])


def test_two_ids_with_one_hash_are_two_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "hash", len, raising=False)
    assert len(Corpus(stored(tmp_path / "c"))) == 10


def test_a_corpus_without_passages_is_refused(tmp_path):
    with pytest.raises(MalformedData, match="there is no passage"):
        stored(tmp_path / "c", [])


def test_a_copy_opens_the_same_folder(tmp_path):
    corpus = Corpus(stored(tmp_path / "c"))
    twin = copy.copy(corpus)
    assert (twin.path, twin.fingerprint, twin[3]) == (corpus.path, corpus.fingerprint, PASSAGES[3])


def test_reading_a_closed_corpus_is_an_error_and_its_passages_stay_valid(tmp_path):
    with Corpus(stored(tmp_path / "c")) as corpus:
        passage = corpus[2]
    assert passage == PASSAGES[2]
    with pytest.raises(DataError, match="was closed"):
        corpus[2]


def test_threads_read_the_same_passages(tmp_path):
    corpus = Corpus(stored(tmp_path / "c", [Passage(str(n), "t", str(n)) for n in range(2000)]))
    wrong: list[int] = []

    def read(start: int) -> None:
        wrong.extend(row for row in range(start, 2000, 4) if corpus[row].text != str(row))

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_folder_without_a_corpus_is_not_found(tmp_path):
    with pytest.raises(DataNotFound, match="No prepared corpus at"):
        Corpus(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "has corpus format 0"),
        ({"rows": 99}, "does not fit its manifest.json"),
        ({"rows": "10"}, "is not a corpus manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, change, message):
    manifest = stored(tmp_path / "c") / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        Corpus(manifest.parent)


def test_a_damaged_passages_file_is_refused(tmp_path):
    folder = stored(tmp_path / "c")
    (folder / "passages.arrow").write_bytes((folder / "passages.arrow").read_bytes()[:100])
    with pytest.raises(DataError, match=r"cannot be opened .* Delete its folder"):
        Corpus(folder)
