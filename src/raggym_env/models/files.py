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
from raggym_env.network import HubUnreachable, hub_errors, hub_model_commit, hub_offline

__all__ = ["Source", "find"]

_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_HUB_IGNORED = ["onnx/*", "openvino/*"]  # copies of the weights for other runtimes
# Files that determine what a model computes: weights, configuration, tokenizer. READMEs and pictures do not.
_HASHED = frozenset({".json", ".txt", ".model", ".safetensors"})
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
        UnknownName: It is neither a name in the catalogue nor a folder, and cannot be a name on the hub.
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
    try:
        folder = _downloaded(hub) or _download(hub)
    except ImportError as error:
        raise MissingExtra("The 'dense' retriever", "dense") from error
    except HubUnreachable as error:
        command = f"raggym models get {name}" if name in catalogue.ENCODERS else f"hf download {hub}"
        cure = f"With a network connection, run `{command}`; or pass a folder."
        raise RetrievalError(f"The model {hub!r} is not available: {error}. {cure}") from error
    # The hub's client names a folder after the commit.
    return Source(folder, {"hub": hub, "commit": folder.name})


def _content_hash(folder: Path) -> str:
    """Return a hash of the files that determine what a model computes. It does not depend on the folder's location."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        # The catalogue's manifest records where a model came from, so two equal models may have different ones.
        if path.suffix in _HASHED and path.name != catalogue.MANIFEST and path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _downloaded(name: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None
    # Another program may have downloaded only a part of the model, such as its tokenizer. Offline, the caller reports
    # which files are missing.
    return folder if hub_offline() or any(folder.glob("*.safetensors")) else None


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        # The hub's client retries for minutes where there is no network; asking for the commit fails within 10 s.
        commit = hub_model_commit(name)
        _log.info("Downloading the model %s", name)
        return Path(snapshot_download(name, revision=commit, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_IGNORED))
    except HubUnreachable:  # an OSError, too
        raise
    except hub_errors() as error:
        raise HubUnreachable(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error
