"""Read transformers models, and turn GGUF files and models of the hub into plain folders. Needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# transformers needs these two to read GGUF files. Imported here, so that a missing one is noticed before the download.
import accelerate  # noqa: F401
import gguf  # noqa: F401
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raggym_env.models.files import check_adapter, check_files, hub_folder

__all__ = ["convert_gguf", "convert_hub", "read_model", "unquantised"]


def read_model(path: str | Path, file: str | None, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """Load the model and tokenizer of a folder; `file` names the GGUF file in the folder, if any.

    Raises:
        UnsafeFiles: The weights are in neither a GGUF file nor safetensors files.
    """
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    if file:
        check_adapter(Path(path))
        options["gguf_file"] = file
    else:
        check_files(Path(path))
    tokenizer = AutoTokenizer.from_pretrained(path, **options)
    if not file:
        options["use_safetensors"] = True
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options), tokenizer


def unquantised(model: Any, dtype: torch.dtype) -> Any:
    """Return a plain copy of a model read from a GGUF file. The model itself must not be used afterwards."""
    # transformers marks such a model as quantised, although its weights no longer are, and refuses to save it.
    del model.config.quantization_config
    automatic: Any = AutoModelForCausalLM  # its methods are not typed
    plain = automatic.from_config(model.config, dtype=dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain.eval()


def convert_gguf(file: Path, target: Path) -> None:
    """Write a GGUF file as a plain folder, which loads in a tenth of the time."""
    model, tokenizer = read_model(file.parent, file.name, torch.float32)
    # The weights have 4 bits of precision, and float16 takes half the disk of float32.
    unquantised(model, torch.float16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def convert_hub(name: str, target: Path) -> None:
    """Write a model of the hub as a plain folder, in the dtype that it has there.

    Raises:
        HubUnreachable: The hub cannot be reached or has no such model.
        UnsafeFiles: The model has no safetensors weights.
    """
    model, tokenizer = read_model(hub_folder(name), None, "auto")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
