"""Direct preference optimisation (arXiv:2305.18290): an agent learns to prefer the better candidates of its states.

    raggym train dpo DATA --model smollm2+SFT --as react --out DIR

The reference is the model as it was: with `+SFT`, a frozen copy of that adapter, while the adapter itself is trained
on. So the result is one adapter on the plain base.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard, policy_card
from raggym_env.errors import OptionError
from raggym_env.training.process_data.rows import Render, preference_rows
from raggym_env.training.trl.fit import ProcessData, Progress, agent_job, carry_out, fitting
from raggym_env.training.trl.lm import Base, data_set, load, trainable, trl
from raggym_env.training.trl.options import Exam, Options, Pairs, arguments
from raggym_env.training.trl.recipe import Recipe

__all__ = ["train"]


def train(
    data: str | Path,
    agent: str | Path | PolicyCard,
    out: str | Path,
    options: Options | None = None,
    *,
    pairs: Pairs | None = None,
    beta: float = 0.1,
    exam: Exam | None = None,
    progress: Progress | None = None,
) -> Recipe:
    """Train an agent's model on pairs of candidates, or go on with that.

    Args:
        data: A folder made by `raggym collect`.
        agent: Name, path or card of the prompt agent to train; it need not be the one that collected.
        out: Folder for what is trained; see `recipe`.
        options: What to train and how; by default a learning rate of 2e-5 (a LoRA adapter) or 2e-6 (all weights).
        pairs: Which pairs are learnt from; by default one per state.
        beta: How closely the model is held to the reference; above 0, higher is closer.
        exam: How to evaluate the agent before and after.
        progress: Called as training goes on.

    Raises:
        RunError: The data makes no pairs, or `out` holds something else.
        LLMError: The model cannot be had.
        CardError: It is no prompt agent's card.
        ValueError: A number is out of range.
    """
    if not beta > 0:
        raise OptionError(f"beta must be above 0, got {beta}.")
    options, pairs = (options or Options()).filled(lr=2e-5, batch=4), pairs or Pairs()
    card = policy_card(agent)
    source = ProcessData.read(data, options.limit, pairs.outcome_weight)
    base = load(options.model, lora=options.lora_rank > 0)
    make = {"margin": pairs.margin, "pairs": pairs.count, "seed": options.seed}
    found = preference_rows(source.trajectories, Render(card), **make)  # type: ignore[arg-type]
    rows, counts = fitting((base.row(row) for row in found), base, options.max_length, "pairs of candidates")
    config = {"kind": "dpo", "data": source.identity, "pairs": asdict(pairs), "beta": beta}
    job = agent_job(card, base, options, config, counts, lambda folder: _trainer(base, rows, beta, options, folder))
    return carry_out(job, out, exam, progress)


def _trainer(base: Base, rows: list[Any], beta: float, options: Options, folder: Path) -> Any:
    # TRL makes the reference of an adapter itself; of a whole model it would look for the files it came from.
    reference = copy.deepcopy(base.model).requires_grad_(False) if options.lora_rank == 0 else None
    return trl.DPOTrainer(
        **trainable(base, options.lora_rank),
        ref_model=reference,
        args=trl.DPOConfig(**arguments(options, folder), max_length=None, beta=beta),
        train_dataset=data_set(rows),
        processing_class=base.tokenizer,
    )
