"""Locate the files of a model: in the library's cache, in a folder, or in the cache of the Hugging Face hub.

A model is identified by the content of its files, wherever they lie, or by its name on the hub and the commit.

Its files come from strangers. `check_files` refuses what would lead the libraries that read them to a pickle, which can
run code when it is opened, or to a file outside the folder.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

from raggym_env.errors import MissingExtra, RetrievalError, UnknownName
from raggym_env.models import catalogue
from raggym_env.network.hub import HubUnreachable, hub_offline, hub_snapshot
from raggym_env.network.urls import is_hub_name
from raggym_env.storage.parsing import ParseError, parse_json, read_file

__all__ = ["Source", "UnsafeFiles", "check_adapter", "check_files", "find", "hub_folder"]

_T = TypeVar("_T", dict[str, Any], list[Any])

_HUB_IGNORED = ["onnx/*", "openvino/*"]  # copies of the weights for other runtimes
# Files that determine what a model computes: weights, configuration, tokenizer. READMEs and pictures do not.
_SUFFIXES = (".json", ".txt", ".model", ".safetensors")
_DOWNLOADED = (*_SUFFIXES, ".jinja", ".tiktoken")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
# The modules of sentence-transformers that read nothing but JSON, safetensors files and a tokenizer.
_MODULES = {"Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "Dropout", "StaticEmbedding", "LogitScore"}
_MODULES |= {"WeightedLayerPooling", "CNN", "LSTM"}
_CONVERT = (
    "Other formats are pickles, which can run code, so they are not read. If you trust them, load and save the model "
    "once with its own library, by save_pretrained(FOLDER) of transformers or save(FOLDER) of sentence-transformers, "
    "which write safetensors; then name FOLDER"
)
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
    if not is_hub_name(hub):
        raise UnknownName("model, folder or model of the hub (OWNER/NAME)", name, suggestions)
    try:
        folder = hub_folder(hub)
    except ImportError as error:
        raise MissingExtra("The 'dense' retriever", "dense") from error
    except HubUnreachable as error:
        command = f"raggym models get {name}" if name in catalogue.ENCODERS else f"hf download {hub}"
        raise RetrievalError(
            f"The model {hub!r} is not available: {error}. With a network connection, run `{command}`; or pass a "
            "folder."
        ) from error
    return Source(folder, {"hub": hub, "commit": folder.name})


def _content_hash(folder: Path) -> str:
    """Return a hash of the files that determine what a model computes. It does not depend on the folder's location."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        # The catalogue's manifest records where a model came from, so two equal models may have different ones.
        if path.suffix in _SUFFIXES and path.name != catalogue.MANIFEST and path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{catalogue.sha256(path)}\n".encode())
    return digest.hexdigest()


def hub_folder(name: str) -> Path:
    """Return the folder of the hub's client for a model, named by its commit. Downloads it if it is missing.

    Only safetensors weights are downloaded, with the configuration and the tokenizer.

    Raises:
        HubUnreachable: The hub does not provide it.
        ImportError: The hub's client is not installed.
    """
    if folder := _downloaded(name):
        return folder
    _log.info("Downloading the model %s", name)
    return hub_snapshot(name, allow_patterns=[f"*{suffix}" for suffix in _DOWNLOADED], ignore_patterns=_HUB_IGNORED)


def _downloaded(name: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None
    # Another program may have downloaded only a part of the model, such as its tokenizer. Offline, the caller reports
    # which files are missing.
    return folder if hub_offline() or _complete(folder) else None


def _complete(folder: Path) -> bool:
    try:
        shards = _shards(folder)
    except UnsafeFiles:  # reported where the model is read
        return True
    return all((folder / str(name)).is_file() for name in shards) if shards else any(folder.glob("*.safetensors"))


class UnsafeFiles(ValueError):
    """The files of a model lead to a pickle or out of its folder, or cannot be read. None of them was given away."""


def check_files(folder: Path) -> None:
    """Check the files of a model's folder before a library reads them.

    Raises:
        UnsafeFiles: There are no safetensors weights; a configuration names a file of weights that is none, or one
            outside the folder; or it names another model, a module or a kernel that would be loaded too.
    """
    parts = [folder, *_module_folders(folder)]
    for part in parts:
        check_adapter(part)
        config = _json(part / "config.json", dict)
        weights = config.get("transformers_weights")
        for name in [*_shards(part), *([] if weights is None else [weights])]:
            if not isinstance(name, str) or not name.endswith((".safetensors", _INDEX)) or not _lies_in(part, name):
                raise UnsafeFiles(f"{part} names {name!r:.100} as a file of weights. {_CONVERT}")
        for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
            if "/" in str(config.get(key, "")):
                raise UnsafeFiles(f"{part / 'config.json'} names code on the hub, {config[key]!r:.100}, as its {key}")
        # sentence-transformers falls back on these where it sees no file of exactly that name.
        pickle = next(part.glob("pytorch_model*.bin"), None)
        if pickle and not any((part / name).is_file() for name in (_WEIGHTS, _INDEX)):
            raise UnsafeFiles(f"{part} has no safetensors weights, but {pickle.name}. {_CONVERT}")
    if not any(any(part.glob("*.safetensors")) for part in parts):
        raise UnsafeFiles(f"{folder} has no safetensors weights. {_CONVERT}")


def check_adapter(folder: Path) -> None:
    """Raise `UnsafeFiles` if a folder that is read as a model holds an adapter: that would load another model."""
    if (folder / "adapter_config.json").is_file():
        raise UnsafeFiles(
            f"{folder} has an adapter_config.json, which names another model to load. A LoRA adapter is named together "
            "with its base model, as MODEL+FOLDER"
        )


def _module_folders(folder: Path) -> list[Path]:
    """Return the folders of a sentence-transformers model's modules."""
    folders = []
    for module in _json(folder / "modules.json", list):
        kind, name = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        package, _, leaf = str(kind).rpartition(".")
        if leaf not in _MODULES or package.partition(".")[0] != "sentence_transformers":
            raise UnsafeFiles(
                f"{folder / 'modules.json'} names code, {kind!r:.100}, that is not one of {sorted(_MODULES)}"
            )
        if not isinstance(name, str) or not _lies_in(folder, name):
            raise UnsafeFiles(f"{folder / 'modules.json'} names a folder outside of it, {name!r:.100}")
        folders.append(folder / name)
    return folders


def _shards(folder: Path) -> list[Any]:
    """Return the names of the files that the index of a folder names."""
    names = _json(folder / _INDEX, dict).get("weight_map", {})
    return sorted(set(map(str, names.values()))) if isinstance(names, dict) else [names]


def _lies_in(folder: Path, name: str) -> bool:
    # Lexically: in the hub's cache, files are links to elsewhere in the cache.
    path = PureWindowsPath(name)  # understands both separators and drive letters, on every system
    return not path.anchor and ".." not in path.parts and "\0" not in name


def _json(path: Path, kind: type[_T]) -> _T:
    """Return the value of a JSON file; an empty one if there is no file."""
    try:
        value = parse_json(read_file(path))
    except FileNotFoundError:
        return kind()
    except (OSError, ParseError) as error:
        raise UnsafeFiles(f"{path} cannot be read: {error}") from error
    if not isinstance(value, kind):
        raise UnsafeFiles(f"{path} holds no {'object' if kind is dict else 'list'}")
    return value
