"""LoRA adapters in PEFT's format: where they are, and merging one into its base model.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`. It is named by its path, or, if it
ships with the library, by its name. No pickle is opened, and no code that comes with an adapter is run.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from raggym_env.errors import LLMError, MissingExtra
from raggym_env.models import catalogue

__all__ = ["adapter_folder", "merged", "split_name"]

_CONFIG, _WEIGHTS, _PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


def split_name(name: str) -> tuple[str, str | None]:
    """The base model and the adapter that a name such as `smollm2+runs/lora` consists of.

    A path that exists is a base model as it stands, whatever characters are in it.

    Raises:
        LLMError: One of the two is missing, or there are several adapters.
    """
    if "+" not in name or Path(name).expanduser().exists():
        return name, None
    base, _, adapter = name.partition("+")
    if not base or not adapter:
        raise LLMError(f"An adapter is named like MODEL+ADAPTER, got {name!r}.")
    if "+" in adapter and not Path(adapter).expanduser().is_dir():
        raise LLMError(
            f"One adapter at most can be added to a model, got {name!r}. Merge the first into the base model, save "
            "that, and add the second to the folder."
        )
    return base, adapter


def adapter_folder(name: str) -> Path:
    """The folder of an adapter: a path, or the name of one that ships with the library.

    Raises:
        LLMError: There is no such folder, or it is no LoRA adapter with safetensors weights.
    """
    path = Path(name).expanduser()
    shipped = catalogue.adapters()
    if not path.is_dir() and name not in shipped:
        listed = ", ".join(sorted(shipped)) or "none"
        raise LLMError(f"No adapter {name!r}: it is no folder, and no adapter that ships with the library ({listed}).")
    folder = path if path.is_dir() else shipped[name]
    _require_lora(folder)
    _require_safetensors(folder)
    return folder


def _require_lora(folder: Path) -> None:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LLMError(f"The folder {folder} is no adapter: it has no {_CONFIG}.") from error
    except (OSError, ValueError) as error:
        raise LLMError(f"{folder / _CONFIG} cannot be read: {error}") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise LLMError(f"Only LoRA adapters can be merged; {folder / _CONFIG} has peft_type {kind!r}.")


def _require_safetensors(folder: Path) -> None:
    if (folder / _WEIGHTS).is_file():
        return
    if (folder / _PICKLED).is_file():
        raise LLMError(
            f"The adapter {folder} has its weights in {_PICKLED}, which is a pickle and could run any code when it is "
            f"opened, so it is not. Where you trust it, save it again with PEFT, which writes {_WEIGHTS}."
        )
    raise LLMError(f"The adapter {folder} has no {_WEIGHTS}.")


def merged(model: Any, folder: Path, name: str) -> Any:
    """The model with the adapter's weights added to its own: a plain model again.

    What the adapter says of its base is ignored: what counts is whether its tensors fit.

    Args:
        model: The base, in float32: added to 16-bit weights, small updates would be rounded away. Used up.
        folder: An adapter that `adapter_folder` has checked.
        name: What error messages call the model.

    Raises:
        LLMError: The adapter was made for another model, or is damaged.
        MissingExtra: PEFT is not installed.
    """
    try:
        from peft import PeftConfig, PeftModelForCausalLM, set_peft_model_state_dict
    except ImportError as error:
        raise MissingExtra("A LoRA adapter", "train") from error

    try:
        weights = load_file(folder / _WEIGHTS)
        with warnings.catch_warnings():
            # PEFT asks transformers in words that its newest version has renamed.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            wrapped = PeftModelForCausalLM(model, PeftConfig.from_pretrained(str(folder)))
        _require_fit(set_peft_model_state_dict(wrapped, weights), len(weights))
        return wrapped.merge_and_unload(safe_merge=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise LLMError(f"The adapter {folder} does not fit the model of {name!r}, or is damaged: {error}") from error


def _require_fit(loaded: Any, tensors: int) -> None:
    """A tensor without a place, or a place without a tensor: the adapter of another model."""
    missing = [key for key in loaded.missing_keys if "lora_" in key]
    if loaded.unexpected_keys or missing:
        example = (list(loaded.unexpected_keys) + missing)[0]
        raise ValueError(
            f"of its {tensors} tensors {len(loaded.unexpected_keys)} have no place in the model, and {len(missing)} "
            f"that the model needs are not there (e.g. {example})"
        )
