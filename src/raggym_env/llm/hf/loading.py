"""Finding and loading transformers models: the cache, a folder, a GGUF file, the hub, in this order.

A name may end in `+ADAPTER`: a LoRA adapter that is merged into the model; see `_adapters`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from raggym_env.errors import LLMError
from raggym_env.llm.hf.adapters import adapter_folder, merged, split_name
from raggym_env.models import catalogue
from raggym_env.models.convert import read_model, require_on_hub, unquantised

__all__ = ["Device", "Dtype", "load_parts", "plain_model"]

Device = str
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

# `_chat.plain_template` in Jinja, with an end to what the assistant says, which is what a model learns to stop by.
_PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def load_parts(name: str, device: Device = "auto", dtype: Dtype = "auto") -> tuple[Any, Any]:
    """The model, on its device, and the tokenizer. Arguments and errors as for `hf.load`."""
    where = _device(device)
    model, tokenizer = _load(name, _dtype(dtype, where))
    try:
        return model.to(where), tokenizer
    except torch.OutOfMemoryError as error:
        raise LLMError(f"The model {name!r} does not fit on {where}: {error}") from error


def plain_model(name: str, dtype: Dtype = "float32") -> tuple[Any, Any]:
    """A model and its tokenizer as trainers want them.

    Args:
        name: As for `hf.load`. With `+ADAPTER`, training goes on from the merged weights.
        dtype: Of the weights. Training in less than float32 rounds small updates away, unless a LoRA adapter of
            float32 is trained on top.

    Returns:
        model: A causal language model on the CPU, all of its weights trainable, that can be saved and given to PEFT:
            nothing in it says that it was read from a GGUF file or had an adapter.
        tokenizer: It has a chat template, the `plain_template` of prompts if it came with none, and a padding token,
            which is the end token if it came with none.

    Raises:
        LLMError: The model cannot be had, or its weights are quantised.
    """
    precision = _dtype(dtype, torch.device("cpu"))
    model, tokenizer = _load(name, precision)
    if getattr(model.config, "quantization_config", None) is not None:
        if not _is_gguf(model):
            raise LLMError(f"The weights of {name!r} are quantised and cannot be trained. Take the original ones.")
        model = unquantised(model, precision)
    model.requires_grad_(True)
    model.config.use_cache = True
    _complete(tokenizer)
    return model, tokenizer


def _is_gguf(model: Any) -> bool:
    found = model.config.quantization_config
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    return str(getattr(method, "value", method)).lower() == "gguf"


def _complete(tokenizer: Any) -> None:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        starts = tokenizer.bos_token_id in tokenizer("")["input_ids"] and tokenizer.bos_token_id is not None
        tokenizer.chat_template = ("{{ bos_token }}" if starts else "") + _PLAIN_TEMPLATE


def _load(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    base, adapter = split_name(name)
    folder = None if adapter is None else adapter_folder(adapter)
    path, file = _find(base)
    try:
        model, tokenizer = read_model(path, file, dtype if folder is None else torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise LLMError(f"The model {base!r}, read from {path}, cannot be loaded: {error}") from error
    return (model if folder is None else _in(dtype, merged(model, folder, base))), tokenizer


def _in(dtype: torch.dtype, model: Any) -> Any:
    """The model with its weights in a dtype. Buffers, such as rotary frequencies, stay exact, as when it is loaded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model


def _find(name: str) -> tuple[str, str | None]:
    """What to pass to transformers: a folder or hub name, and the GGUF file in it, if it is one."""
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
    return _on_hub(name), None


def _on_hub(name: str) -> str:
    tried = [
        f"in the cache: known are {', '.join(sorted(catalogue.MODELS))} (raggym models get NAME)",
        "as a folder with a config.json or as a .gguf file: there is none",
    ]
    try:
        require_on_hub(name)
    except LLMError as error:
        tried.append(f"on the hub: {error} (hf download OWNER/NAME, where there is a network)")
        raise LLMError(f"No model {name!r}. Looked {'; '.join(tried)}.") from error
    return name


def _device(device: Device) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise LLMError(f"device must be auto or a torch device such as cpu or cuda:1, got {device!r}.") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise LLMError(f"device={device!r} was asked for, but torch sees no GPU here. Use device='cpu'.")
    return where


def _dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        return _fast_dtype(device)
    if dtype not in known:
        raise LLMError(f"dtype must be auto or one of {', '.join(known)}, got {dtype!r}.")
    return known[dtype]


def _fast_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_computes_bfloat16() else torch.float32


def _cpu_computes_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself. There it prefills 2.8 times as fast as float32 (135 M
    parameters, one core with AVX-512 BF16) and decodes alike; elsewhere it is emulated and slower."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
