"""Read transformers models, and turn GGUF files and models of the hub into plain folders. Needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# transformers needs these two to read GGUF files. Imported here, so that a missing one is noticed before the download.
import accelerate  # noqa: F401
import gguf  # noqa: F401
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raggym_env.network import hub_model_commit, hub_requests

__all__ = ["convert_gguf", "convert_hub", "read_model", "require_on_hub", "unquantised"]


def read_model(path: str | Path, file: str | None, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """Load the model and tokenizer of a folder or hub name; `file` names the GGUF file in the folder, if any."""
    options: dict[str, Any] = {"trust_remote_code": False, **({"gguf_file": file} if file else {})}
    tokenizer = AutoTokenizer.from_pretrained(path, **options)
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
    """
    require_on_hub(name)
    with hub_requests():
        model, tokenizer = read_model(name, None, "auto")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def require_on_hub(name: str) -> None:
    """Raise `HubUnreachable` within seconds if a model was not downloaded before and cannot be downloaded now."""
    try:
        # The cheapest way to learn whether it is in the hub client's cache.
        AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        hub_model_commit(name)
