from __future__ import annotations

import os
import shutil

import pytest

from raggym_env.storage.atomic import atomic_file, build_once, write_atomic


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "half\ud800")
    assert path.read_text() == "old"
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append((tmp_path / "file").exists()))
    write_atomic(tmp_path / "file", "text")
    assert calls == [False, True]  # the file before it is renamed, the folder after


@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_a_link_that_somebody_left_beside_the_file_is_not_followed(tmp_path, target):
    (tmp_path / "victim").write_text("keep")
    (tmp_path / "run.json.partial").symlink_to(tmp_path / target)
    write_atomic(tmp_path / "run.json", "text")
    assert (tmp_path / "victim").read_text() == "keep"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "victim"]
    assert not (tmp_path / "run.json").is_symlink()


def test_a_link_in_place_of_the_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_text("keep")
    (tmp_path / "run.json").symlink_to(tmp_path / "victim")
    with atomic_file(tmp_path / "run.json") as file:
        file.write(b"text")
    assert (tmp_path / "victim").read_text() == "keep"
    assert (tmp_path / "run.json").read_text() == "text"


def test_what_is_outdated_is_built_again_once(tmp_path):
    folder, calls = tmp_path / "folder", []

    def build(path):
        calls.append(path)
        path.mkdir()
        (path / "version").write_text(str(len(calls)))

    def outdated(path):
        return (path / "version").read_text() == "1"

    for _ in range(3):
        build_once(folder, build, outdated=outdated)
    assert (folder / "version").read_text() == "2"
    assert len(calls) == 2
    shutil.rmtree(folder)
    assert build_once(folder, build, outdated=outdated).is_dir()
