"""Locate the files of a model: in the library's cache, in a folder, or in the cache of the Hugging Face hub.

A model is identified by the content of its files, wherever they lie, or by its name on the hub and the commit.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raggym_env.errors import MissingExtra, RetrievalError, UnknownName
from raggym_env.models import catalogue
from raggym_env.network import HubUnreachable, hub_offline, hub_snapshot

__all__ = ["Source", "find"]

_HUB_IGNORED = ["onnx/*", "openvino/*"]  # copies of the weights for other runtimes
# Files that determine what a model computes: weights, configuration, tokenizer. READMEs and pictures do not.
_SUFFIXES = (".json", ".txt", ".model", ".safetensors")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """The folder of a model, and its identity."""

    folder: Path
    identity: dict[str, str]
    """A hash of its files, or its name on the hub and the commit. JSON values, for the keys of indexes."""


def find(name: str, *, hub: str, suggestions: Iterable[str]) -> Source:
    """Return the folder of a model from the cache, from a path, or from the hub, which may download it.

    Args:
        name: The model as the user named it.
        hub: Its name on the hub, used if it is neither in the cache nor a folder.
        suggestions: Valid names, from which the error for a misspelt one suggests the closest.

    Raises:
        UnknownName: The name is neither in the catalogue, nor a folder, nor a valid name on the hub.
        RetrievalError: The hub does not provide it; the message says how to get it.
        MissingExtra: The hub's client is not installed.
    """
    if cached := catalogue.folder(name) if name in catalogue.ENCODERS else None:
        return Source(cached, {"files": _content_hash(cached)})
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(path.resolve(), {"files": _content_hash(path)})
    # A name on the hub is OWNER/NAME: anything else is a misspelt name, and not worth a request.
    if hub.count("/") != 1:
        raise UnknownName("model, folder or model of the hub (OWNER/NAME)", name, suggestions)
    folder = _hub_folder(hub, f"raggym models get {name}" if name in catalogue.ENCODERS else f"hf download {hub}")
    return Source(folder, {"hub": hub, "commit": folder.name})


def _content_hash(folder: Path) -> str:
    """Return a hash of the files that determine what a model computes. It does not depend on the folder's location."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        # The catalogue's manifest records where a model came from, so two equal models may have different ones.
        if path.suffix in _SUFFIXES and path.name != catalogue.MANIFEST and path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{catalogue.sha256(path)}\n".encode())
    return digest.hexdigest()


def _hub_folder(name: str, command: str) -> Path:
    """Return the folder of the hub's client for a model, named by its commit. Downloads it if it is missing."""
    try:
        if folder := _downloaded(name):
            return folder
        _log.info("Downloading the model %s", name)
        return hub_snapshot(name, allow_patterns=[f"*{suffix}" for suffix in _SUFFIXES], ignore_patterns=_HUB_IGNORED)
    except ImportError as error:
        raise MissingExtra("The 'dense' retriever", "dense") from error
    except HubUnreachable as error:
        raise RetrievalError(
            f"The model {name!r} is not available: {error}. With a network connection, run `{command}`; or pass a "
            "folder."
        ) from error


def _downloaded(name: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None
    # Another program may have downloaded only a part of the model, such as its tokenizer. Offline, the caller reports
    # which files are missing.
    return folder if hub_offline() or any(folder.glob("*.safetensors")) else None
