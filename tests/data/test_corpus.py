from __future__ import annotations

import contextlib
import copy
import json
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile_files import sign
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
        ({"rows": 0}, "does not fit its manifest.json"),
        ({"rows": -10}, "does not fit its manifest.json"),
        ({"rows": 2**62}, "does not fit its manifest.json"),
        ({"rows": True}, "is not a corpus manifest"),
        ({"rows": "10"}, "is not a corpus manifest"),
        ({"files": {}}, "has no checksum"),
        ({"files": {"passages.arrow": 7}}, "its list of files is not one"),
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
    with pytest.raises(DataError, match=r"passages\.arrow has 100 bytes, not .* Delete it"):
        Corpus(folder)
    sign(folder)
    with pytest.raises(DataError, match=r"cannot be opened .* Delete its folder"):
        Corpus(folder)


def test_a_changed_byte_is_noticed_when_a_corpus_is_opened(tmp_path):
    file = stored(tmp_path / "c") / "passages.arrow"
    file.write_bytes(file.read_bytes().replace(b"Title 3", b"Title 4"))
    with pytest.raises(DataError, match=r"the content of passages\.arrow is not what was written\. Delete it"):
        Corpus(file.parent)


def replaced(path: Path, make) -> None:
    path.unlink()
    make(path)


@pytest.mark.parametrize("name", ["passages.arrow", "manifest.json"])
@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)]
)
def test_another_thing_in_place_of_a_file_is_one_clear_error(tmp_path, name, make):
    folder = stored(tmp_path / "c")
    replaced(folder / name, make)
    with pytest.raises(DataError, match=r"Delete"):
        Corpus(folder)


# What a stranger may store: whatever Arrow can write, behind a manifest that fits it.
def write(folder: Path, batches: list, *, compression: str | None = None, rows: int = 10) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    path = str(folder / "passages.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "rows": rows}))
    sign(folder)
    return folder


SCHEMA = pa.schema([pa.field(name, pa.large_string(), nullable=False) for name in ("id", "title", "text")])


def batch(rows: int = 4, offsets: list[int] | None = None, text: bytes = b"abcdefghij", valid: bytes | None = None):
    offsets = list(range(rows + 1)) if offsets is None else offsets
    buffers = [pa.py_buffer(valid) if valid else None, pa.py_buffer(np.array(offsets, "<i8")), pa.py_buffer(text)]
    columns = [pa.array([str(row) for row in range(rows)], pa.large_string())] * 2
    columns.append(pa.Array.from_buffers(pa.large_string(), rows, buffers))
    return pa.record_batch(columns, schema=SCHEMA)


def read(folder: Path) -> list[Passage]:
    corpus = Corpus(folder)
    each = [corpus[row] for row in range(len(corpus))]
    assert list(corpus) == each
    return each


def test_the_batches_that_the_next_tests_change_are_good(tmp_path):
    assert len(read(write(stored(tmp_path / "c"), [batch(), batch(), batch(2)]))) == 10


BAD = {
    "beyond": {"offsets": [0, 1, 2, 3, 2**40]},
    "before": {"offsets": [-(2**40), 1, 2, 3, 4]},
    "backwards": {"offsets": [0, 9, 2, 3, 4]},
    "far and back": {"offsets": [0, 2**62, 2, 3, 4]},
    "missing value": {"valid": b"\x07"},
    "not UTF-8": {"text": b"\xff\xfe\xff\xff" * 2},
    "cut UTF-8": {"text": "ä".encode() * 5},
    "more rows": {"rows": 5},
    "fewer rows": {"rows": 3},
}
MARK = [0, 1, 3, 4, 7]


@pytest.mark.parametrize("bad", BAD)
def test_a_batch_that_is_not_as_arrow_requires_is_one_clear_error(tmp_path, bad):
    changes = dict(BAD[bad])
    offsets = changes.pop("offsets", MARK)
    bad_batch = batch(offsets=None if "rows" in changes else MARK, **changes)
    folder = write(stored(tmp_path / "c"), [batch(), bad_batch, batch(2)])
    # Written afterwards, since Arrow does not make such an array.
    content = (folder / "passages.arrow").read_bytes().replace(np.array(MARK).tobytes(), np.array(offsets).tobytes())
    (folder / "passages.arrow").write_bytes(content)
    sign(folder)
    corpus = Corpus(folder)
    assert corpus[0].text == "a"
    for use in (lambda: [corpus[row] for row in range(4, 8)], lambda: list(corpus), corpus.check):
        with pytest.raises(DataError, match="is damaged: passages 4 to 7: "):
            use()


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_batch_is_refused_before_it_is_unpacked(tmp_path, compression):
    bomb = batch(4, [0, 1, 2, 3, 1 << 26], bytes(1 << 26))
    folder = write(stored(tmp_path / "c"), [bomb], compression=compression, rows=4)
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match="batch 0 is compressed"):
        Corpus(folder)[0]
    assert pa.total_allocated_bytes() == before


@pytest.mark.parametrize(
    "schema",
    [
        pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string())]),
        pa.schema([(name, pa.dictionary(pa.int32(), pa.large_string())) for name in ("id", "title", "text")]),
        pa.schema([("id", pa.large_string())]),
        pa.schema([pa.field(name, pa.large_binary(), nullable=False) for name in ("id", "title", "text")]),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path, schema):
    columns = [pa.array(["a", "b"]).cast(field.type) for field in schema]
    folder = write(stored(tmp_path / "c"), [pa.record_batch(columns, schema=schema)], rows=2)
    with pytest.raises(DataError, match="does not fit its manifest"):
        Corpus(folder)


@settings(max_examples=40)
@given(changes=st.lists(st.tuples(st.integers(0, 2500), st.binary(min_size=1, max_size=9)), min_size=1, max_size=3))
def test_changed_bytes_give_passages_or_one_clear_error(tmp_path_factory, changes):
    folder = stored(tmp_path_factory.mktemp("corpora") / "c")
    content = bytearray((folder / "passages.arrow").read_bytes())
    for start, data in changes:
        content[start : start + len(data)] = data[: max(0, len(content) - start)]
    (folder / "passages.arrow").write_bytes(content)
    sign(folder)
    with contextlib.suppress(DataError):
        assert all(isinstance(part, str) for passage in read(folder) for part in passage)


def test_a_check_reads_everything(tmp_path):
    parts: list[int] = []
    Corpus(stored(tmp_path / "c")).check(parts.append)
    assert sum(parts) == (tmp_path / "c" / "passages.arrow").stat().st_size
    twice = write(tmp_path / "c", [batch(), batch(), batch(2)])
    with pytest.raises(MalformedData, match="id '0' occurred before"):
        Corpus(twice).check()
    other = stored(tmp_path / "d", [Passage(str(number), "t", "t") for number in range(10)])
    (other / "manifest.json").write_text((tmp_path / "c" / "manifest.json").read_text())
    sign(other)
    with pytest.raises(DataError, match="its passages have the fingerprint"):
        Corpus(other).check()
