"""Direct preference optimisation (arXiv:2305.18290): an agent learns to prefer the better candidates of its states.

    raggym train dpo DATA --model smollm2+SFT --as react --out DIR

The reference is the model before training. With `+SFT` it is a frozen copy of that adapter, while the adapter itself
is trained further, so the result is one adapter on the plain base.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard, policy_card
from raggym_env.errors import check_option
from raggym_env.training.process_data.prompts import Renderer
from raggym_env.training.process_data.rows import preference_rows
from raggym_env.training.process_data.trajectories import AnyCollection
from raggym_env.training.trl.config import EvalSpec, PairConfig, TrainingConfig, lora_config, trl_config
from raggym_env.training.trl.fit import ProcessData, Progress, agent_job, drop_long, make_trainer, run_job
from raggym_env.training.trl.lm import load
from raggym_env.training.trl.recipe import Recipe

__all__ = ["train_dpo"]


def train_dpo(
    data: AnyCollection | Sequence[AnyCollection],
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

    Arguments, result and errors are those of `train_sft`, except:

    * `config`: The learning rate is by default 2e-5 (LoRA adapter) or 2e-6 (all weights).
    * `pairs`: Which pairs to learn from; by default one per state.
    * `beta`: Strength of the constraint to stay close to the reference model; above 0.
    """
    check_option("beta", beta, beta > 0, "above 0")
    config = (config or TrainingConfig()).with_defaults(learning_rate=2e-5, batch_size=4)
    args = trl_config("DPOConfig", config, out, max_length=None, beta=beta)  # rows that are too long are dropped
    adapter, pairs = lora_config(config), pairs or PairConfig()
    card = policy_card(agent, trust=trust)
    source = ProcessData.read(data, config.limit, pairs.outcome_weight, config.seed)
    base = load(config.model, lora=config.lora_rank > 0, dtype=config.base_dtype)
    preferences = preference_rows(
        source.trajectories,
        Renderer(card),
        margin=pairs.margin,
        pairs=pairs.count,
        balance=pairs.balance,
        seed=config.seed,
    )
    chats = (base.row(row) for row in preferences)
    rows, counts = drop_long(chats, base, config.max_length, "pairs of candidates")
    identity = {"kind": "dpo", "data": source.identity, "pairs": pairs.identity(), "beta": beta}

    def trainer() -> Any:
        # TRL makes the reference of an adapter itself. For a whole model it would load the files the model came from,
        # which for a merged or converted model do not exist.
        whole = adapter is None and base.adapter is None
        reference = copy.deepcopy(base.model).requires_grad_(False) if whole else None
        return make_trainer("DPOTrainer", base, adapter, args, rows, config=config, ref_model=reference)

    job = agent_job(card, base, config, identity, counts, trainer)
    return run_job(job, out, evaluation, trust=trust, progress=progress)
