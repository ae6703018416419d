"""The JSON file and the lock of a folder that may come from somebody else."""

import os

import pytest

from raggym_env.errors import RunError
from raggym_env.storage.work_folder import FolderKind, locked

KIND = FolderKind("run.json", "run", "raggym eval", ("numpy",))


def link(path):
    path.with_name("elsewhere").write_text('{"format": 1}')
    path.symlink_to(path.with_name("elsewhere"))


def sparse(path):
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    "make",
    [
        link,
        os.mkfifo,
        os.mkdir,
        sparse,
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text('{"format": 1, "x": 1' + "0" * 400 + "}"),
        lambda path: path.write_text('{"format": NaN}'),
        lambda path: path.write_bytes(b'{"format": "\xff"}'),
        lambda path: path.write_text('{"format": {"format": 1}}'),
        lambda path: path.write_text("[1]"),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path),
    ],
    ids=[
        "link",
        "pipe",
        "folder",
        "terabyte",
        "deep",
        "huge number",
        "nan",
        "bytes",
        "other format",
        "list",
        "device",
        "loop",
    ],
)
def test_a_hostile_file_is_one_error_that_names_it(tmp_path, make):
    make(tmp_path / "run.json")
    with pytest.raises(RunError, match=r"run\.json"):
        KIND.read(tmp_path)


def test_a_lock_that_is_a_link_is_refused_and_its_target_untouched(tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / ".lock").symlink_to(target)
    with pytest.raises(RunError, match="symbolic link"):
        locked(tmp_path)
    assert target.read_text() == "precious"
