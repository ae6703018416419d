"""Direct preference optimisation (arXiv:2305.18290): an agent learns to prefer the better candidates of its states.

    raggym train dpo DATA --model smollm2+SFT --as react --out DIR

The reference is the model before training. With `+SFT` it is a frozen copy of that adapter, while the adapter itself
is trained further, so the result is one adapter on the plain base.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard, policy_card
from raggym_env.errors import check_option
from raggym_env.training.process_data.rows import Renderer, preference_rows
from raggym_env.training.process_data.trajectories import Collection
from raggym_env.training.trl.config import EvalSpec, PairConfig, TrainingConfig, lora_config, trl, trl_config
from raggym_env.training.trl.fit import ProcessData, Progress, agent_job, drop_long, run_job
from raggym_env.training.trl.lm import Base, data_set, load, trainable
from raggym_env.training.trl.recipe import Recipe

__all__ = ["train_dpo"]


def train_dpo(
    data: str | Path | Collection,
    out: str | Path,
    *,
    agent: str | Path | PolicyCard = "react",
    config: TrainingConfig | None = None,
    pairs: PairConfig | None = None,
    beta: float = 0.1,
    evaluation: EvalSpec | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Recipe:
    """Train an agent's model on pairs of candidates, or resume such a training.

    Args:
        data: Process data, or its folder.
        out: Folder of the training; see `recipe`.
        agent: Name, path or card of the prompt agent to train. It need not be the agent that collected the data.
        config: Model and optimisation. The learning rate is by default 2e-5 (LoRA adapter) or 2e-6 (all weights).
        pairs: Which pairs are learned from; by default one per state.
        beta: Strength of the constraint to stay close to the reference model; above 0.
        evaluation: As for `train_sft`.
        trust: As for `train_sft`.
        progress: As for `train_sft`.

    Raises:
        RunError: The data makes no pairs, or `out` holds something else.
        OptionError: An option is unknown or out of range.
        LLMError: The model cannot be loaded.
        CardError: The card is not a prompt agent's.
    """
    check_option("beta", beta, beta > 0, "above 0")
    config = (config or TrainingConfig()).with_defaults(learning_rate=2e-5, batch_size=4)
    args = trl_config("DPOConfig", config, out, max_length=None, beta=beta)  # rows that are too long are dropped
    adapter, pairs = lora_config(config), pairs or PairConfig()
    card = policy_card(agent, trust=trust)
    source = ProcessData.read(data, config.limit, pairs.outcome_weight)
    base = load(config.model, lora=config.lora_rank > 0)
    preferences = preference_rows(
        source.trajectories, Renderer(card), margin=pairs.margin, pairs=pairs.count, seed=config.seed
    )
    chats = (base.row(row) for row in preferences)
    rows, counts = drop_long(chats, base, config.max_length, "pairs of candidates")
    identity = {"kind": "dpo", "data": source.identity, "pairs": asdict(pairs), "beta": beta}
    job = agent_job(card, base, config, identity, counts, lambda: _trainer(base, adapter, args, rows))
    return run_job(job, out, evaluation, trust=trust, progress=progress)


def _trainer(base: Base, adapter: Any, args: Any, rows: list[Any]) -> Any:
    arguments = trainable(base, adapter)
    # TRL makes the reference of an adapter itself. For a whole model it would load the files the model came from,
    # which for a merged or converted model do not exist.
    whole = adapter is None and base.adapter is None
    return trl.DPOTrainer(
        **arguments,
        ref_model=copy.deepcopy(base.model).requires_grad_(False) if whole else None,
        args=args,
        train_dataset=data_set(rows),
        processing_class=base.tokenizer,
    )
