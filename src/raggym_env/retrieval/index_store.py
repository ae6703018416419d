"""The index store: every index is built once, kept in its own folder and refused if it is not what was asked for.

    <cache>/indexes/
        bm25-4f1c0d9a8b7e6f50/        one index: its kind and a hash of its key
            manifest.json             format, kind, key, library versions, seconds it took, and the size of every file
            ...                       what the back end wrote
        bm25-4f1c0d9a8b7e6f50.lock    held while that index is built

The key says everything the index depends on: the corpus, the analyser, the parameters. A build writes into a
temporary folder beside, which is renamed once it is whole, so a killed build leaves nothing that counts.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raggym_env.core import Passage
from raggym_env.errors import IndexMismatch, RAGGymError, RetrievalError
from raggym_env.storage.paths import cache_dir

__all__ = ["corpus_key", "default_store", "key_hash", "open_index", "open_or_build"]

_FORMAT = 1
_MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)


def open_or_build(
    kind: str,
    key: Mapping[str, Any],
    build: Callable[[Path], None],
    *,
    store: Path | None = None,
    libraries: Sequence[str] = (),
) -> Path:
    """The folder of an index, built first if there is none. Of several processes at once, one builds.

    Args:
        kind: Name of the back end, e.g. "bm25"; the folder's name starts with it.
        key: All that the index depends on, as JSON values.
        build: Writes the index into the empty folder it is given.
        store: The folder that holds the indexes; None for `default_store()`.
        libraries: Distributions whose versions the manifest records, for people to read.

    Raises:
        IndexMismatch: The folder of that name holds an index with another key or format.
        RetrievalError: The folder is incomplete, or the index could not be written.
    """
    folder = (store or default_store()) / f"{kind}-{key_hash(key)}"
    if not folder.exists():
        _build_locked(folder, kind, key, build, libraries)
    return open_index(folder, kind, key)


def open_index(folder: Path, kind: str, key: Mapping[str, Any]) -> Path:
    """Check that a folder holds the whole index of that kind and key, and return it. Reads only the manifest.

    Raises:
        IndexMismatch: It was built from something else; the message says what differs.
        RetrievalError: The manifest cannot be read, or a file is missing or has another size than when built.
    """
    manifest = _read_manifest(folder)
    expected = {"format": _FORMAT, "kind": kind, "key": _plain(key)}
    found = {name: manifest.get(name) for name in expected}
    if found != expected:
        raise IndexMismatch(f"The index in {folder} is not the one asked for: {_differences(expected, found)}. {_CURE}")
    for name, size in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise RetrievalError(f"The index in {folder} is incomplete: {name} is missing. {_CURE}")
        if (actual := path.stat().st_size) != size:
            raise RetrievalError(f"The index in {folder} is damaged: {name} has {actual} bytes, not {size}. {_CURE}")
    return folder


def default_store() -> Path:
    """`<cache>/indexes`."""
    return cache_dir() / "indexes"


def key_hash(key: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that change with every value in the key, and not with its order."""
    return hashlib.blake2b(json.dumps(_plain(key), sort_keys=True).encode(), digest_size=8).hexdigest()


def corpus_key(corpus: Sequence[Passage]) -> dict[str, Any]:
    """What a key says of its corpus: its number of passages and its fingerprint.

    The fingerprint is the corpus's own where it has one, else a hash over ids, titles and texts in order.
    """
    fingerprint = getattr(corpus, "fingerprint", None)
    return {"passages": len(corpus), "fingerprint": str(fingerprint) if fingerprint else _content_hash(corpus)}


_CURE = "Delete this folder to have the index built again."


def _content_hash(corpus: Sequence[Passage]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for passage in corpus:
        for field in passage:
            encoded = field.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _build_locked(
    folder: Path, kind: str, key: Mapping[str, Any], build: Callable[[Path], None], libraries: Sequence[str]
) -> None:
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():  # else another process built it while this one waited for the lock
                _build(folder, kind, key, build, libraries)
    except RAGGymError:  # some of ours are OSErrors too
        raise
    except OSError as error:
        raise RetrievalError(
            f"Could not write the index {folder}: {error}. Free or change the place: RAGGYM_CACHE names the cache."
        ) from error


def _build(
    folder: Path, kind: str, key: Mapping[str, Any], build: Callable[[Path], None], libraries: Sequence[str]
) -> None:
    _log.info("Building the %s index %s", kind, folder)
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed build left; the lock says that nobody is at it
    temporary.mkdir()
    start = time.monotonic()
    try:
        build(temporary)
        manifest = {
            "format": _FORMAT,
            "kind": kind,
            "key": _plain(key),
            "built_with": {"python": platform.python_version(), **dict(_versions(("raggym-env", *libraries)))},
            "seconds": round(time.monotonic() - start, 3),
            "files": {path.relative_to(temporary).as_posix(): path.stat().st_size for path in _files(temporary)},
        }
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _versions(libraries: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in libraries:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "not installed as a distribution"


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RetrievalError(f"The index in {folder} has no readable {_MANIFEST}: {error}. {_CURE}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise RetrievalError(f"The index in {folder} has a {_MANIFEST} that lists no files. {_CURE}")
    return manifest


def _plain(key: Mapping[str, Any]) -> Any:
    """As it comes back from JSON, so that a tuple equals the list it was stored as."""
    return json.loads(json.dumps(dict(key)))


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    wanted, present = dict(_leaves(expected)), dict(_leaves(found))
    names = [name for name in {**wanted, **present} if wanted.get(name) != present.get(name)]
    return "; ".join(f"{name}: expected {wanted.get(name)!r}, found {present.get(name)!r}" for name in names)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
