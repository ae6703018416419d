"""Locates and loads transformers models: in the cache, a folder, a GGUF file or on the hub, in this order.

A name may end in `+ADAPTER`: a LoRA adapter that is merged into the model; see `adapters`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from raggym_env.errors import LLMError, OptionError, RAGGymError, check_option
from raggym_env.llm.hf.adapters import adapter_folder, merged, split_name
from raggym_env.llm.hf.names import find_model
from raggym_env.models.convert import read_model, unquantised

__all__ = ["Dtype", "context_length", "load_parts", "plain_model", "resolve_device", "resolve_dtype"]

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""A torch dtype by name, or "auto"."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# `chat.plain_template` in Jinja, with the end token after each reply, from which a model learns to stop.
_PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def load_parts(name: str, device: str = "auto", dtype: Dtype = "auto") -> tuple[Any, Any]:
    """Return the model, on its device, and the tokenizer. Arguments and errors as for `hf.model.load`."""
    target = resolve_device(device)
    model, tokenizer = _load(name, resolve_dtype(dtype, target))
    try:
        return model.to(target), tokenizer
    except torch.OutOfMemoryError as error:
        raise LLMError(f"The model {name!r} does not fit on {target}: {error}") from error


def plain_model(name: str, dtype: Dtype = "float32") -> tuple[Any, Any]:
    """Return a model and its tokenizer for training.

    Args:
        name: As for `hf.model.load`. With `+ADAPTER`, training starts from the merged weights.
        dtype: The dtype of the weights. Training in less than float32 rounds small updates away, unless a LoRA adapter
            in float32 is trained on top.

    Returns:
        model: A causal language model on the CPU, all of its weights trainable, without a trace of a GGUF file or an
            adapter, so that it can be saved and given to PEFT.
        tokenizer: It has a chat template, by default `plain_template`, and a padding token, by default the end token.

    Raises:
        LLMError: The model cannot be loaded, or its weights are quantised.
    """
    precision = resolve_dtype(dtype, torch.device("cpu"))
    model, tokenizer = _load(name, precision)
    quantization = getattr(model.config, "quantization_config", None)
    if quantization is not None:
        is_dict = isinstance(quantization, dict)
        method = quantization.get("quant_method") if is_dict else getattr(quantization, "quant_method", None)
        # Weights from a GGUF file are dequantised by reading them; those of all other methods are still packed.
        if str(getattr(method, "value", method)).lower() != "gguf":
            raise LLMError(f"The weights of {name!r} are quantised and cannot be trained. Take the original ones.")
        model = unquantised(model, precision)
    model.requires_grad_(True)
    model.config.use_cache = True
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        # Rendering a template adds no start token, which a model that expects one was given by the tokenizer.
        starts = tokenizer.bos_token_id is not None and tokenizer.bos_token_id in tokenizer("")["input_ids"]
        tokenizer.chat_template = ("{{ bos_token }}" if starts else "") + _PLAIN_TEMPLATE
    return model, tokenizer


def _load(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    base, adapter = split_name(name)
    folder = None if adapter is None else adapter_folder(adapter)
    path, file = find_model(base)
    try:
        model, tokenizer = read_model(path, file, dtype if folder is None else torch.float32)
    except RAGGymError:
        raise
    except Exception as error:  # damaged files end in errors of any class, from tokenizers in a bare Exception
        raise LLMError(f"The model {base!r}, read from {path}, cannot be loaded: {error}") from error
    if folder is not None:
        model = merged(model, folder, base)
        # Not `model.to(dtype)`: buffers, such as rotary frequencies, stay exact, as in a model loaded in that dtype.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        model.config.dtype = dtype
    return model, tokenizer


def resolve_device(device: str) -> torch.device:
    """Return the torch device named "cpu", "cuda:1", ...; "auto" is the GPU if there is one. Raises `OptionError`."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"device must be auto or a torch device such as cpu or cuda:1, got {device!r}.") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device={device!r} needs a GPU, and torch sees none on this machine. Use device='cpu'.")
    return resolved


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """Return the torch dtype of a name; "auto" is the fastest that the device computes in. Raises `OptionError`."""
    if dtype != "auto":
        check_option("dtype", dtype, dtype in _DTYPES, f"auto or one of {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # A CPU with bfloat16 instructions prefills 2.8 times as fast in it as in float32 (135 M parameters, one core with
    # AVX-512 BF16) and decodes at the same speed. Other CPUs emulate it and are slower.
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if features.get("avx512_bf16") or features.get("amx_bf16") else torch.float32


def context_length(config: Any, *, sliding: bool = True) -> int:
    """Return how many tokens a model can attend to: the smallest limit in its configuration."""
    # `sliding` includes a sliding attention window. It must be included where a prefix is shared: the masks for that
    # know no window, and up to the window's length there is no difference.
    config = config.get_text_config(decoder=True)
    names = ["max_position_embeddings", "n_positions"]
    if sliding and getattr(config, "use_sliding_window", True):
        names.append("sliding_window")
    limits = [getattr(config, name, None) for name in names]
    return min((int(limit) for limit in limits if limit), default=1 << 31)
