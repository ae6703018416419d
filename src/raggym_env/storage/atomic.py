"""Files and folders that are whole or not there: written beside, then renamed; built once, under a lock."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from raggym_env.errors import RunError

__all__ = ["atomic_file", "atomic_folder", "build_once", "new_folder", "sync_folder", "write_atomic"]


@contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file beside `path` that replaces `path` when the context ends, and is removed if it fails.

    Args:
        path: A file that may exist. Its folder must exist.
        mode: "wb", or "w" for UTF-8 text.
    """
    partial = path.with_name(f"{path.name}.partial")
    # What a killed process left; or a link, perhaps of somebody else, whose target must not be overwritten.
    partial.unlink(missing_ok=True)
    try:
        with partial.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            # Before the new name: after a power cut it could otherwise be the name of an empty file.
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Write the names in a folder to disk, where the system can, so that a power cut loses no new file."""
    with suppress(OSError):  # Windows opens no folders, and some network drives cannot do it
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Write a file of UTF-8 text, whole or not at all."""
    with atomic_file(path, "w") as file:
        file.write(text)


def new_folder(path: str | Path) -> Path:
    """Return the path of a folder that an export is about to create. Call it before the work.

    Raises:
        RunError: It exists.
    """
    if Path(path).exists():
        raise RunError(f"{path} exists. Choose another folder to export to, or delete that one.")
    return Path(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside `path` that becomes `path` when the context ends, and is removed if it fails.

    What a killed process left beside is removed first, so call it where no other process is writing the same.
    """
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def build_once(
    path: Path, build: Callable[[Path], object], *, outdated: Callable[[Path], bool] = lambda path: False
) -> Path:
    """Call `build(path)` unless `path` exists. Of several processes at once, one builds and the others wait.

    Args:
        path: A file or a folder.
        build: Must create `path` whole or not at all, as with `atomic_file` or `atomic_folder`.
        outdated: Called with an existing folder; if it returns True, the folder is deleted and built again.
    """
    if not path.exists() or outdated(path):
        from filelock import FileLock  # imported here, so that reading what exists loads nothing

        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            # Asked again: another process may have built it while this one waited.
            if path.exists() and outdated(path):
                shutil.rmtree(path)
            if not path.exists():
                build(path)
    return path
