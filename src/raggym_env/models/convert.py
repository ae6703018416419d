"""Reading transformers models, and turning GGUF files and models of the hub into plain ones. Needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  # transformers needs both to read GGUF files
import gguf  # noqa: F401
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raggym_env.errors import LLMError
from raggym_env.network import HubUnreachable, hub_errors, hub_model_commit

__all__ = ["convert_gguf", "hub_parts", "read_model", "require_on_hub", "unquantised"]


def read_model(path: str | Path, file: str | None, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """The model and tokenizer of a folder or hub name; `file` is the GGUF file in it, if it is one."""
    options: dict[str, Any] = {"trust_remote_code": False}
    if file:
        options["gguf_file"] = file
    tokenizer = AutoTokenizer.from_pretrained(path, **options)
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options), tokenizer


def unquantised(read: Any, dtype: torch.dtype) -> Any:
    """A plain copy of a model read from a GGUF file, which remembers that it was quantised and refuses to be saved."""
    config = read.config
    del config.quantization_config
    automatic: Any = AutoModelForCausalLM  # its methods are not typed
    plain = automatic.from_config(config, dtype=dtype)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    return plain.eval()


def convert_gguf(file: Path, target: Path) -> None:
    """Write a GGUF file as a plain folder, which loads in a tenth of the time."""
    model, tokenizer = read_model(file.parent, file.name, torch.float32)
    unquantised(model, torch.float16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def hub_parts(name: str, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """The model and tokenizer of that name on the hub, in the dtype that it has there.

    Raises:
        LLMError: The hub cannot be reached or has no such model.
    """
    require_on_hub(name)
    try:
        return read_model(name, None, dtype or "auto")
    except hub_errors() as error:
        raise LLMError(f"the hub did not give {name}: {str(error).strip().partition(chr(10))[0]}") from error


def require_on_hub(name: str) -> None:
    """Raise within seconds where there is neither a downloaded copy of a model nor a network.

    Raises:
        LLMError: Says why the hub does not give it.
    """
    try:
        AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):  # not downloaded before
        try:
            hub_model_commit(name)
        except HubUnreachable as error:
            raise LLMError(str(error)) from error
