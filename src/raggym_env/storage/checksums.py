"""Checksums of large files, computed again only when a file may have changed since they last agreed.

They find corruption: a damaged disk, an interrupted copy, a file replaced by another of its size. They do not protect
against whoever writes a folder, who can write its checksums too; what is read from it must be checked by itself.

Size, modification time, change time and inode of a file at the moment when its checksum agreed are recorded in the
user's own cache, `<cache>/verified/`, and not beside the file, in a folder that may be somebody else's. Records are
found by the inodes, so that a folder can be renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from raggym_env.storage.atomic import write_atomic
from raggym_env.storage.parsing import ParseError, open_file, parse_json, read_file
from raggym_env.storage.paths import cache_dir

__all__ = ["Checksums", "Progress", "checksums", "file_problems"]

Checksums = Mapping[str, Mapping[str, Any]]
"""For each file, by its relative path with slashes: "bytes", its size, and "blake2b", a hash in hexadecimal."""
Progress = Callable[[int], object]
"""Called with the number of bytes that were read since the last call."""

_CHUNK = 1 << 22
_ANNOUNCED = 2 << 30  # bytes; reading them takes seconds
# Clocks of file systems tick every few milliseconds, so a file changed this recently may change again unnoticed.
_TICK = 100_000_000
_log = logging.getLogger(__name__)


def checksums(folder: Path, names: Iterable[str], progress: Progress | None = None) -> dict[str, dict[str, Any]]:
    """Return the checksums of files below a folder. They count as verified from now on.

    Raises:
        OSError: A file cannot be read.
        ParseError: One is not a regular file.
    """
    names = list(names)
    states = {name: _state(folder / name) for name in names}
    files = {name: _checksum(folder / name, progress) for name in names}
    _record(files, states)
    return files


def file_problems(folder: Path, files: Checksums, *, full: bool = False, progress: Progress | None = None) -> list[str]:
    """Return what is wrong with files below a folder, in words; nothing if they are as their checksums say.

    Args:
        folder: The folder.
        files: Checksums from a manifest. Any JSON value will do: one that is not `Checksums` is a problem too.
        full: Read every file, also those that did not change since they were last verified.
        progress: See `Progress`.
    """
    if not isinstance(files, Mapping) or not all(map(_is_checksum, files, files.values())):
        return ["its list of files is not one"]
    sizes = {name: _size_problem(folder / name, name, entry["bytes"]) for name, entry in files.items()}
    if problems := [problem for problem in sizes.values() if problem]:
        return problems
    # Before they are read: a file that changes meanwhile is read again the next time.
    states = {name: _state(folder / name) for name in files}
    verified = {} if full else _verified(states)
    unverified = [name for name in files if verified.get(name) != [files[name]["blake2b"], *states[name]]]
    total = sum(files[name]["bytes"] for name in unverified)
    if total > _ANNOUNCED and not full:
        _log.warning("Reading %.1f GB in %s, which changed since they were last verified", total / 1e9, folder)
    for name in unverified:
        try:
            if _checksum(folder / name, progress) != files[name]:
                problems.append(f"the content of {name} is not what was written")
        except (OSError, ParseError) as error:
            problems.append(f"{name} cannot be read ({error})")
    if unverified and not problems:
        _record(files, states)
    return problems


def _is_checksum(name: object, entry: object) -> bool:
    path = PurePosixPath(str(name))
    return (
        isinstance(entry, Mapping)
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("blake2b"), str)
        and not (path.is_absolute() or ".." in path.parts or "\0" in str(name) or "\\" in str(name))
    )


def _size_problem(path: Path, name: str, size: int) -> str | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error})"
    if not stat.S_ISREG(status.st_mode):
        return f"{name} is not a regular file"
    return f"{name} has {status.st_size:,} bytes, not {size:,}" if status.st_size != size else None


def _checksum(path: Path, progress: Progress | None) -> dict[str, Any]:
    digest, size = hashlib.blake2b(digest_size=16), 0
    with open_file(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            if progress is not None:
                progress(len(chunk))
    return {"bytes": size, "blake2b": digest.hexdigest()}


def _state(path: Path) -> list[int]:
    """Return what changes whenever the content of a file does."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino]


def _record_file(states: Mapping[str, list[int]]) -> Path:
    digest = hashlib.blake2b(
        json.dumps([[name, states[name][-2:]] for name in sorted(states)]).encode(), digest_size=16
    )
    return cache_dir() / "verified" / f"{digest.hexdigest()}.json"


def _verified(states: Mapping[str, list[int]]) -> Mapping[str, Any]:
    try:
        record = parse_json(read_file(_record_file(states)))
    except (OSError, ParseError):  # none yet, or one that is damaged: the files are read again
        return {}
    return record if isinstance(record, dict) else {}


def _record(files: Checksums, states: Mapping[str, list[int]]) -> None:
    oldest = time.time_ns() - _TICK
    settled = {name: [files[name]["blake2b"], *state] for name, state in states.items() if state[2] < oldest}
    path = _record_file(states)
    # A cache that cannot be written costs the time of reading the files again, and nothing else.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(settled) + "\n")
