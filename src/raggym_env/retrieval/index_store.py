"""The index store: every index is built once, stored in its own folder, and refused if it was built from other input.

    <cache>/indexes/
        bm25-4f1c0d9a8b7e6f50/        one index: its kind and a hash of its key
            manifest.json             format, kind, key, library versions, build time, and the size of every file
            ...                       the files of the back end
        bm25-4f1c0d9a8b7e6f50.lock    held while that index is built

The key holds everything the index depends on: the corpus, the analyzer, the parameters. A build writes into
`<folder>.partial`, which is renamed once it is complete, so a killed build leaves no index behind.
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
from raggym_env.storage.paths import cache_dir
from raggym_env.storage.work_folder import differences, installed_version

__all__ = ["Store", "corpus_key", "key_hash", "open_index", "open_or_build", "store_folder"]

Store = str | Path | bool
"""The `store` option of `bm25`, `dense` and `lucene`: where a retriever stores its indexes.

- `True`, the default: in the cache, `<cache>/indexes`.
- a path: in that folder, which is created if it is missing. "~" stands for the home folder.
- `False`: nowhere. The index is built in memory or in a temporary folder, again for every retriever.
"""

_FORMAT = 1
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
    """Return the folder of an index, which is built first if it is missing. Of several processes at once, one builds.

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
        build_once(folder, lambda path: _build(path, kind, key, build, libraries))
    except RAGGymError:  # DataNotFound is an OSError as well, and says more than the message below
        raise
    except OSError as error:
        raise RetrievalError(
            f"Could not write the index {folder}: {error}. Free space there, or choose another folder: RAGGYM_CACHE "
            "sets the cache."
        ) from error
    return open_index(folder, kind, key)


def open_index(folder: Path, kind: str, key: Mapping[str, Any]) -> Path:
    """Check that a folder holds the complete index of that kind and key, and return it. Reads only the manifest.

    Raises:
        IndexMismatch: It was built from other input; the message lists the differences.
        RetrievalError: The manifest cannot be read, or a file is missing or has another size than when it was built.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RetrievalError(f"The index in {folder} has no readable {_MANIFEST}: {error}. {_CURE}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise RetrievalError(f"The index in {folder} has a {_MANIFEST} that lists no files. {_CURE}")
    expected = {"format": _FORMAT, "kind": kind, "key": _plain(key)}
    # The folder's name holds a hash of the key only, so a renamed or copied folder is recognized here.
    if changes := differences({name: manifest.get(name) for name in expected}, expected):
        raise IndexMismatch(f"The index in {folder} is another one: {'; '.join(changes)}. {_CURE}")
    # Sizes find a full disk and an interrupted copy; hashes would read gigabytes on every start.
    for name, size in manifest["files"].items():
        if not (path := folder / name).is_file():
            raise RetrievalError(f"The index in {folder} is incomplete: {name} is missing. {_CURE}")
        if (actual := path.stat().st_size) != size:
            raise RetrievalError(f"The index in {folder} is damaged: {name} has {actual} bytes, not {size}. {_CURE}")
    return folder


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
        files = [path for path in sorted(partial.rglob("*")) if path.is_file()]
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
            "files": {path.relative_to(partial).as_posix(): path.stat().st_size for path in files},
        }
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")


def _plain(key: Mapping[str, Any]) -> Any:
    """Return the key as JSON reads it back, so that a tuple equals the list that is stored for it."""
    return json.loads(json.dumps(dict(key)))
