"""Process reward by a sequence-classification model with one output, such as one trained on process data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, State
from raggym_env.errors import LLMError, MissingExtra, RAGGymError, RewardError, check_option
from raggym_env.llm.hf.batching import MIN_PREFIX, Tokens, common_prefix, runs
from raggym_env.models.files import check_files
from raggym_env.network.urls import is_hub_name
from raggym_env.storage.parsing import parse_json, read_file
from raggym_env.text.state_chat import ACTION_TOKENS, encode, fitted, render, shortened

try:
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from raggym_env.llm.hf.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_folder, split_name
    from raggym_env.llm.hf.engine import Engine, unsupported
    from raggym_env.llm.hf.loading import Dtype, context_length, resolve_device, resolve_dtype
    from raggym_env.llm.hf.names import find_model
except ImportError as error:
    raise MissingExtra("The 'model' process reward", "llm") from error

__all__ = ["ModelReward", "load"]

_BUDGET = {"cuda": 65_536, "cpu": 8_192}
# What transformers calls the last layer of a sequence classifier.
_HEADS = ("score", "classifier")


class ModelReward:
    """Scores a state and an action by a model's one output, a logit; higher is better.

    State and action are rendered by `text.state_chat.render` and tokenized with the model's chat template, as in
    training. For a decoder a state is computed once for all its candidates; an encoder reads state and action together.
    If a state is too long for the context, its oldest passages are left out, never the question, the queries or the
    action. Drafts of searches are not part of the input.

    The zero of a logit depends on the training; pairwise training leaves it open. `offset` is subtracted from it. Set
    it so that a useless step scores below 0, e.g. to the mean over a training set's candidates, and an episode gains
    nothing by padding. Scores are comparable across states as far as the training made them.

    Args:
        path: A folder or the name of a model on the hub, with safetensors weights; or the folder or the name on the
            hub of a LoRA adapter trained for sequence classification, alone or as BASE+ADAPTER if the base model is
            not where the adapter says. No code that comes with a model is ever run.
        device: "auto" is the GPU if there is one. Otherwise a torch device, e.g. "cpu" or "cuda:1".
        dtype: "auto" is bfloat16 if the device computes in it, else float32.
        max_tokens: Tokens of state and action together; None is the model's context.
        action_tokens: Number of these reserved for the action, at least 1.
        history_chars: Show the model the sentences of the passages that matter, in so many characters, at least 1, as
            it was trained with; None shows whole passages. See `text.state_chat.shortened`.
        token_budget: Tokens computed at once, padding included. None is 65,536 on a GPU and 8,192 on a CPU.
        offset: Subtracted from every output.

    Raises:
        RewardError: The model is not a classifier with one trained output, or cannot be loaded.
        LLMError: The model was not found; the message says where it was looked for.
        OptionError: An option is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        max_tokens: int | None = None,
        action_tokens: int = ACTION_TOKENS,
        history_chars: int | None = None,
        token_budget: int | None = None,
        offset: float = 0.0,
    ) -> None:
        check_option("action_tokens", action_tokens, action_tokens >= 1, "at least 1")
        check_option("history_chars", history_chars, history_chars is None or history_chars >= 1, "at least 1")
        check_option("token_budget", token_budget, token_budget is None or token_budget >= 1, "at least 1")
        self.name = str(path)
        self.model, self.tokenizer = load(str(path), device=device, dtype=dtype)
        config = self.model.config
        # Beyond a sliding window, a decoder's shared prefix is not what the model would see.
        context = context_length(config, sliding=_is_decoder(config))
        context = min(context, int(self.tokenizer.model_max_length or context))
        fits = max_tokens is None or action_tokens < max_tokens <= context
        check_option("max_tokens", max_tokens, fits, f"more than action_tokens={action_tokens} and at most {context}")
        self.max_tokens = max_tokens or context
        self.action_tokens = action_tokens
        self.history_chars = history_chars
        self.token_budget = token_budget or _BUDGET["cpu" if self.model.device.type == "cpu" else "cuda"]
        self.offset = offset
        self.computed = 0
        """Tokens computed so far, without padding."""
        self._padding: int | None = config.get_text_config().pad_token_id
        self._engine = Engine(self.model.base_model, self.token_budget, headless=True)
        # The engine needs plain attention, and a head that is applied to the last hidden state alone.
        self._shares_prefixes = (
            _is_decoder(config)
            and isinstance(getattr(self.model, "score", None), torch.nn.Linear)
            and not unsupported(self.model.base_model, headless=True)
        )

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Return one logit per candidate; see `ProcessReward.score`.

        Raises:
            RewardError: A state or an action does not fit into the context, an output is not finite, or the memory
                does not suffice.
        """
        return self._outputs([self._encoded(state, row) for state, row in zip(states, actions, strict=True)])

    def _outputs(self, rows: Sequence[Sequence[Tokens]]) -> list[NDArray[np.float32]]:
        try:
            scores = self._scores([list(dict.fromkeys(row)) for row in rows])
        except torch.OutOfMemoryError as error:
            raise RewardError(
                f"Out of memory with token_budget={self.token_budget}: lower it, or max_tokens. ({error})"
            ) from error
        if not all(np.isfinite(list(scores.values()))):
            raise RewardError(f"{self.name} gave outputs that are not finite. Try dtype='float32'.")
        return [np.array([scores[tokens] for tokens in row], np.float32) for row in rows]

    def _encoded(self, state: State, candidates: Sequence[Action]) -> list[Tokens]:
        if not candidates:
            return []
        state = shortened(state, self.history_chars)
        state = fitted(self.tokenizer, state, self.max_tokens, self.action_tokens)
        row = [encode(self.tokenizer, render(state, action)) for action in candidates]
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
            prefix = 0
            if self._shares_prefixes and len(row) > 1:
                # The token that the output is read at must come after the prefix.
                prefix = min(common_prefix(row), *(self._last(tokens) for tokens in row))
            if prefix >= MIN_PREFIX:
                shared.append((prefix, row))
            else:
                alone += row
        scores: dict[Tokens, float] = {}
        # Longest first, so that rows of similar length are batched and little is padding.
        shared.sort(key=lambda pair: -pair[0])
        sizes = [prefix + sum(len(tokens) - prefix for tokens in row) for prefix, row in shared]
        for cut in runs(sizes, self.token_budget):
            scores |= self._scores_by_prefix(shared[cut])
        alone.sort(key=len, reverse=True)
        # Without a padding token the model cannot tell where the shorter texts of a batch end.
        budget = 1 if self._padding is None else self.token_budget
        for cut in runs([len(tokens) for tokens in alone], budget):
            batch = alone[cut]
            width, fill = len(batch[0]), self._padding or 0
            ids = self._tensor([[*tokens, *[fill] * (width - len(tokens))] for tokens in batch])
            mask = self._tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in batch])
            outputs = self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
            scores.update(zip(batch, outputs, strict=True))
            self.computed += sum(map(len, batch))
        return {tokens: value - self.offset for tokens, value in scores.items()}

    def _scores_by_prefix(self, shared: Sequence[tuple[int, Sequence[Tokens]]]) -> dict[Tokens, float]:
        """Return the outputs for the candidates of some states, given with the length of each state's prefix."""
        branches = [[tokens[prefix : self._last(tokens) + 1] for tokens in row] for prefix, row in shared]
        prompts = self._engine.prefill([row[0][:prefix] for prefix, row in shared])
        ends = torch.cat(self._engine.branch_ends(prompts, branches))
        outputs = self.model.score(ends)[:, 0].float().tolist()
        self.computed += sum(prefix for prefix, _ in shared) + sum(len(tokens) for row in branches for tokens in row)
        return dict(zip([tokens for _, row in shared for tokens in row], outputs, strict=True))

    def _last(self, tokens: Tokens) -> int:
        """Return where transformers reads a decoder's output: at the last token that is not the padding token."""
        return next((at for at in reversed(range(len(tokens))) if tokens[at] != self._padding), 0)

    def _tensor(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(rows, device=self.model.device)


def load(path: str, *, device: str = "auto", dtype: Dtype = "auto") -> tuple[Any, Any]:
    """Return the classifier, on its device, and its tokenizer. Arguments and errors as for `ModelReward`."""
    target = resolve_device(device)
    precision = resolve_dtype(dtype, target)
    base, adapter = split_name(path)
    if adapter is None and _is_adapter(path):
        base, adapter = "", path
    try:
        model, tokenizer = _read(base, precision) if adapter is None else _read_adapter(adapter, base, precision)
        config = model.config.get_text_config()
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return model.to(target).eval(), tokenizer
    except RAGGymError:
        raise
    except Exception as error:  # damaged files end in errors of any class, from tokenizers in a bare Exception
        raise RewardError(f"The reward model {path!r} cannot be loaded: {error}") from error


def _read(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    source, gguf = find_model(name)
    if gguf:
        raise RewardError(f"{name} is a GGUF file, which holds no classifier. Pass a folder with safetensors.")
    check_files(Path(source))
    _require_one_output(name, AutoConfig.from_pretrained(source, trust_remote_code=False).num_labels)
    model, missing = _classifier(source, dtype)
    # transformers initializes a missing head at random and only warns.
    if untrained := _heads(missing):
        raise RewardError(
            f"{name} is not a reward model: its weights lack {', '.join(sorted(untrained))}. Train one on it first."
        )
    return model, AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _is_adapter(name: str) -> bool:
    """Return whether a name is that of an adapter's folder, or of one on the hub, which is downloaded for that."""
    folder = Path(name).expanduser()
    if not folder.exists() and is_hub_name(name):
        folder = Path(find_model(name)[0])
    return (folder / ADAPTER_CONFIG).is_file()


def _read_adapter(path: str, base: str, dtype: torch.dtype) -> tuple[Any, Any]:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtra("A PEFT adapter as reward model", "train") from error

    try:
        folder = adapter_folder(path)
    except LLMError as error:
        raise RewardError(f"{path} is not an adapter that can be read: {error}") from error
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as weights:
        outputs = [weights.get_slice(name).get_shape()[0] for name in _heads(weights.keys())]
    if not outputs:
        raise RewardError(
            f"{path} is not a reward model: the adapter brings no {' or '.join(_HEADS)} layer. Train it with PEFT's "
            "task_type SEQ_CLS."
        )
    _require_one_output(path, outputs[0])
    source, _ = find_model(base or _base_name(folder, path))
    check_files(Path(source))
    # The base has no trained head, of which transformers warns: the adapter brings it.
    with _errors_only():
        model, _ = _classifier(source, dtype)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(str(folder) if has_tokenizer else source, trust_remote_code=False)
    # Before the merge, as the trained adapter's outputs were read with its tokenizer's padding token.
    if tokenizer.pad_token_id is not None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    with warnings.catch_warnings():
        # PEFT reads an attribute of transformers by a name that its newest version deprecates.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload(), tokenizer


def _base_name(folder: Path, adapter: str) -> str:
    config = parse_json(read_file(folder / ADAPTER_CONFIG))
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(name, str) or not name:
        raise RewardError(f"{folder / ADAPTER_CONFIG} names no base model. Name it: BASE+{adapter}")
    # An adapter of the hub is a stranger's: it must not choose among the folders of this machine.
    if not Path(adapter).expanduser().is_dir() and not is_hub_name(name):
        problem = f"names {name!r:.100} as its base, which is no model of the hub"
        raise RewardError(f"{adapter} {problem}. Name it: BASE+{adapter}")
    return name


@contextmanager
def _errors_only() -> Iterator[None]:
    """Suppress the warnings of transformers."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _classifier(source: str, dtype: torch.dtype) -> tuple[Any, Iterable[str]]:
    """Return the model, and the names of the tensors that its weights file lacks."""
    model, report = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    return model, report["missing_keys"]


def _heads(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith("weight") and set(name.split(".")) & set(_HEADS)]


def _require_one_output(name: str, outputs: int) -> None:
    if outputs != 1:
        raise RewardError(
            f"{name} has {outputs} outputs, and a reward model has one (num_labels = 1). A causal language model "
            "counts as one of two: train a reward model on it first."
        )


def _is_decoder(config: Any) -> bool:
    return not config.is_encoder_decoder and not getattr(config, "use_bidirectional_attention", False)
