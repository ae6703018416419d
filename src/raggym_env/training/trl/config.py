"""The configuration that all trainers share, and its conversion to TRL's and PEFT's.

Options have the names that TRL and transformers give them. All others are passed through: `trl={...}` to TRL's
configuration of the trainer and `lora={...}` to PEFT's `LoraConfig`. Both are checked before any data is read.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from raggym_env.errors import MissingExtra, OptionError, check_option
from raggym_env.training.trl.lm import quiet

try:
    import peft
    import torch
    import trl as _trl

    from raggym_env.llm.hf.adapters import split_name
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["EvalSpec", "PairConfig", "TrainingConfig", "lora_config", "trl", "trl_config"]

trl: Any = _trl  # resolves its names at run time, so a type checker sees none

Json = dict[str, Any]
Task = Literal["CAUSAL_LM", "SEQ_CLS"]

# The least value of every option that is a whole number. NumPy refuses negative seeds.
_LEAST = {"max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "max_length": 1}
_SPLITS = ("tokens_per_batch", "share_prefix")
_LEAST |= {"limit": 1, "save_steps": 1, "lora_rank": 0, "seed": 0, "tokens_per_batch": 1}


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Model, data and optimisation of a training. None leaves a value to the trainer and the device."""

    model: str = "smollm2"
    """Model to train, as for `hf.load`: a name, a folder, a .gguf file. `MODEL+ADAPTER` continues a LoRA adapter."""
    max_steps: int | None = None
    """Number of weight updates. Excludes `num_train_epochs`."""
    num_train_epochs: float | None = None
    """Passes over the rows; by default 1."""
    learning_rate: float | None = None
    """Peak learning rate: it rises linearly over the first 5 % of the steps, then falls along a cosine."""
    per_device_train_batch_size: int | None = None
    """Rows in one forward pass. By default 1 on a CPU, and more on a GPU, depending on the trainer."""
    tokens_per_batch: int | None = None
    """Split each batch into forward passes of at most so many tokens, padding included; a longer row is a pass of its
    own. The batch is then by default all rows of a weight update. On a CPU the rows of a pass are one sequence without
    padding, and the prompt of a DPO pair is computed once, if the attention allows it. Not for GRPO and RLOO."""
    share_prefix: bool = False
    """Compute tokens that rows have in common once: the beginning of all prompts once per batch, the prompt of a DPO
    pair once for both replies. Loss and gradient are the same up to rounding. `tokens_per_batch`, by default
    `max_length`, then counts the other tokens. For SFT and DPO on one device, without gradient checkpointing."""
    gradient_accumulation_steps: int | None = None
    """Batches per weight update. By default as many as make an update use 16 rows."""
    max_length: int = 2048
    """Maximum number of tokens of a prompt with its reply. Longer rows are dropped and counted: a cut row would teach
    the model to stop early."""
    lora_rank: int = 16
    """Rank of a new LoRA adapter on all linear layers; 0 trains all weights. An adapter that is continued keeps its
    own rank."""
    seed: int = 0
    """Seed of the data order, dropout, new weights and every sample drawn."""
    limit: int | None = None
    """Use the first `limit` trajectories of each collection only; None uses all."""
    save_steps: int = 50
    """Weight updates between checkpoints, which an interrupted training is resumed from."""
    device: str = "auto"
    """"cpu", or "auto" for the GPU if there is one."""
    dtype: str = "auto"
    """Precision of the computation: "float32", "bfloat16", or "auto" for bfloat16 on GPUs that support it. Weights that
    are trained stay in float32; those frozen below an adapter are in bfloat16 if that is asked for by name. A CPU with
    AVX-512 BF16 or AMX then trains about twice as fast."""
    trl: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of TRL's configuration, e.g. `{"weight_decay": 0.01}` for `trl.SFTConfig`."""
    lora: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `peft.LoraConfig` for a new adapter, e.g. `{"lora_dropout": 0.05}`."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            valid = value is None or (isinstance(value, int) and value >= least)
            check_option(name, value, valid, f"a whole number of at least {least}")
        for name in ("learning_rate", "num_train_epochs"):
            value = getattr(self, name)
            valid = value is None or (isinstance(value, int | float) and value > 0)
            check_option(name, value, valid, "a number above 0")
        check_option("share_prefix", self.share_prefix, isinstance(self.share_prefix, bool), "true or false")
        check_option("device", self.device, self.device in ("auto", "cpu"), "auto or cpu")
        check_option("dtype", self.dtype, self.dtype in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16")
        if self.max_steps is not None and self.num_train_epochs is not None:
            raise OptionError(
                f"Give max_steps or num_train_epochs, not both: got {self.max_steps} and {self.num_train_epochs}."
            )
        for name in ("trl", "lora"):
            options = getattr(self, name)
            check_option(name, options, _is_json(options), "a dictionary of JSON values, because the recipe records it")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> TrainingConfig:
        """Return the configuration with some fields set by name; "trl.NAME" and "lora.NAME" set single arguments.

        Raises:
            OptionError: No field has that name, or a value is out of range.
        """
        groups: Json = {"trl": {}, "lora": {}}
        values: Json = {}
        for key, value in settings.items():
            group, dot, name = key.partition(".")
            if dot and group in groups:
                groups[group][name] = value
            else:
                values[key] = value
        reserved = {group: f"set its arguments one by one, as {group}.NAME" for group in groups}
        _check_names("TrainingConfig", values, [spec.name for spec in fields(cls)], reserved)
        return cls(**values, **groups)

    @property
    def on_cpu(self) -> bool:
        """True if training runs on the CPU."""
        return self.device == "cpu" or not torch.cuda.is_available()

    def identity(self) -> Json:
        """Return the options that a recipe records as its identity.

        Device and checkpoint interval are left out, since they may change when a training is resumed; so is the
        model's name, since the recipe identifies the model by its weights.
        """
        options = {name: value for name, value in asdict(self).items() if name not in ("device", "save_steps", "model")}
        # Left out while they are off, so that a training begun before they existed can be resumed.
        return {name: value for name, value in options.items() if value or name not in _SPLITS}

    @property
    def base_dtype(self) -> Literal["float32", "bfloat16"]:
        """The dtype of the frozen weights below an adapter. Weights that are trained stay in float32."""
        # In float32, autocast would convert them again in every pass.
        return "bfloat16" if self.dtype == "bfloat16" and self.lora_rank else "float32"

    def with_defaults(self, *, learning_rate: float, batch_size: int, rows_per_step: int = 16) -> TrainingConfig:
        """Return the configuration with a trainer's defaults filled in.

        Args:
            learning_rate: Default for an adapter; all weights learn at a tenth of it.
            batch_size: Default on a GPU. On a CPU it is 1, since larger batches are no faster there and pad more.
            rows_per_step: Rows per weight update, unless `gradient_accumulation_steps` is given.
        """
        budget = self.tokens_per_batch or (self.max_length if self.share_prefix else None)
        if budget is not None:
            batch_size = self.per_device_train_batch_size or rows_per_step
        else:
            batch_size = self.per_device_train_batch_size or (1 if self.on_cpu else batch_size)
        one_epoch = self.max_steps is None and self.num_train_epochs is None
        return replace(
            self,
            num_train_epochs=1.0 if one_epoch else self.num_train_epochs,
            learning_rate=self.learning_rate or (learning_rate if self.lora_rank else learning_rate / 10),
            per_device_train_batch_size=batch_size,
            tokens_per_batch=budget,
            gradient_accumulation_steps=self.gradient_accumulation_steps or max(1, rows_per_step // batch_size),
        )


@dataclass(frozen=True, slots=True)
class PairConfig:
    """Which pairs of a state's candidates are learned from; see `process_data.rows`."""

    count: int = 1
    """Maximum number of pairs per state, at least 1."""
    margin: float = 0.05
    """Least difference between the two scores, above 0."""
    outcome_weight: float = 0.0
    """Weight of an answer's outcome, which is added to its score; see `rows.graded`."""
    balance: bool = False
    """For DPO: as many pairs that prefer a search as pairs that prefer an answer; see `rows.preference_rows`."""

    def identity(self) -> Json:
        """Return what a recipe records; without `balance` as before that option existed."""
        return {name: value for name, value in asdict(self).items() if name != "balance" or value}


@dataclass(frozen=True, slots=True)
class EvalSpec:
    """An evaluation before and after training. The fields are arguments of `raggym_env.evaluation.evaluate`."""

    env: str
    """Environment: an id, or the path of a card."""
    split: str = "test"
    limit: int | None = 50
    """Use the first `limit` questions only; None uses all."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the cards by dotted key, e.g. `{"retrieval.k": 3}`."""


def _is_json(options: object) -> bool:
    """True for a dictionary that compares equal to itself after JSON, as it must when a training is resumed."""
    try:
        return isinstance(options, Mapping) and json.loads(json.dumps(options, allow_nan=False)) == options
    except (TypeError, ValueError):
        return False


# For whose trainers `passes` splits batches, and shares tokens.
_SPLIT, _SHARE = ("SFTConfig", "DPOConfig", "RewardConfig"), ("SFTConfig", "DPOConfig")
_RESUME = "an interrupted training could not be resumed, or not with the same result"
_RESERVED = {
    # Checkpoints: where they are, when they are written, what is in them and how a training starts from one.
    **dict.fromkeys(("output_dir", "save_strategy", "save_total_limit", "save_only_model"), _RESUME),
    **dict.fromkeys(("resume_from_checkpoint", "ignore_data_skip", "load_best_model_at_end"), _RESUME),
    **dict.fromkeys(("restore_callback_states_from_checkpoint", "enable_jit_checkpoint"), _RESUME),
    # Checkpoints do not hold the moving reference model.
    "sync_ref_model": _RESUME,
    # It lowers the batch size when memory runs out, so a resumed training would see the rows in another order.
    "auto_find_batch_size": _RESUME,
    **dict.fromkeys(("bf16", "fp16"), "use the option dtype"),
    "use_cpu": "use the option device",
}


def trl_config(name: str, config: TrainingConfig, out: str | Path, **values: Any) -> Any:
    """Return TRL's configuration object of the class `name`, such as "SFTConfig", for a training in the folder `out`.

    `config` has the trainer's defaults filled in. Its field `trl` may replace values that are set here for all
    trainers, such as `lr_scheduler_type`, but not `values`, the arguments that this trainer sets itself.

    Raises:
        OptionError: An option in `config.trl` is reserved, or TRL's class does not have it or refuses its value.
    """
    kind = getattr(trl, name)
    for option, kinds in (("share_prefix", _SHARE), ("tokens_per_batch", _SPLIT)):
        if getattr(config, option) and name not in kinds:
            raise OptionError(f"{option} = {getattr(config, option)} has no effect with {name}. Remove it.")
    ours = {spec.name: f"use the option {spec.name} outside of trl" for spec in fields(TrainingConfig)}
    reserved = {**ours, **dict.fromkeys(values, "the trainer sets it from its own arguments"), **_RESERVED}
    _check_names(f"trl.{name}", config.trl, [spec.name for spec in fields(kind)], reserved)
    shared = {
        "output_dir": str(Path(out) / "checkpoints"),
        "max_steps": config.max_steps or -1,  # -1 leaves it to the epochs
        "num_train_epochs": config.num_train_epochs or 1.0,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        # A number below 1 is a share of the steps. Below 20 steps even one of warm-up would be too many.
        "warmup_steps": 0.05 if (config.max_steps or 20) >= 20 else 0,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "per_device_eval_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        # Computes activations twice to save memory, of which a CPU has enough.
        "gradient_checkpointing": not config.on_cpu and not config.share_prefix,
        "bf16": config.dtype == "bfloat16"
        or (config.dtype == "auto" and not config.on_cpu and torch.cuda.is_bf16_supported()),
        "use_cpu": config.on_cpu,
        "dataloader_pin_memory": not config.on_cpu,
        "seed": config.seed,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": 2,  # the newest may be incomplete if the process is killed while writing it
        "report_to": "none",  # `fit` adds TensorBoard itself, in a folder that survives a resumed training
        "disable_tqdm": True,
    }
    args = _construct(kind, {**shared, **config.trl, **values}, "trl", config.trl)
    if config.share_prefix and (args.gradient_checkpointing or args.world_size > 1):
        raise OptionError("share_prefix needs a training on one device without gradient_checkpointing. Remove one.")
    return args


def lora_config(config: TrainingConfig, task: Task = "CAUSAL_LM") -> Any:
    """Return PEFT's configuration of a new adapter, or None if all weights are trained or an adapter is continued.

    Raises:
        OptionError: An option in `config.lora` is unknown, refused by PEFT or reserved, or would have no effect.
    """
    if config.lora_rank == 0 or split_name(config.model)[1] is not None:
        if config.lora:
            raise OptionError(
                f"lora configures a new adapter, but with lora_rank = {config.lora_rank} and model = {config.model!r} "
                f"there is none. Remove {sorted(config.lora)}."
            )
        return None
    reserved = {
        "r": "use the option lora_rank",
        **dict.fromkeys(("task_type", "inference_mode", "base_model_name_or_path"), "raggym-env sets it"),
    }
    _check_names("peft.LoraConfig", config.lora, [spec.name for spec in fields(peft.LoraConfig)], reserved)
    # alpha / r = 2 scales the update as in most published recipes, whatever the rank.
    values = {"r": config.lora_rank, "lora_alpha": 2 * config.lora_rank, "target_modules": "all-linear"}
    return _construct(peft.LoraConfig, {**values, **config.lora, "task_type": task}, "lora", config.lora)


def _check_names(kind: str, options: Mapping[str, Any], valid: list[str], reserved: Mapping[str, str]) -> None:
    for name in options:
        if name in reserved:
            raise OptionError(f"{kind}: {name} cannot be passed through: {reserved[name]}.")
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else " See the documentation of that class."
            raise OptionError(f"{kind} has no option {name!r}.{hint}")


def _construct(kind: Any, values: Json, option: str, options: Mapping[str, Any]) -> Any:
    try:
        with quiet():  # transformers warns of arguments that newer versions have renamed
            return kind(**values)
    except (TypeError, ValueError) as error:
        if not options:  # then the values are all ours, and so is the fault
            raise
        raise OptionError(f"{kind.__name__} refuses {option} = {dict(options)}: {error}") from error
