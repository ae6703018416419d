"""Folders of work that can be gone on with: one JSON file says what is being done, with what, and how far it is."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raggym_env.errors import RunError

__all__ = ["FolderKind", "differences", "installed", "locked"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FolderKind:
    """One kind of such folders, and what messages call it."""

    file: str
    """The JSON file, e.g. "run.json"."""
    work: str
    """What the folder holds, e.g. "run"."""
    lacking: str
    """What a folder without the file is said to be, e.g. "is no run folder"."""
    command: str
    """What makes such a folder, e.g. "raggym eval"."""
    packages: tuple[str, ...]
    """Whose versions are written down."""
    format: int = 1

    def read(self, path: Path) -> Json:
        """The content of the file.

        Raises:
            RunError: It is not there, not JSON, or of another format.
        """
        file = path / self.file
        try:
            record = json.loads(file.read_bytes())
        except FileNotFoundError as error:
            raise RunError(f"{path} {self.lacking}: it has no {self.file}. `{self.command}` makes one.") from error
        except ValueError as error:
            raise RunError(f"{file} is not JSON ({error}).") from error
        if not isinstance(record, dict) or record.get("format") != self.format:
            raise RunError(f"{file} is not of format {self.format}, which this version reads.")
        return record

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write the file, whole or not at all, with what it was written by."""
        record = {
            "format": self.format,
            **content,
            "command": sys.argv,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: installed(name) for name in self.packages},
        }
        temporary = path / f"{self.file}.tmp"
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
        temporary.replace(path / self.file)

    def begun(self, path: Path) -> bool:
        """Whether the work was begun in a folder. One that is not there is made.

        Raises:
            RunError: The folder holds something else.
        """
        if (path / self.file).exists():
            return True
        ours = {".lock", f"{self.file}.tmp"}  # what work that was killed at its very start leaves
        if path.exists() and (not path.is_dir() or {each.name for each in path.iterdir()} - ours):
            raise RunError(f"{path} exists and {self.lacking}. Choose another --out.")
        path.mkdir(parents=True, exist_ok=True)
        return False

    def require_same(self, path: Path, there: Json, here: Json) -> None:
        """Refuse to go on with something else.

        Raises:
            RunError: Says what differs.
        """
        if different := differences(there, here):
            raise RunError(
                f"{path} holds another {self.work}: {'; '.join(different)}. Choose another --out, or delete it."
            )


def differences(old: Json, new: Json, prefix: str = "") -> list[str]:
    """What differs between two records, by dotted key: "k is 3 there and 5 here"."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} is {before!r} there and {after!r} here")
    return found


def locked(path: Path) -> Any:
    """A context in which no other process writes to a folder.

    Raises:
        RunError: One does already.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path / ".lock", timeout=0)
    try:
        return lock.acquire()
    except Timeout as error:
        raise RunError(f"Another process is writing to {path}. Wait for it, or choose another --out.") from error


def installed(name: str) -> str | None:
    """The version of an installed package; None if it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
