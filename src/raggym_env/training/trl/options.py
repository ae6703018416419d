"""The options that all trainings share, and how TRL is told them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from raggym_env.errors import MissingExtra, OptionError

try:
    import torch
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["Exam", "Options", "Pairs", "arguments"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """What all trainings share. None leaves a value to the kind of training and to the device."""

    model: str = "smollm2"
    """As for `hf.load`; with `+ADAPTER`, training goes on with that adapter."""
    steps: int | None = None
    """Updates of the weights, instead of `epochs`."""
    epochs: float | None = None
    """Passes over the rows; by default 1."""
    lr: float | None = None
    """Highest learning rate; it rises over the first twentieth of the steps and falls along a cosine."""
    batch: int | None = None
    """Rows computed at once."""
    accumulate: int | None = None
    """Batches per step. By default so many that a step is over 16 rows."""
    max_length: int = 2048
    """Tokens of a prompt with its reply. Longer rows are left out and counted: cut, they would teach to stop early."""
    lora_rank: int = 16
    """Of a new adapter on all linear layers; 0 trains all weights. An adapter that is gone on with keeps its own."""
    seed: int = 0
    limit: int | None = None
    """Take the first `limit` trajectories only."""
    save_every: int = 50
    """Steps between checkpoints."""
    device: str = "auto"
    """"auto" is the GPU if there is one, or "cpu"."""
    dtype: str = "auto"
    """What is computed in, while weights stay in float32: "auto" is bfloat16 on a GPU that can, else "float32". A CPU
    with AVX-512 BF16 or AMX trains 1.6 times as fast in "bfloat16"."""

    def __post_init__(self) -> None:
        whole = {name: getattr(self, name) for name in ("steps", "batch", "accumulate", "limit")}
        for name, value in {**whole, "max_length": self.max_length, "save_every": self.save_every}.items():
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}.")
        for name, number in (("lr", self.lr), ("epochs", self.epochs)):
            if number is not None and not number > 0:
                raise OptionError(f"{name} must be above 0, got {number}.")
        if self.lora_rank < 0:
            raise OptionError(f"lora_rank must be 0 or more, got {self.lora_rank}.")
        if self.steps is not None and self.epochs is not None:
            raise OptionError(f"Give steps or epochs, not both: got {self.steps} and {self.epochs}.")
        if self.device not in ("auto", "cpu"):
            raise OptionError(f"device must be auto or cpu, got {self.device!r}.")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise OptionError(f"dtype must be auto, float32 or bfloat16, got {self.dtype!r}.")

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu" or not torch.cuda.is_available()

    def identity(self) -> Json:
        """The options as part of a recipe: where it is trained and how often it is saved do not matter."""
        chosen = asdict(self)
        return {name: value for name, value in chosen.items() if name not in ("device", "save_every", "model")}

    @property
    def in_bfloat16(self) -> bool:
        able = not self.on_cpu and torch.cuda.is_bf16_supported()
        return self.dtype == "bfloat16" or (self.dtype == "auto" and able)

    def filled(self, lr: float, batch: int, rows: int = 16) -> Options:
        """With the defaults of a kind of training.

        Args:
            lr: Of an adapter; all weights learn at a tenth of it.
            batch: On a GPU. On a CPU it is 1: longer rows gain nothing from company there.
            rows: Of a step.
        """
        batch = self.batch or (1 if self.on_cpu else batch)
        return replace(
            self,
            epochs=1.0 if self.steps is None and self.epochs is None else self.epochs,
            lr=self.lr or (lr if self.lora_rank else lr / 10),
            batch=batch,
            accumulate=self.accumulate or max(1, rows // batch),
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which pairs of a state's candidates are learnt from; see `rows`."""

    count: int = 1
    """Pairs per state, at least 1."""
    margin: float = 0.05
    """What their scores differ by, at least; above 0."""
    outcome_weight: float = 0.0
    """Weight of an answer's outcome, added to its score; see `rows.graded`."""


@dataclass(frozen=True, slots=True)
class Exam:
    """An evaluation before and after training; arguments as for `evaluate`."""

    env: str
    split: str = "test"
    limit: int | None = 50
    settings: Mapping[str, Any] = field(default_factory=dict)


def arguments(options: Options, folder: Path) -> Json:
    """What the configurations of all of TRL's trainers take."""
    cpu = options.on_cpu
    return {
        "output_dir": str(folder),
        "max_steps": options.steps or -1,
        "num_train_epochs": options.epochs or 1.0,
        "learning_rate": options.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05 if (options.steps or 20) >= 20 else 0,
        "per_device_train_batch_size": options.batch,
        "per_device_eval_batch_size": options.batch,
        "gradient_accumulation_steps": options.accumulate,
        "gradient_checkpointing": not cpu,
        "bf16": options.in_bfloat16,
        "use_cpu": cpu,
        "dataloader_pin_memory": not cpu,
        "seed": options.seed,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": options.save_every,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
    }
