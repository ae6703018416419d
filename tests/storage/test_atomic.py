"""Files that are whole or not there, wherever the names beside them lead."""

import os
import shutil
from pathlib import Path

import pytest

from raggym_env.errors import RunError
from raggym_env.storage.atomic import atomic_file, build_once, new_folder, write_atomic


def test_a_link_with_the_name_of_the_partial_file_is_replaced_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "run.json.partial").symlink_to(precious)
    write_atomic(tmp_path / "run.json", "new")
    assert (precious.read_text(), (tmp_path / "run.json").read_text()) == ("precious", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "run.json"]


def test_a_link_with_the_name_of_the_file_is_replaced_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "run.json").symlink_to(precious)
    write_atomic(tmp_path / "run.json", "new")
    assert (precious.read_text(), (tmp_path / "run.json").is_symlink()) == ("precious", False)


def test_a_pipe_with_the_name_of_the_partial_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "run.json.partial")
    write_atomic(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "new"


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / "run.json.partial").write_text("half of")
    write_atomic(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "new"


def test_the_content_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def record(descriptor):
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), (tmp_path / "run.json").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_atomic(tmp_path / "run.json", "new")
    assert synced == [(str(tmp_path / "run.json.partial"), False), (str(tmp_path), True)]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    write_atomic(tmp_path / "run.json", "old")
    with pytest.raises(UnicodeEncodeError), atomic_file(tmp_path / "run.json", "w") as file:
        file.write("half of \ud800")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


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


def test_a_folder_or_file_that_exists_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    assert new_folder(str(tmp_path / "new")) == tmp_path / "new"
    for name in (".", "file"):
        with pytest.raises(RunError, match="Choose another folder"):
            new_folder(tmp_path / name)
