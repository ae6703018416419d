"""Where the model that a name stands for is. Imports no torch: a wrong name is found before anything is loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from raggym_env.errors import LLMError, MissingExtra
from raggym_env.llm.hf.adapters import adapter_folder, split_name
from raggym_env.models import catalogue
from raggym_env.models.files import hub_folder
from raggym_env.network.hub import HubUnreachable
from raggym_env.network.urls import is_hub_name

__all__ = ["check_name", "find_model"]


def check_name(name: str, *, here: bool = True) -> None:
    """Raise what loading a model would raise about its name. What is on the hub, OWNER/NAME, is not looked up.

    Args:
        name: As for `hf.model.load`.
        here: The model is going to be loaded on this machine, so that it must be here.

    Raises:
        OptionError: The name has not the form MODEL or MODEL+ADAPTER.
        LLMError: There is no such model or adapter.
        MissingExtra: The back end is not installed.
    """
    base, adapter = split_name(name)
    if not here:
        return
    if not all(importlib.util.find_spec(module) for module in ("torch", "transformers")):
        raise MissingExtra("The hf: back end", "llm")
    if adapter is not None and (Path(adapter).expanduser().is_dir() or not is_hub_name(adapter)):
        adapter_folder(adapter)
    if not is_hub_name(base):
        find_model(base)


def find_model(name: str) -> tuple[str, str | None]:
    """Return where transformers reads a model from: a folder, and the name of the GGUF file in it, if it is one.

    A model on the hub is downloaded if it was not before: its safetensors weights, configuration and tokenizer.

    Args:
        name: A model of `raggym models list`, a folder with a config.json, a `.gguf` file, or a name on the hub.

    Raises:
        LLMError: There is no such model; the message says what was tried.
    """
    if name in catalogue.MODELS:
        cached = catalogue.folder(name)
        if cached is None:
            raise LLMError(f"The model {name!r} is not in the cache. To get it: raggym models get {name}")
        return str(cached), None
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), path.name
    if (path / "config.json").is_file():
        return str(path), None
    try:
        return str(hub_folder(name)), None
    except HubUnreachable as error:
        raise LLMError(
            f"No model {name!r}. Looked in the cache ({', '.join(sorted(catalogue.MODELS))}: raggym models get NAME), "
            "for a folder with a config.json, for a .gguf file, and on the hub: "
            f"{error} (with a network: hf download OWNER/NAME)."
        ) from error
