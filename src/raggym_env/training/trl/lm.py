"""The models that are trained: a plain base, a LoRA adapter on it, and chats as their tokenizer takes them."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2.exceptions import TemplateError

from raggym_env.errors import LLMError, MissingExtra
from raggym_env.protocols import Messages

try:
    import datasets
    import peft
    import torch
    import trl as _trl
    from safetensors import SafetensorError
    from transformers.utils import logging as _logging

    from raggym_env.llm.hf.adapters import adapter_folder, split_name
    from raggym_env.llm.hf.chat import Chat, without_system
    from raggym_env.llm.hf.loading import plain_model
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["Base", "data_set", "load", "quiet", "save", "trainable", "trl"]

trl: Any = _trl  # its names are made at run time, so a type checker knows none
transformers_says: Any = _logging  # not typed

Task = Literal["CAUSAL_LM", "SEQ_CLS"]
Chats = Mapping[str, Sequence[Mapping[str, str]]]


@dataclass(slots=True)
class Base:
    """A model before it is trained, in float32 on the CPU."""

    name: str
    """The plain base, as it was named."""
    model: Any
    tokenizer: Any
    adapter: Path | None = None
    """The LoRA adapter that training goes on with; None to begin a new one."""

    def identity(self) -> dict[str, Any]:
        """What tells it from another: checksums of its weights and of its adapter's."""
        return {
            "base": self.name,
            "weights": _digest(self.model),
            "adapter": None if self.adapter is None else _file_digest(self.adapter / "adapter_model.safetensors"),
        }

    def chat(self, messages: Messages) -> list[dict[str, str]]:
        """The messages so that the tokenizer's template makes of them what `hf:` would.

        Control tokens in a text are taken apart, and a template that refuses system messages gets their text with
        the first message of the user.
        """
        chat = Chat(self.tokenizer, ())
        clean = [{"role": message["role"], "content": chat.defused(message["content"])} for message in messages]
        try:
            self.tokenizer.apply_chat_template(clean)
        except TemplateError:
            return [dict(message) for message in without_system(clean)]
        return clean

    def row(self, row: Chats) -> dict[str, list[dict[str, str]]]:
        """A row with a prompt for TRL, its replies made safe like the prompt."""
        chat = Chat(self.tokenizer, ())
        replies = {
            name: [{"role": said["role"], "content": chat.defused(said["content"])} for said in reply]
            for name, reply in row.items()
            if name != "prompt"
        }
        return {"prompt": self.chat(row["prompt"]), **replies}

    def tokens(self, row: Chats) -> int:
        """Tokens of the longest sequence that a row of TRL makes."""
        prompt = list(row.get("prompt", ()))
        chats = [[*prompt, *chat] for name, chat in row.items() if name != "prompt"] or [prompt]
        return max(len(self.tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]) for chat in chats)


def load(name: str, *, lora: bool = True) -> Base:
    """The model to train.

    Args:
        name: As for `hf.load`. With `+ADAPTER`, training goes on with that adapter, so that what comes out is one
            adapter on the plain base.
        lora: Whether an adapter is trained; if not, one that is named is merged into the base.

    Raises:
        LLMError: The model or the adapter cannot be had.
    """
    base, adapter = split_name(name)
    goes_on = lora and adapter is not None
    with quiet():
        model, tokenizer = plain_model(base if goes_on else name)
    return Base(base, model, tokenizer, adapter_folder(adapter or "")) if goes_on else Base(name, model, tokenizer)


def trainable(base: Base, rank: int, task: Task = "CAUSAL_LM") -> dict[str, Any]:
    """The model as TRL's trainers take it: `model` and, where the trainer is to begin an adapter, `peft_config`.

    Args:
        base: The model.
        rank: Of a new LoRA adapter on all linear layers, scaled by 2; 0 trains all weights.
        task: What the model is for.

    Raises:
        LLMError: The base's adapter does not fit it.
    """
    if base.adapter is not None:
        return {"model": _with_adapter(base, base.adapter)}
    if rank == 0:
        return {"model": base.model}
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task)
    return {"model": base.model, "peft_config": config}


def _with_adapter(base: Base, folder: Path) -> Any:
    try:
        with quiet():
            return peft.PeftModel.from_pretrained(base.model, str(folder), is_trainable=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise LLMError(f"The adapter {folder} does not fit the model {base.name!r}, or is damaged: {error}") from error


def save(model: Any, tokenizer: Any, base: str, folder: Path) -> str:
    """Write what was trained, as safetensors.

    Args:
        model: A PEFT model, of which the adapter is written, or a plain one.
        tokenizer: Its tokenizer.
        base: What an adapter says it is on.
        folder: Where to.

    Returns:
        What `hf:` calls it.
    """
    adapted = isinstance(model, peft.PeftModel)
    if adapted:
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's is an empty form
    return f"{base}+{folder}" if adapted else str(folder)


def data_set(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The rows as TRL takes them, in memory."""
    return datasets.Dataset.from_list(list(rows))


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the libraries tell each other: bars per file and data set, renamed arguments."""
    level, bars = transformers_says.get_verbosity(), datasets.are_progress_bars_disabled()
    loading = transformers_says.is_progress_bar_enabled()
    transformers_says.set_verbosity(logging.ERROR)
    transformers_says.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_says.set_verbosity(level)
        if loading:
            transformers_says.enable_progress_bar()
        if not bars:
            datasets.enable_progress_bars()


def _digest(model: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
