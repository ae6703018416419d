"""LoRA adapters in PEFT's format: locating one, and merging it into its base model.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`, named by its path, by its name in the
catalogue or by its name on the hub. No pickle is opened, and no code that comes with an adapter is run.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from raggym_env.errors import LLMError, MissingExtra, OptionError
from raggym_env.models import catalogue
from raggym_env.models.files import hub_folder
from raggym_env.network.hub import HubUnreachable
from raggym_env.network.urls import is_hub_name
from raggym_env.storage.parsing import ParseError, parse_json, read_file

__all__ = ["ADAPTER_CONFIG", "ADAPTER_WEIGHTS", "adapter_folder", "merged", "split_name"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"


def split_name(name: str) -> tuple[str, str | None]:
    """Split a name such as `smollm2+runs/lora` into base model and adapter; None if there is no adapter.

    An existing path is a base model, even if it contains a `+`.

    Raises:
        OptionError: One of the two is missing, or there are several adapters.
    """
    if "+" not in name or Path(name).expanduser().exists():
        return name, None
    base, _, adapter = name.partition("+")
    if not base or not adapter:
        raise OptionError(f"An adapter is named like MODEL+ADAPTER, got {name!r}.")
    if "+" in adapter and not Path(adapter).expanduser().is_dir():
        raise OptionError(
            f"A model takes one adapter at most, got {name!r}. Merge the first into the base model, save that, and add "
            "the second to the saved folder."
        )
    return base, adapter


def adapter_folder(name: str) -> Path:
    """Return the folder of an adapter: a path, or the name of one in the catalogue (`raggym models list`) or the hub.

    One on the hub, OWNER/NAME, is downloaded if it was not before.

    Raises:
        LLMError: There is no such adapter, or it is not a LoRA adapter with safetensors weights.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        adapters = catalogue.adapters()
        if name in catalogue.ADAPTERS.keys() - adapters.keys():
            raise LLMError(f"The adapter {name!r} is not installed. To install it: {catalogue.INSTALL_ADAPTERS}.")
        if name in adapters:
            folder = adapters[name]
        elif is_hub_name(name):
            folder = _from_hub(name)
        else:
            names = ", ".join(sorted({*adapters, *catalogue.ADAPTERS}))
            raise LLMError(f"No adapter {name!r}: it is neither a folder nor an adapter of the catalogue ({names}).")
    try:
        config = parse_json(read_file(folder / ADAPTER_CONFIG))
    except FileNotFoundError as error:
        raise LLMError(f"The folder {folder} is not an adapter: it has no {ADAPTER_CONFIG}.") from error
    except (OSError, ParseError) as error:
        raise LLMError(f"{folder / ADAPTER_CONFIG} cannot be read: {error}") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise LLMError(f"Only LoRA adapters can be merged; {folder / ADAPTER_CONFIG} has peft_type {kind!r}.")
    if config.get("megatron_config") is not None:  # PEFT would import the module that `megatron_core` names
        raise LLMError(f"{folder / ADAPTER_CONFIG} is for layers of Megatron, which the hf: back end does not run.")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        hint = (
            f" Its {_PICKLED} is a pickle and could run any code when opened, so it is not opened. If you trust it, "
            f"save it again with PEFT, which writes {ADAPTER_WEIGHTS}."
        )
        raise LLMError(f"The adapter {folder} has no {ADAPTER_WEIGHTS}.{hint if (folder / _PICKLED).is_file() else ''}")
    return folder


def _from_hub(name: str) -> Path:
    try:
        return hub_folder(name)
    except HubUnreachable as error:
        raise LLMError(
            f"No adapter {name!r}: it is neither a folder nor one of the catalogue, and the hub did not provide it: "
            f"{error} (with a network: hf download {name})."
        ) from error


def merged(model: Any, folder: Path, name: str) -> Any:
    """Return a plain model: the base with an adapter's weights added to its own. Do not use the base afterwards.

    The base must be in float32: in 16 bits, small updates would be rounded away. `folder` is an adapter that
    `adapter_folder` has checked; `name` is the base model's name in error messages.

    Raises:
        LLMError: The adapter belongs to another model, or is damaged.
        MissingExtra: PEFT is not installed.
    """
    try:
        from peft import PeftConfig, PeftModelForCausalLM, set_peft_model_state_dict
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtra("A LoRA adapter", "train") from error

    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
        with warnings.catch_warnings():
            # PEFT reads an attribute of transformers by a name that its newest version deprecates.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            wrapped = PeftModelForCausalLM(model, PeftConfig.from_pretrained(str(folder)))
        loaded: Any = set_peft_model_state_dict(wrapped, weights)
        # The base model that the adapter names is ignored, since the same model has many names. What counts is that
        # each tensor has a place in the model, and each place a tensor.
        surplus, missing = loaded.unexpected_keys, [key for key in loaded.missing_keys if "lora_" in key]
        if surplus or missing:
            raise ValueError(
                f"of its {len(weights)} tensors {len(surplus)} have no place in the model, and {len(missing)} that the "
                f"model needs are not in it (e.g. {[*surplus, *missing][0]})"
            )
        return wrapped.merge_and_unload(safe_merge=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise LLMError(f"The adapter {folder} does not fit the model of {name!r}, or is damaged: {error}") from error
