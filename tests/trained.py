"""Process data on the towns world, and a tiny model to train on it."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import logging

from raggym_env.training.process_data.collect import collect
from raggym_env.training.trl.config import TrainingConfig
from tiny_llm import tiny_model, tiny_tokenizer
from towns import write_towns

AGENT = '''
policy = "prompt"

[options]
reasoning = true
retrieval = true
queries = true
max_tokens = 24
passage_chars = 60
on_failure = "fail"

[options.prompts]
system = "Search or answer."
user = """{{ question }} {{ history }}"""
'''


@dataclass(frozen=True)
class Workshop:
    """The inputs of a training."""

    card: Path
    data: Path
    agent: Path
    model: Path

    def config(self, model: object = None, **changes: Any) -> TrainingConfig:
        """Return the configuration of two quick steps of a small adapter."""
        quick = {
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "lora_rank": 4,
            "learning_rate": 1e-2,
            "device": "cpu",
        }
        return TrainingConfig(str(model or self.model), **{**quick, **changes})


def write_workshop(folder: Path, questions: int = 6, keep: str = "all") -> Workshop:
    """Collect trajectories of `lexical` on towns, with evidence scores; some steps explored."""
    logging.disable_progress_bar()
    gc.freeze()  # every training collects garbage, and most of that time goes into scanning torch's modules
    card = write_towns(folder / "towns", questions)
    options: dict[str, Any] = {"critic": "evidence", "n": 4, "keep": keep, "explore": 0.5}
    collected = collect(card, "lexical", out=folder / "data", settings={"retrieval.k": 1}, **options)
    agent = folder / "brief.toml"
    agent.write_text(AGENT, encoding="utf-8")
    return Workshop(card, collected.run.path, agent, write_model(folder / "model"))


def write_model(folder: Path, **changes: Any) -> Path:
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer, context=2048, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Load the tensors that a training wrote."""
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(recipe: Any) -> list[float]:
    return [entry["loss"] for entry in recipe.report["log"]]
