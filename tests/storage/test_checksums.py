from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from raggym_env.storage import checksums as module
from raggym_env.storage.checksums import checksums, file_problems


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_TICK", 0)
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "a.bin").write_bytes(b"aaaa")
    (tmp_path / "folder" / "deep" / "b.bin").write_bytes(b"bbbb")
    time.sleep(0.01)  # the clock of a file system ticks every few milliseconds
    return tmp_path / "folder"


NAMES = ["a.bin", "deep/b.bin"]


def read(folder: Path, files, **options) -> list[int]:
    """The sizes of the parts that are read to verify the files."""
    parts: list[int] = []
    assert file_problems(folder, files, progress=parts.append, **options) == []
    return parts


def test_files_are_read_again_only_if_they_may_have_changed(folder):
    files = checksums(folder, NAMES)
    assert read(folder, files) == []
    assert read(folder, files, full=True) == [4, 4]
    os.utime(folder / "a.bin")
    time.sleep(0.01)
    assert read(folder, files) == [4]
    assert read(folder, files) == []
    folder.rename(folder.with_name("renamed"))
    assert read(folder.with_name("renamed"), files) == []


def test_files_verified_by_nobody_on_this_machine_are_read_once(folder, monkeypatch):
    files = checksums(folder, NAMES)
    monkeypatch.setenv("RAGGYM_CACHE", str(folder.parent / "another"))
    assert read(folder, files) == [4, 4]
    assert read(folder, files) == []


def replaced_by_another_file(path: Path) -> None:
    path.with_name("new").write_bytes(b"cccc")
    path.with_name("new").replace(path)


def overwritten(path: Path) -> None:
    path.write_bytes(b"cccc")


@pytest.mark.parametrize("change", [replaced_by_another_file, overwritten])
def test_other_content_of_equal_size_and_time_is_noticed(folder, change):
    files = checksums(folder, NAMES)
    assert read(folder, files) == []
    before = (folder / "a.bin").stat()
    change(folder / "a.bin")
    os.utime(folder / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (folder / "a.bin").stat().st_mtime_ns == before.st_mtime_ns
    for _ in range(2):  # a file that is not as it should be never counts as verified
        assert file_problems(folder, files) == ["the content of a.bin is not what was written"]


def test_a_file_that_changed_a_moment_ago_is_read_again(folder, monkeypatch):
    monkeypatch.setattr(module, "_TICK", 10**12)
    files = checksums(folder, NAMES)
    assert read(folder, files) == read(folder, files) == [4, 4]


@pytest.mark.parametrize("record", [b"", b"[]", b"{", b"[" * 10**5, b'{"a.bin": 1}', b"\xff"])
def test_a_damaged_record_only_costs_time(folder, record):
    files = checksums(folder, NAMES)
    [path] = (folder.parent / "cache" / "verified").iterdir()
    path.write_bytes(record)
    assert read(folder, files) == [4, 4]


def test_a_cache_that_cannot_be_written_only_costs_time(folder, monkeypatch):
    (folder.parent / "file").touch()
    monkeypatch.setenv("RAGGYM_CACHE", str(folder.parent / "file"))
    files = checksums(folder, NAMES)
    assert read(folder, files) == read(folder, files) == [4, 4]


GOOD = {"bytes": 4, "blake2b": "0" * 32}


@pytest.mark.parametrize(
    "files",
    [None, [], 7, "a.bin", {"a.bin": 4}, {"a.bin": {}}, {"a.bin": {**GOOD, "bytes": "4"}}, {"../a": GOOD},
     {"/etc/passwd": GOOD}, {"deep/../../a": GOOD}, {"a\0": GOOD}, {"a\\b": GOOD}, {"a.bin": {**GOOD, "bytes": True}},
     {"a.bin": {"bytes": 4, "blake2b": None}}],
)  # fmt: skip
def test_checksums_of_another_form_are_a_problem(folder, files):
    assert file_problems(folder, files) == ["its list of files is not one"]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "a.bin is missing"),
        (os.mkdir, "a.bin is not a regular file"),
        (os.mkfifo, "a.bin is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "a.bin is not a regular file"),
        (lambda path: path.symlink_to(path), "a.bin cannot be read"),
        (lambda path: path.write_bytes(b"12345"), "a.bin has 5 bytes, not 4"),
    ],
)
def test_another_thing_in_place_of_a_file_is_a_problem(folder, make, problem):
    files = checksums(folder, NAMES)
    (folder / "a.bin").unlink()
    make(folder / "a.bin")
    [found] = file_problems(folder, files)
    assert found.startswith(problem)


def test_records_are_in_the_cache_and_not_beside_the_files(folder):
    before = sorted(folder.rglob("*"))
    checksums(folder, NAMES)
    assert sorted(folder.rglob("*")) == before
    [record] = (folder.parent / "cache" / "verified").iterdir()
    assert json.loads(record.read_text()).keys() == set(NAMES)
