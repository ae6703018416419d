from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raggym_env.core import Passage
from raggym_env.errors import DataNotFound, IndexMismatch, OptionError, RetrievalError
from raggym_env.retrieval.index_store import corpus_key, key_hash, open_index, open_or_build, store_folder

KEY = {"corpus": {"passages": 2, "fingerprint": "abc"}, "k1": 0.9, "tags": ("a", "b")}


def write(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "data.bin").write_bytes(b"12345")


def test_an_index_is_built_once(tmp_path):
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        write(folder)

    first = open_or_build("kind", KEY, build, store=tmp_path)
    second = open_or_build("kind", dict(reversed(KEY.items())), build, store=tmp_path)

    assert first == second == tmp_path / f"kind-{key_hash(KEY)}"
    assert len(calls) == 1
    assert (first / "deep" / "data.bin").read_bytes() == b"12345"


def test_the_manifest_records_what_the_index_was_built_from(tmp_path):
    folder = open_or_build("kind", KEY, write, store=tmp_path, libraries=["numpy", "no-such-distribution"])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["kind"] == "kind"
    assert manifest["key"] == {**KEY, "tags": ["a", "b"]}
    digest = hashlib.blake2b(b"12345", digest_size=16).hexdigest()
    assert manifest["files"] == {"deep/data.bin": {"bytes": 5, "blake2b": digest}}
    assert {"raggym-env", "python", "numpy"} <= set(manifest["built_with"])


def test_the_manifest_records_the_build_time_and_opening_changes_nothing(tmp_path):
    def slow(folder: Path) -> None:
        write(folder)
        time.sleep(0.05)

    folder = open_or_build("kind", KEY, slow, store=tmp_path)
    seconds = json.loads((folder / "manifest.json").read_text())["seconds"]
    assert 0.05 <= seconds < 5
    open_or_build("kind", KEY, slow, store=tmp_path)
    assert json.loads((folder / "manifest.json").read_text())["seconds"] == seconds


def test_a_store_is_the_cache_a_folder_or_none(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    assert store_folder(True) == tmp_path / "indexes"
    assert store_folder(str(tmp_path)) == store_folder(tmp_path) == tmp_path
    assert store_folder("~/indexes") == Path("/home/somebody/indexes")
    assert store_folder(False) is None


@pytest.mark.parametrize("store", [None, "", 1])
def test_a_store_of_another_type_is_refused(store):
    with pytest.raises(OptionError, match=r"store must be True .*, False .* or the path of a folder, got "):
        store_folder(store)


def test_a_failed_build_leaves_nothing_and_can_be_repeated(tmp_path):
    def fail(folder: Path) -> None:
        write(folder)
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        open_or_build("kind", KEY, fail, store=tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert open_or_build("kind", KEY, write, store=tmp_path).is_dir()


BUILDER = """
import os, sys, time
from pathlib import Path
from raggym_env.retrieval.index_store import open_or_build
store, mode = Path(sys.argv[1]), sys.argv[2]

def build(folder):
    (folder / "half").write_text("half")
    with (store / "builds").open("a") as log:
        log.write("x")
    if mode == "die":
        os._exit(9)
    (store / "building").touch()
    time.sleep(0.5)
    (folder / "half").rename(folder / "whole")

folder = open_or_build("kind", {"k1": 1}, build, store=store)
assert (folder / "whole").read_text() == "half"
"""


def start(store: Path, mode: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", BUILDER, str(store), mode])


@pytest.mark.slow
def test_of_processes_that_need_one_index_one_builds_and_the_others_wait(tmp_path):
    processes = [start(tmp_path, "build") for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert (tmp_path / "builds").read_text() == "x"


@pytest.mark.slow
def test_a_killed_build_leaves_no_index(tmp_path):
    assert start(tmp_path, "die").wait(120) == 9
    assert start(tmp_path, "build").wait(120) == 0
    assert (tmp_path / "builds").read_text() == "xx"
    assert sorted(path.suffix for path in tmp_path.glob("kind-*")) == ["", ".lock"]


def test_another_index_in_its_place_is_refused_with_the_differences(tmp_path):
    other = {**KEY, "k1": 1.5, "corpus": {"passages": 2, "fingerprint": "xyz"}}
    folder = open_or_build("kind", KEY, write, store=tmp_path)
    folder.rename(tmp_path / f"kind-{key_hash(other)}")

    with pytest.raises(IndexMismatch) as refused:
        open_or_build("kind", other, write, store=tmp_path)

    assert "key.k1 is 0.9 there and 1.5 here" in str(refused.value)
    assert "key.corpus.fingerprint is 'abc' there and 'xyz' here" in str(refused.value)
    assert "passages" not in str(refused.value)


def test_an_index_of_another_format_or_kind_is_refused(tmp_path):
    folder = open_or_build("kind", KEY, write, store=tmp_path)
    with pytest.raises(IndexMismatch, match="kind is 'kind' there and 'dense' here"):
        open_index(folder, "dense", KEY)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 0}))
    with pytest.raises(IndexMismatch, match="format is 0 there and 2 here"):
        open_index(folder, "kind", KEY)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), r"no readable manifest\.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"no readable manifest\.json"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "lists no files"),
        (lambda folder: (folder / "deep" / "data.bin").unlink(), "deep/data.bin is missing"),
        (lambda folder: (folder / "deep" / "data.bin").write_bytes(b"1"), "has 1 bytes, not 5"),
        (lambda folder: (folder / "deep" / "data.bin").write_bytes(b"54321"), "content of deep/data.bin is not what"),
        (lambda folder: replace(folder / "deep" / "data.bin", os.mkfifo), "deep/data.bin is not a regular file"),
        (lambda folder: replace(folder / "deep" / "data.bin", os.mkdir), "deep/data.bin is not a regular file"),
        (lambda folder: replace(folder / "deep" / "data.bin", lambda path: path.symlink_to("/dev/zero")), "regular"),
        (lambda folder: replace(folder / "deep" / "data.bin", lambda path: path.symlink_to(path)), "cannot be read"),
        (lambda folder: replace(folder / "manifest.json", os.mkfifo), "not a regular file"),
        (lambda folder: (folder / "segments_9").touch(), r"segments_9 is not in manifest\.json"),
        (lambda folder: edit(folder, files={"deep/data.bin": 5}), "its list of files is not one"),
        (lambda folder: edit(folder, files={"../x": {"bytes": 5, "blake2b": ""}}), "its list of files is not one"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "nested more than"),
    ],
)
def test_a_damaged_index_is_refused_with_its_folder_and_the_cure(tmp_path, damage, message):
    folder = open_or_build("kind", KEY, write, store=tmp_path)
    damage(folder)
    with pytest.raises(RetrievalError, match=message) as refused:
        open_or_build("kind", KEY, write, store=tmp_path)
    assert str(folder) in str(refused.value)
    assert "Delete this folder" in str(refused.value)


def replace(path: Path, make) -> None:
    path.unlink()
    make(path)


def edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_an_index_of_an_earlier_format_is_built_again_and_nothing_else_is(tmp_path):
    folder = open_or_build("kind", KEY, write, store=tmp_path)
    (folder / "deep" / "data.bin").write_bytes(b"old")
    edit(folder, format=1, files={"deep/data.bin": 3})
    assert open_or_build("kind", KEY, write, store=tmp_path) == folder
    assert (folder / "deep" / "data.bin").read_bytes() == b"12345"
    for changes in ({"format": 99}, {"format": 1, "kind": "other"}, {"format": 1, "key": {}}, {"format": True}):
        edit(folder, **changes)
        with pytest.raises(IndexMismatch):
            open_or_build("kind", KEY, write, store=tmp_path)
        edit(folder, format=2, kind="kind", key=json.loads(json.dumps(KEY)))


def test_what_systems_leave_behind_does_not_damage_an_index(tmp_path):
    folder = open_or_build("kind", KEY, write, store=tmp_path)
    (folder / ".DS_Store").touch()
    assert open_or_build("kind", KEY, write, store=tmp_path) == folder


def test_a_store_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RetrievalError, match="Could not write the index"):
        open_or_build("kind", KEY, write, store=tmp_path / "file")


def test_an_error_of_the_build_itself_is_passed_on(tmp_path):
    def fail(folder: Path) -> None:
        raise DataNotFound("no corpus")

    with pytest.raises(DataNotFound, match="no corpus"):
        open_or_build("kind", KEY, fail, store=tmp_path)


def test_the_fingerprint_of_a_list_changes_with_texts_order_and_boundaries():
    corpora = [
        [Passage("1", "ab", "c"), Passage("2", "", "")],
        [Passage("2", "", ""), Passage("1", "ab", "c")],
        [Passage("1", "a", "bc"), Passage("2", "", "")],
        [Passage("1", "ab", "c")],
    ]
    assert len({corpus_key(corpus)["fingerprint"] for corpus in corpora}) == len(corpora)
    assert corpus_key(corpora[0]) == corpus_key(list(corpora[0]))


def test_a_corpus_with_a_fingerprint_is_not_read():
    class Mapped(list[Passage]):
        fingerprint = "stored"

        def __iter__(self):
            pytest.fail("read")

    assert corpus_key(Mapped([Passage("1", "", "")])) == {"passages": 1, "fingerprint": "stored"}
