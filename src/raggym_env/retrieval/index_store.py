"""The index store: every index is built once, stored in its own folder, and refused if it was built from other input.

    <cache>/indexes/
        bm25-4f1c0d9a8b7e6f50/        one index: its kind and a hash of its key
            manifest.json             format, kind, key, library versions, build time, and a checksum of every file
            ...                       the files of the back end
        bm25-4f1c0d9a8b7e6f50.lock    held while that index is built

The key holds everything the index depends on: the corpus, the analyzer, the parameters. A build writes into
`<folder>.partial`, which is renamed once it is complete, so a killed build leaves no index behind.

Checksums are verified when a file may have changed, see `raggym_env.storage.checksums`. They find corruption only:
whoever can write an index can write its manifest. So every back end also checks what it reads, before its kernel does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raggym_env.core import Passage
from raggym_env.errors import IndexMismatch, RAGGymError, RetrievalError, check_option
from raggym_env.storage.atomic import atomic_folder, build_once
from raggym_env.storage.checksums import Progress, checksums, file_problems
from raggym_env.storage.parsing import ParseError, parse_json, read_file
from raggym_env.storage.paths import cache_dir
from raggym_env.storage.work_folder import differences, installed_version

__all__ = ["Store", "check_index", "corpus_key", "key_hash", "open_index", "open_or_build", "store_folder"]

Store = str | Path | bool
"""The `store` option of `bm25`, `dense` and `lucene`: where a retriever stores its indexes.

- `True`, the default: in the cache, `<cache>/indexes`.
- a path: in that folder, which is created if it is missing. "~" stands for the home folder.
- `False`: nowhere. The index is built in memory or in a temporary folder, again for every retriever.
"""

_FORMAT = 2
_MANIFEST = "manifest.json"
_CURE = "Delete this folder to have the index built again."
_log = logging.getLogger(__name__)


def store_folder(store: Store) -> Path | None:
    """Return the folder of indexes that a `store` option names; None if indexes are not stored.

    Raises:
        OptionError: `store` is neither a bool nor a path.
    """
    valid = isinstance(store, bool | str | Path) and store != ""  # "" would be the current folder
    check_option("store", store, valid, "True (in the cache), False (not stored) or the path of a folder")
    if isinstance(store, bool):
        return cache_dir() / "indexes" if store else None
    return Path(store).expanduser()


def open_or_build(
    kind: str, key: Mapping[str, Any], build: Callable[[Path], None], *, store: Path, libraries: Sequence[str] = ()
) -> Path:
    """Return the folder of an index, which is built first if it is missing or of an earlier format of this store.

    Of several processes at once, one builds.

    Args:
        kind: Name of the back end, e.g. "bm25"; the folder's name starts with it.
        key: Everything the index depends on, as JSON values.
        build: Writes the index into the empty folder that it is called with.
        store: The folder that holds the indexes; see `store_folder`.
        libraries: Distributions whose versions the manifest records, for people to read.

    Raises:
        IndexMismatch: The folder of that name holds an index with another key or format.
        RetrievalError: The folder is incomplete, or the index could not be written.
    """
    folder = store / f"{kind}-{key_hash(key)}"
    try:
        build_once(
            folder,
            lambda path: _build(path, kind, key, build, libraries),
            outdated=lambda path: _is_earlier(path, kind, key),
        )
    except RAGGymError:  # DataNotFound is an OSError as well, and says more than the message below
        raise
    except OSError as error:
        raise RetrievalError(
            f"Could not write the index {folder}: {error}. Free space there, or choose another folder: RAGGYM_CACHE "
            "sets the cache."
        ) from error
    return open_index(folder, kind, key)


def open_index(folder: Path, kind: str, key: Mapping[str, Any]) -> Path:
    """Check that a folder holds the complete index of that kind and key, and return it.

    Reads only the manifest, and files that changed since they were last verified.

    Raises:
        IndexMismatch: It was built from other input; the message lists the differences.
        RetrievalError: The manifest cannot be read, or a file is missing, damaged or not in it.
    """
    manifest = _read_manifest(folder)
    expected = {"format": _FORMAT, "kind": kind, "key": _plain(key)}
    # The folder's name holds a hash of the key only, so a renamed or copied folder is recognized here.
    if changes := differences({name: manifest.get(name) for name in expected}, expected):
        raise IndexMismatch(f"The index in {folder} is another one: {'; '.join(changes)}. {_CURE}")
    _require_intact(folder, manifest)
    return folder


def check_index(folder: Path, progress: Progress | None = None) -> Mapping[str, Any]:
    """Read every file of an index, compare it with its checksum, and return the manifest.

    Raises:
        IndexMismatch: It has another format.
        RetrievalError: The manifest cannot be read, or a file is missing, damaged or not in it.
    """
    manifest = _read_manifest(folder)
    if changes := differences({"format": manifest.get("format")}, {"format": _FORMAT}):
        raise IndexMismatch(f"The index in {folder} is another one: {'; '.join(changes)}. {_CURE}")
    if not isinstance(manifest.get("kind"), str) or not isinstance(manifest.get("key"), dict):
        raise RetrievalError(f"The index in {folder} has a {_MANIFEST} without a kind or a key. {_CURE}")
    _require_intact(folder, manifest, full=True, progress=progress)
    return manifest


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    try:
        manifest = parse_json(read_file(folder / _MANIFEST))
    except (OSError, ParseError) as error:
        raise RetrievalError(f"The index in {folder} has no readable {_MANIFEST}: {error}. {_CURE}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise RetrievalError(f"The index in {folder} has a {_MANIFEST} that lists no files. {_CURE}")
    return manifest


def _require_intact(folder: Path, manifest: Mapping[str, Any], **options: Any) -> None:
    files = manifest["files"]
    try:
        problems = file_problems(folder, files, **options)
        # Back ends search their folder, so nothing else may be in it, except what systems leave behind.
        surplus = [name for name in _files(folder) if name not in files and not Path(name).name.startswith(".")]
    except OSError as error:
        raise RetrievalError(f"The index in {folder} cannot be read: {error}.") from error
    problems += [f"{name} is not in {_MANIFEST}" for name in surplus if name != _MANIFEST]
    if problems:
        listed = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise RetrievalError(f"The index in {folder} is damaged: {listed}. {_CURE}")


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir()]


def _is_earlier(folder: Path, kind: str, key: Mapping[str, Any]) -> bool:
    """True for an index of the same input that an earlier version stored. Anything else is left as it is."""
    try:
        manifest = _read_manifest(folder)
    except RetrievalError:
        return False
    version = manifest.get("format")
    same = manifest.get("kind") == kind and manifest.get("key") == _plain(key)
    return same and type(version) is int and version < _FORMAT


def key_hash(key: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that depend on every value in the key, and not on their order."""
    return hashlib.blake2b(json.dumps(_plain(key), sort_keys=True).encode(), digest_size=8).hexdigest()


def corpus_key(corpus: Sequence[Passage]) -> dict[str, Any]:
    """Return the part of a key that identifies the corpus: its number of passages and its fingerprint.

    The fingerprint is `corpus.fingerprint` where the corpus has one, else a hash over ids, titles and texts in order.
    """
    fingerprint = getattr(corpus, "fingerprint", None)
    return {"passages": len(corpus), "fingerprint": str(fingerprint) if fingerprint else _content_hash(corpus)}


def _content_hash(corpus: Sequence[Passage]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for passage in corpus:
        for field in passage:
            encoded = field.encode("utf-8", "surrogatepass")
            # The length goes first, so that ("ab", "c") and ("a", "bc") have different hashes.
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _build(
    folder: Path, kind: str, key: Mapping[str, Any], build: Callable[[Path], None], libraries: Sequence[str]
) -> None:
    _log.info("Building the %s index %s", kind, folder)
    start = time.monotonic()
    with atomic_folder(folder) as partial:
        build(partial)
        manifest = {
            "format": _FORMAT,
            "kind": kind,
            "key": _plain(key),
            # The versions are not compared: an index is valid for any version that reads its format.
            "built_with": {
                "python": platform.python_version(),
                **{name: installed_version(name) for name in ("raggym-env", *libraries)},
            },
            "seconds": round(time.monotonic() - start, 3),
            "files": checksums(partial, _files(partial)),
        }
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _plain(key: Mapping[str, Any]) -> Any:
    """Return the key as JSON reads it back, so that a tuple equals the list that is stored for it."""
    return json.loads(json.dumps(dict(key)))
