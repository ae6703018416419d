"""Supervised fine-tuning: an agent learns to act as in the trajectories (arXiv:2502.13957).

    raggym train sft DATA --model smollm2 --as react --out DIR

The loss is over the replies, never over the prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard, policy_card
from raggym_env.training.process_data.rows import Best, Render, sft_rows
from raggym_env.training.trl.fit import ProcessData, Progress, agent_job, carry_out, fitting
from raggym_env.training.trl.lm import Base, data_set, load, trainable, trl
from raggym_env.training.trl.options import Exam, Options, arguments
from raggym_env.training.trl.recipe import Recipe

__all__ = ["train"]


def train(
    data: str | Path,
    agent: str | Path | PolicyCard,
    out: str | Path,
    options: Options | None = None,
    *,
    best: Best = "executed",
    outcome_weight: float = 0.0,
    exam: Exam | None = None,
    progress: Progress | None = None,
) -> Recipe:
    """Train an agent's model on the good actions of process data, or go on with that.

    Args:
        data: A folder made by `raggym collect`.
        agent: Name, path or card of the prompt agent to train; it need not be the one that collected.
        out: Folder for what is trained; see `recipe`.
        options: What to train and how; by default a learning rate of 2e-4 (a LoRA adapter) or 2e-5 (all weights).
        best: Which actions are good; see `sft_rows`.
        outcome_weight: Weight of an answer's outcome, added to its score; see `rows.graded`.
        exam: How to evaluate the agent before and after.
        progress: Called as training goes on.

    Raises:
        RunError: The data holds nothing to train on, or `out` holds something else.
        LLMError: The model cannot be had.
        CardError: It is no prompt agent's card.
    """
    options = (options or Options()).filled(lr=2e-4, batch=8)
    card = policy_card(agent)
    source = ProcessData.read(data, options.limit, outcome_weight)
    base = load(options.model, lora=options.lora_rank > 0)
    every = (base.row(row) for row in sft_rows(source.trajectories, Render(card), best=best))
    rows, counts = fitting(every, base, options.max_length, "steps to imitate")
    config = {"kind": "sft", "data": source.identity, "best": best}
    job = agent_job(card, base, options, config, counts, lambda folder: _trainer(base, rows, options, folder))
    return carry_out(job, out, exam, progress)


def _trainer(base: Base, rows: list[Any], options: Options, folder: Path) -> Any:
    return trl.SFTTrainer(
        **trainable(base, options.lora_rank),
        args=trl.SFTConfig(**arguments(options, folder), max_length=None, completion_only_loss=True),
        train_dataset=data_set(rows),
        processing_class=base.tokenizer,
    )
