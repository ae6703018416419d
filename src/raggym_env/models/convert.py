"""Reads transformers models, and turns GGUF files and models of the hub into plain ones. Needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# transformers needs these two to read GGUF files. Imported here, so that a missing one is noticed before the download.
import accelerate  # noqa: F401
import gguf  # noqa: F401
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raggym_env.errors import LLMError
from raggym_env.network import HubUnreachable, hub_errors, hub_model_commit

__all__ = ["convert_gguf", "hub_parts", "read_model", "require_on_hub", "unquantised"]


def read_model(path: str | Path, file: str | None, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """Load the model and tokenizer of a folder or hub name; `file` is the GGUF file in the folder, if it is one."""
    options: dict[str, Any] = {"trust_remote_code": False}
    if file:
        options["gguf_file"] = file
    tokenizer = AutoTokenizer.from_pretrained(path, **options)
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options), tokenizer


def unquantised(model: Any, dtype: torch.dtype) -> Any:
    """Return a plain copy of a model read from a GGUF file. The model itself is used up."""
    # transformers marks such a model as quantised, although its weights no longer are, and refuses to save it.
    config = model.config
    del config.quantization_config
    automatic: Any = AutoModelForCausalLM  # its methods are not typed
    plain = automatic.from_config(config, dtype=dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain.eval()


def convert_gguf(file: Path, target: Path) -> None:
    """Write a GGUF file as a plain folder, which loads in a tenth of the time."""
    model, tokenizer = read_model(file.parent, file.name, torch.float32)
    # The weights have 4 bits of precision, and float16 takes half the disk of float32.
    unquantised(model, torch.float16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def hub_parts(name: str, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Return the model and tokenizer of that name on the hub, in `dtype` or else the dtype that they have there.

    Raises:
        LLMError: The hub cannot be reached or has no such model.
    """
    require_on_hub(name)
    try:
        return read_model(name, None, dtype or "auto")
    except hub_errors() as error:
        raise LLMError(f"the hub did not give {name}: {str(error).strip().partition(chr(10))[0]}") from error


def require_on_hub(name: str) -> None:
    """Raise within seconds if a model was neither downloaded before nor can be downloaded now.

    Raises:
        LLMError: Says why the hub does not give it.
    """
    try:
        # The cheapest way to learn whether it is in the hub client's cache.
        AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):  # it was not downloaded before
        try:
            hub_model_commit(name)
        except HubUnreachable as error:
            raise LLMError(str(error)) from error
