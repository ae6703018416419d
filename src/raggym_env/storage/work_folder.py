"""Resumable output folders. One JSON file records configuration, provenance and status."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raggym_env.errors import RunError
from raggym_env.storage.atomic import write_atomic
from raggym_env.storage.parsing import ParseError, open_file, parse_json, read_file

__all__ = ["FolderKind", "differences", "installed_version", "is_locked", "locked"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FolderKind:
    """A kind of resumable folder: its JSON file, and the words of its error messages."""

    file: str
    """Name of the JSON file, e.g. "run.json"."""
    contents: str
    """The word for what such a folder holds, e.g. "run"."""
    command: str
    """The command that creates such a folder, e.g. "raggym eval"."""
    packages: tuple[str, ...]
    """Distributions whose versions are recorded."""
    format: int = 1
    """Version of the file's format. A file of another version is refused."""

    def read(self, path: Path) -> Json:
        """Return the content of the folder's JSON file. The folder may come from somebody else: no link is followed.

        Raises:
            RunError: The file is missing, a link, not JSON, or of another format.
        """
        file = path / self.file
        try:
            record = parse_json(read_file(file, follow_links=False))
        except FileNotFoundError as error:
            raise RunError(
                f"{path} is not a {self.contents} folder: it has no {self.file}. `{self.command}` makes one."
            ) from error
        except (OSError, ParseError) as error:
            raise RunError(f"{file} cannot be read: {error}.") from error
        if not isinstance(record, dict) or record.get("format") != self.format:
            raise RunError(f"{file} is not of format {self.format}, which this version reads.")
        return record

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write the JSON file, whole or not at all, together with the command, machine and package versions."""
        record = {
            "format": self.format,
            **content,
            "command": sys.argv,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: installed_version(name) for name in self.packages},
        }
        # ensure_ascii: a lone surrogate in an option could not be encoded as UTF-8.
        write_atomic(path / self.file, json.dumps(record, indent=2, ensure_ascii=True) + "\n")

    def exists(self, path: Path) -> bool:
        """True if the folder already holds this kind of work. Creates the folder if it is missing.

        Raises:
            RunError: The folder holds something else.
        """
        if (path / self.file).exists():
            return True
        self.check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        return False

    def check_free(self, path: Path) -> None:
        """Raise `RunError` if the path holds something that is not this kind of work. Creates nothing."""
        if (path / self.file).exists() or not path.exists():
            return
        leftovers = {".lock", f"{self.file}.partial"}  # left by a process that was killed before its first write
        if not path.is_dir() or {entry.name for entry in path.iterdir()} - leftovers:
            raise RunError(f"{path} exists and is not a {self.contents} folder. Choose another --out.")

    def require_same(self, path: Path, recorded: Json, requested: Json) -> None:
        """Raise `RunError`, which says what differs, unless the recorded configuration is the requested one."""
        if changes := differences(recorded, requested):
            raise RunError(
                f"{path} holds another {self.contents}: {'; '.join(changes)}. Choose another --out, or delete it."
            )


def differences(recorded: Json, requested: Json, prefix: str = "") -> list[str]:
    """List what differs between two records, by dotted key: "k is 3 there and 5 here"."""
    changes = []
    for key in sorted(recorded.keys() | requested.keys()):
        old, new = recorded.get(key), requested.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            changes.append(f"{prefix}{key} is {old!r} there and {new!r} here")
    return changes


def locked(path: Path) -> Any:
    """Return a context in which no other process writes to the folder.

    Raises:
        RunError: Another process holds the lock, or the lock's file is a link.
    """
    from filelock import FileLock, Timeout

    if (path / ".lock").is_symlink():
        raise RunError(f"{path / '.lock'} is a symbolic link, which is not followed. Delete it, if nothing needs it.")
    # The operating system releases it when a process dies, so no stale lock can block a resume. `is_locked` holds it
    # for a moment, which must not keep a run from starting.
    lock = FileLock(path / ".lock", timeout=0.2)
    try:
        return lock.acquire()
    except Timeout as error:
        raise RunError(f"Another process is writing to {path}. Wait for it, or choose another --out.") from error


def is_locked(path: Path) -> bool:
    """True if a process writes to the folder, or where that cannot be told. Writes nothing and follows no link."""
    try:
        import fcntl
    except ImportError:  # Windows, where a lock cannot be looked at without a right to write
        return (path / ".lock").exists()
    try:
        with open_file(path / ".lock", follow_links=False) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closing the file releases it
    except (FileNotFoundError, ParseError):
        return False
    except OSError:  # the lock is held, or the file may not be read
        return True
    return False


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # takes as long to import as all else here

    try:
        return version(name)
    except PackageNotFoundError:
        return None
