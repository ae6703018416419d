"""Where the files of a model are: in the library's cache, in a folder, or in the cache of the Hugging Face hub.

A model is told from others by its files, wherever they lie, or by its name on the hub and the commit.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raggym_env.errors import MissingExtra, RetrievalError, UnknownName
from raggym_env.models import catalogue
from raggym_env.network import HubUnreachable, hub_model_commit, hub_offline

__all__ = ["Source", "find"]

_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_HUB_OTHERS = ["onnx/*", "openvino/*"]
_HASHED = frozenset({".json", ".txt", ".model", ".safetensors"})
_NOTES = "raggym.json"  # where a known model came from; it says nothing about what the model computes
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """A model's folder, and what tells it from any other model."""

    folder: Path
    identity: dict[str, str]


def find(name: str, *, hub: str, known: Iterable[str]) -> Source:
    """The folder of a model: a known one from the cache, a folder as it is, or one of the hub.

    Args:
        name: What the user gave.
        hub: Its name on the hub, if it is neither in the cache nor a folder.
        known: Names to suggest where there is no such model.

    Raises:
        UnknownName: It is neither known nor a folder, nor can it be a name on the hub.
        RetrievalError: The hub does not give it; the message says how to get it.
        MissingExtra: The hub's client is not installed.
    """
    if cached := catalogue.folder(name) if name in catalogue.ENCODERS else None:
        return Source(cached, {"files": _content_hash(cached)})
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(path.resolve(), {"files": _content_hash(path)})
    if hub.count("/") != 1:
        raise UnknownName("model, folder or model of the hub (OWNER/NAME)", name, known)
    folder = _hub_folder(hub, f"raggym models get {name}" if name in catalogue.ENCODERS else f"hf download {hub}")
    return Source(folder, {"hub": hub, "commit": folder.name})


def _content_hash(folder: Path) -> str:
    """Hash of the files that say what a model computes; where the folder lies does not matter."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.suffix in _HASHED and path.name != _NOTES and path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _hub_folder(name: str, command: str) -> Path:
    """The folder that the hub's client keeps a model in, named by its commit. Downloaded if it is not there."""
    try:
        return _downloaded(name) or _download(name)
    except ImportError as error:
        raise MissingExtra("The 'dense' retriever", "dense") from error
    except RetrievalError as error:
        raise RetrievalError(
            f"The model {name!r} cannot be had: {error}. Where there is a network: {command}. Or pass a folder."
        ) from error


def _downloaded(name: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None
    # Something else may have needed a part of it only, say its tokenizer.
    return folder if hub_offline() or any(folder.glob("*.safetensors")) else None


def _download(name: str) -> Path:
    import httpx
    from huggingface_hub import snapshot_download

    try:
        commit = hub_model_commit(name)
        _log.info("Downloading the model %s", name)
        return Path(snapshot_download(name, revision=commit, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_OTHERS))
    except HubUnreachable as error:
        raise RetrievalError(str(error)) from error
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise RetrievalError(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error
