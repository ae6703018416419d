"""Supervised fine-tuning: an agent learns to act as in the trajectories (arXiv:2502.13957).

    raggym train sft DATA OTHER:0.5 --model smollm2 --as react --out DIR

The loss is over the replies, never over the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from raggym_env.cards import PolicyCard, policy_card
from raggym_env.training.process_data.prompts import Renderer
from raggym_env.training.process_data.rows import Best, sft_rows
from raggym_env.training.process_data.trajectories import AnyCollection
from raggym_env.training.trl.config import EvalSpec, TrainingConfig, lora_config, trl_config
from raggym_env.training.trl.fit import ProcessData, Progress, agent_job, drop_long, make_trainer, run_job
from raggym_env.training.trl.lm import load
from raggym_env.training.trl.recipe import Recipe

__all__ = ["train_sft"]


def train_sft(
    data: AnyCollection | Sequence[AnyCollection],
    out: str | Path,
    *,
    agent: str | Path | PolicyCard = "react",
    config: TrainingConfig | None = None,
    best: Best = "executed",
    balance: bool = False,
    outcome_weight: float = 0.0,
    evaluation: EvalSpec | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Recipe:
    """Train an agent's model on the good actions of process data, or resume such a training.

    Args:
        data: Process data or its folder. Several are mixed: each a folder, "FOLDER:WEIGHT", a `Collection` or a
            `WeightedCollection`, whose weight is the share of its trajectories that is used; above 1 repeats them.
        out: Folder of the training; see `recipe`.
        agent: Name, path or card of the prompt agent to train. It need not be the agent that collected the data.
        config: Model and optimisation. The learning rate is by default 2e-4 (LoRA adapter) or 2e-5 (all weights).
        best: Which actions are good; see `sft_rows`.
        balance: Whether as many rows search as answer where both are plausible; see `sft_rows`.
        outcome_weight: Weight of an answer's outcome, which is added to its score; see `rows.graded`.
        evaluation: How to evaluate the agent before and after training; None for no evaluation.
        trust: Whether cards at paths may use the user's authority; see `raggym_env.cards`.
        progress: Called after every step and every episode of an evaluation.

    Returns:
        The folder of the training. `report["result"]` is the trained model's name for `hf:`.

    Raises:
        RunError: The data holds nothing to train on, or `out` holds something else.
        OptionError: An option is unknown or out of range.
        LLMError: The model cannot be loaded.
        CardError: The card is not a prompt agent's.
    """
    config = (config or TrainingConfig()).with_defaults(learning_rate=2e-4, batch_size=8)
    # max_length: rows that are too long were dropped, and none is cut.
    args = trl_config("SFTConfig", config, out, max_length=None, completion_only_loss=True)
    adapter = lora_config(config)  # like `args`, checked before data and model are loaded
    card = policy_card(agent, trust=trust)
    source = ProcessData.read(data, config.limit, outcome_weight, config.seed)
    base = load(config.model, lora=config.lora_rank > 0, dtype=config.base_dtype)
    examples = sft_rows(source.trajectories, Renderer(card), best=best, balance=balance, seed=config.seed)
    chats = (base.row(row) for row in examples)
    rows, counts = drop_long(chats, base, config.max_length, "steps to imitate")
    identity = {"kind": "sft", "data": source.identity, "best": best, **({"balance": True} if balance else {})}
    trainer = partial(make_trainer, "SFTTrainer", base, adapter, args, rows, config=config)
    job = agent_job(card, base, config, identity, counts, trainer)
    return run_job(job, out, evaluation, trust=trust, progress=progress)
