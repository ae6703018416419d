"""Process reward by a sequence-classification model with one output, such as one trained on process data."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, State
from raggym_env.errors import MissingExtra, OptionError, RAGGymError, RewardError
from raggym_env.llm.hf.batching import MIN_PREFIX, Tokens, common_prefix, runs
from raggym_env.text.state_chat import ACTION_TOKENS, encode, fitted, render

try:
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging as messages

    from raggym_env.llm.hf import loading as _loading
    from raggym_env.llm.hf.adapters import split_name
    from raggym_env.llm.hf.kv_cache import new_cache
except ImportError as error:
    raise MissingExtra("The 'model' process reward", "llm") from error

__all__ = ["ModelReward", "load"]

_BUDGET = {"cuda": 65_536, "cpu": 8_192}
_ADAPTER = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_HEADS = ("score", "classifier")
"""What transformers calls the last layer of a sequence classifier."""


class ModelReward:
    """Scores a state and an action by a model's one output: a logit, higher is better.

    State and action are rendered by `rewards.text.render` and tokenised by the model's chat template, the same as in
    training. The state is computed once for all its candidates where the model is a decoder; an encoder reads
    state and action whole. Of a state that is too long for the context the oldest passages are left out, never the
    question, the queries or the action. Drafts of searches are not seen.

    A logit's level means what training made it mean; pairwise training leaves it open. `offset` is subtracted from
    it. Set it so that a step that is no help scores below 0, e.g. to the mean over a training set's candidates, and
    an episode cannot be padded for gain. Scores compare across states as far as the training made them.

    Args:
        path: A folder or the name of a model on the hub, with safetensors weights; or the folder of a PEFT adapter
            that was trained for sequence classification, alone or as BASE+FOLDER where the base model is not where
            the adapter says. No code that comes with a model is ever run.
        device: "auto" is the GPU if there is one. Otherwise a torch device, e.g. "cpu" or "cuda:1".
        dtype: "auto" is bfloat16 where the device computes in it, else float32.
        max_tokens: Tokens of state and action together; None is the model's context.
        action_tokens: How many of them are kept for the action, at least 1.
        token_budget: Tokens that are computed at once, padding included. None is 65,536 on a GPU and 8,192 on a CPU.
        offset: Subtracted from every output.

    Raises:
        RewardError: It is no classifier with one trained output, or cannot be loaded.
        LLMError: There is no such model; the message says what was tried.
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: _loading.Dtype = "auto",
        max_tokens: int | None = None,
        action_tokens: int = ACTION_TOKENS,
        token_budget: int | None = None,
        offset: float = 0.0,
    ) -> None:
        for name, value in (("action_tokens", action_tokens), ("token_budget", token_budget)):
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}.")
        self.name = str(path)
        self.model, self.tokenizer = load(str(path), device=device, dtype=dtype)
        context = _context(self.model.config, self.tokenizer)
        if max_tokens is not None and not action_tokens < max_tokens <= context:
            raise OptionError(
                f"max_tokens must be more than action_tokens={action_tokens} and at most {context}, got {max_tokens}."
            )
        self.max_tokens = max_tokens or context
        self.action_tokens = action_tokens
        self.token_budget = token_budget or _BUDGET["cpu" if self.model.device.type == "cpu" else "cuda"]
        self.offset = offset
        self.computed = 0
        """Tokens computed so far, without padding."""
        self._shares = _shares_prefixes(self.model)

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """One logit per candidate; see `ProcessReward.score`.

        Raises:
            RewardError: A state or an action does not fit into the context, an output is no number, or the memory
                does not suffice.
        """
        rows = [self._encoded(state, candidates) for state, candidates in zip(states, actions, strict=True)]
        try:
            scores = self._scores([list(dict.fromkeys(row)) for row in rows])
        except torch.OutOfMemoryError as error:
            raise RewardError(
                f"Out of memory with token_budget={self.token_budget}: lower it, or max_tokens. ({error})"
            ) from error
        if not all(np.isfinite(list(scores.values()))):
            raise RewardError(f"{self.name} gave outputs that are no numbers. Try dtype='float32'.")
        return [np.array([scores[tokens] for tokens in row], np.float32) for row in rows]

    def _encoded(self, state: State, candidates: Sequence[Action]) -> list[Tokens]:
        if not candidates:
            return []
        shown = fitted(self.tokenizer, state, self.max_tokens, self.action_tokens)
        row = [encode(self.tokenizer, render(shown, action)) for action in candidates]
        for action, tokens in zip(candidates, row, strict=True):
            if len(tokens) > self.max_tokens:
                raise RewardError(
                    f"{action!r:.200} is too long: with the state it has {len(tokens):,} tokens, and max_tokens is "
                    f"{self.max_tokens:,}. Raise action_tokens, now {self.action_tokens}."
                )
        return row

    @torch.inference_mode()
    def _scores(self, rows: Sequence[Sequence[Tokens]]) -> dict[Tokens, float]:
        shared: list[tuple[int, Sequence[Tokens]]] = []
        alone: list[Tokens] = []
        for row in rows:
            prefix = self._prefix(row)
            if prefix:
                shared.append((prefix, row))
            else:
                alone += row
        found: dict[Tokens, float] = {}
        shared.sort(key=lambda each: -each[0])
        for cut in runs([len(row) * max(map(len, row)) for _, row in shared], self.token_budget):
            found |= self._after_prefixes(shared[cut])
        alone.sort(key=len, reverse=True)
        for cut in runs([len(tokens) for tokens in alone], self.token_budget if self._padding else 1):
            found |= self._whole(alone[cut])
        return {tokens: value - self.offset for tokens, value in found.items()}

    def _prefix(self, row: Sequence[Tokens]) -> int:
        """How many tokens of a state's candidates are computed once; 0 if that is not worth while."""
        if len(row) < 2 or not self._shares:
            return 0
        # What is read off must come after the prefix.
        prefix = min(common_prefix(row), *(self._last(tokens) for tokens in row))
        return prefix if prefix >= MIN_PREFIX else 0

    def _after_prefixes(self, shared: Sequence[tuple[int, Sequence[Tokens]]]) -> dict[Tokens, float]:
        """Scores of the candidates of some states, each state's prefix computed once."""
        cache = new_cache()
        prefixes, seen, lengths = self._padded([row[0][:prefix] for prefix, row in shared])
        base = self.model.base_model
        positions = torch.arange(prefixes.shape[1], device=prefixes.device).expand_as(prefixes)
        base(input_ids=prefixes, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True)

        owners = [owner for owner, (_, row) in enumerate(shared) for _ in row]
        index = torch.tensor(owners, device=prefixes.device)
        cache.batch_select_indices(index)
        candidates = [(prefix, tokens) for prefix, row in shared for tokens in row]
        ids, own, _ = self._padded([tokens[prefix:] for prefix, tokens in candidates])
        hidden = base(
            input_ids=ids,
            attention_mask=torch.cat([seen[index], own], dim=1),
            position_ids=lengths[index, None] + torch.arange(ids.shape[1], device=ids.device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        last = [self._last(tokens) - prefix for prefix, tokens in candidates]
        outputs = self.model.score(hidden[range(len(last)), last])[:, 0].float().tolist()
        return dict(zip([tokens for _, tokens in candidates], outputs, strict=True))

    def _whole(self, sequences: Sequence[Tokens]) -> dict[Tokens, float]:
        ids, seen, _ = self._padded(sequences)
        outputs = self.model(input_ids=ids, attention_mask=seen).logits[:, 0].float().tolist()
        return dict(zip(sequences, outputs, strict=True))

    @property
    def _padding(self) -> int | None:
        padding: int | None = self.model.config.get_text_config().pad_token_id
        return padding

    def _last(self, tokens: Tokens) -> int:
        """Where transformers reads a decoder's output off: at the last token that is not the padding token."""
        return next((at for at in reversed(range(len(tokens))) if tokens[at] != self._padding), 0)

    def _padded(self, sequences: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens padded behind, a mask of what is no padding, and the lengths."""
        width = max(map(len, sequences))
        fill = self._padding or 0
        self.computed += sum(map(len, sequences))
        device = self.model.device
        ids = torch.tensor([[*tokens, *[fill] * (width - len(tokens))] for tokens in sequences], device=device)
        lengths = torch.tensor([len(tokens) for tokens in sequences], device=device)
        return ids, (torch.arange(width, device=device) < lengths[:, None]).long(), lengths


def load(path: str, *, device: str = "auto", dtype: _loading.Dtype = "auto") -> tuple[Any, Any]:
    """The classifier, on its device, and its tokenizer. Arguments and errors as for `ModelReward`."""
    where = _loading.resolve_device(device)
    precision = _loading.resolve_dtype(dtype, where)
    base, adapter = split_name(path)
    if adapter is None and (Path(path).expanduser() / _ADAPTER).is_file():
        base, adapter = "", path
    try:
        model, tokenizer = _read(base, precision) if adapter is None else _read_adapter(adapter, base, precision)
        if model.config.get_text_config().pad_token_id is None:
            padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            model.config.get_text_config().pad_token_id = padding
        return model.to(where).eval(), tokenizer
    except RAGGymError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise RewardError(f"The reward model {path!r} cannot be loaded: {error}") from error


def _read(path: str, dtype: torch.dtype) -> tuple[Any, Any]:
    found, gguf = _loading.find_model(path)
    if gguf:
        raise RewardError(f"{path} is a GGUF file, which holds no classifier. Pass a folder with safetensors.")
    outputs = AutoConfig.from_pretrained(found, trust_remote_code=False).num_labels
    _require_one(path, outputs)
    model, missing = _classifier(found, dtype)
    if lacking := _heads(missing):
        raise RewardError(
            f"{path} is no reward model: its weights lack {', '.join(sorted(lacking))}. Train one on it first."
        )
    return model, AutoTokenizer.from_pretrained(found, trust_remote_code=False)


def _read_adapter(path: str, base: str, dtype: torch.dtype) -> tuple[Any, Any]:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtra("A PEFT adapter as reward model", "train") from error

    folder = Path(path).expanduser()
    if lacking := [name for name in (_ADAPTER, _WEIGHTS) if not (folder / name).is_file()]:
        raise RewardError(f"{path} is no adapter that can be read: it has no {lacking[0]}.")
    with safe_open(folder / _WEIGHTS, framework="pt") as weights:
        heads = [weights.get_slice(name).get_shape()[0] for name in _heads(weights.keys())]
    if not heads:
        raise RewardError(
            f"{path} is no reward model: the adapter brings no {' or '.join(_HEADS)} layer. Train it with PEFT's "
            "task_type SEQ_CLS."
        )
    _require_one(path, heads[0])
    named = base or json.loads((folder / _ADAPTER).read_bytes())["base_model_name_or_path"]
    found, _ = _loading.find_model(named)
    with _quiet():  # the base has no trained head, and need not: the adapter brings it
        model, _ = _classifier(found, dtype)
    own = (folder / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(str(folder) if own else found, trust_remote_code=False)
    if tokenizer.pad_token_id is not None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return PeftModel.from_pretrained(model, str(folder)).merge_and_unload(), tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of transformers."""
    before = messages.get_verbosity()
    messages.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        messages.set_verbosity(before)


def _classifier(path: str, dtype: torch.dtype) -> tuple[Any, Iterable[str]]:
    """The model, and the names of what its weights did not hold."""
    model, about = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=1, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    return model, about["missing_keys"]


def _heads(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith("weight") and set(name.split(".")) & set(_HEADS)]


def _require_one(path: str, outputs: int) -> None:
    if outputs != 1:
        raise RewardError(
            f"{path} has {outputs} outputs, and a reward model has one (num_labels = 1). A causal language model "
            "counts as one of two: train a reward model on it first."
        )


def _context(config: Any, tokenizer: Any) -> int:
    text = config.get_text_config()
    names = ["max_position_embeddings", "n_positions"]
    if getattr(text, "use_sliding_window", True) and _is_decoder(config):
        names.append("sliding_window")  # beyond it, what was computed once is not what the model would see
    limits = [getattr(text, name, None) for name in names]
    return min(int(limit) for limit in (*limits, tokenizer.model_max_length, 1 << 31) if limit)


def _is_decoder(config: Any) -> bool:
    return not config.is_encoder_decoder and not getattr(config, "use_bidirectional_attention", False)


def _shares_prefixes(model: Any) -> bool:
    """Whether it is a decoder with plain attention and a linear head: `score` over the last hidden state."""
    forward: Callable[..., Any] = model.base_model.forward
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or [])
    return (
        _is_decoder(model.config)
        and isinstance(getattr(model, "score", None), torch.nn.Linear)
        and {"position_ids", "past_key_values"} <= inspect.signature(forward).parameters.keys()
        and layers <= {"full_attention", "sliding_attention"}
    )
