"""The models that are trained: a plain base, a LoRA adapter on it, and chats as their tokenizer takes them."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from raggym_env.errors import LLMError, MissingExtra
from raggym_env.protocols import Messages

try:
    import datasets
    import peft
    import torch
    from safetensors import SafetensorError
    from transformers.utils import logging as _logging

    from raggym_env.llm.hf.adapters import adapter_folder, split_name
    from raggym_env.llm.hf.chat import Chat, without_system
    from raggym_env.llm.hf.loading import Dtype, plain_model
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["Base", "load", "quiet", "save", "trainable"]

transformers_logging: Any = _logging  # not typed

Chats = Mapping[str, Any]
"""A row for TRL: conversations by column, perhaps beside other columns."""

_REPLIES = ("completion", "chosen", "rejected")  # the columns that continue a prompt


@dataclass(slots=True)
class Base:
    """A model before training, in float32 on the CPU."""

    name: str
    """Name of the base model, without an adapter."""
    model: Any
    tokenizer: Any
    adapter: Path | None = None
    """Folder of the LoRA adapter that training continues; None to train a new one, or all weights."""

    def identity(self) -> dict[str, Any]:
        """Return checksums of the weights and of the adapter, which tell the model from any other."""
        # The weights and not the name: a folder or a hub name may come to hold another model.
        digest = hashlib.blake2b(digest_size=16)
        for name, weights in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            # As bytes: NumPy has no bfloat16.
            digest.update(weights.contiguous().view(torch.uint8).numpy().data)
        adapter = None
        if self.adapter is not None:
            with (self.adapter / "adapter_model.safetensors").open("rb") as file:
                adapter = hashlib.file_digest(file, "sha256").hexdigest()
        return {"base": self.name, "weights": digest.hexdigest(), "adapter": adapter}

    def chat(self, messages: Messages) -> list[dict[str, str]]:
        """Return the messages in the form in which the tokenizer's template renders them as `hf:` does.

        Control tokens in a text are broken up. If the template refuses system messages, their text is moved into
        the first message of the user.
        """
        clean = self._defuse(messages)
        # TRL applies the template itself, so the messages must be in a form that it accepts.
        try:
            self.tokenizer.apply_chat_template(clean)
        except TemplateError:
            return [dict(message) for message in without_system(clean)]
        return clean

    def row(self, row: Chats) -> dict[str, list[dict[str, str]]]:
        """Return a row that has a prompt as TRL takes it, with control tokens broken up in prompt and replies."""
        replies = {column: self._defuse(row[column]) for column in _REPLIES if column in row}
        return {"prompt": self.chat(row["prompt"]), **replies}

    def _defuse(self, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        # A passage may contain the text of a control token; the tokenizer would read it as the chat's structure.
        chat = Chat(self.tokenizer, ())
        return [{"role": message["role"], "content": chat.defused(message["content"])} for message in messages]

    def tokens(self, row: Chats) -> int:
        """Return the number of tokens of the longest sequence that TRL makes of a row."""
        prompt = list(row.get("prompt", ()))
        chats = [[*prompt, *row[column]] for column in _REPLIES if column in row] or [prompt]
        return max(len(self.tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]) for chat in chats)


def load(name: str, *, lora: bool = True, dtype: Dtype = "float32") -> Base:
    """Load the model to train and its tokenizer, by a name as for `raggym_env.llm.hf.model.load`.

    With `+ADAPTER` in the name, training continues that adapter, so that the result is one adapter on the plain base.
    Without `lora`, when all weights are trained, it is merged into the base. `dtype` is that of the base's weights; an
    adapter on them is in float32.

    Raises:
        LLMError: The model or the adapter does not exist or cannot be loaded.
    """
    base, adapter = split_name(name)
    if not lora:
        base, adapter = name, None
    with quiet():
        model, tokenizer = plain_model(base, dtype)
    # The adapter is put on in `trainable`: until then the weights are those that `identity` describes.
    return Base(base, model, tokenizer, None if adapter is None else adapter_folder(adapter))


def trainable(base: Base, adapter_config: Any = None) -> dict[str, Any]:
    """Return the arguments `model` and, for a new adapter, `peft_config` of TRL's trainers.

    `adapter_config` is PEFT's for a new adapter; None trains all weights, or continues the base's adapter.

    Raises:
        LLMError: The base's adapter does not fit it.
    """
    if base.adapter is None:
        return {"model": base.model, **({} if adapter_config is None else {"peft_config": adapter_config})}
    try:
        with quiet():
            return {"model": peft.PeftModel.from_pretrained(base.model, str(base.adapter), is_trainable=True)}
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise LLMError(f"Adapter {base.adapter} does not fit the model {base.name!r} or is damaged: {error}") from error


def save(model: Any, tokenizer: Any, base: str, folder: Path) -> str:
    """Write the trained weights as safetensors, with the tokenizer.

    Of a PEFT model only the adapter is written, in which `base`, the name of the base model, is recorded.

    Returns:
        The name by which `hf:` loads the result.
    """
    is_adapter = isinstance(model, peft.PeftModel)
    if is_adapter:
        model.peft_config["default"].base_model_name_or_path = base
        # DPO's frozen reference is a second adapter of the same model: it must not be saved with it.
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template of a model card, with every field empty
    return f"{base}+{folder}" if is_adapter else str(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and notices between the libraries, such as warnings of renamed arguments."""
    level, bars_disabled = transformers_logging.get_verbosity(), datasets.are_progress_bars_disabled()
    bar_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar_enabled:
            transformers_logging.enable_progress_bar()
        if not bars_disabled:
            datasets.enable_progress_bars()
