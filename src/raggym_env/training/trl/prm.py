"""Process reward models: a classifier learns to rank the candidates of a state (arXiv:2502.13957, eq. 1).

    raggym train prm DATA --model smollm2 --out DIR
    raggym eval ENV --policy lexical --best-of 8 --critic model --set policy.search.critic_options.path='"DIR"'

What it reads is rendered by `rewards.text`, the same as by `ModelReward`, which loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard, SearchCard, policy_card
from raggym_env.core import State
from raggym_env.errors import LLMError, OptionError, RewardError, RunError
from raggym_env.text.state_chat import fitted
from raggym_env.training.process_data.rows import Row, reward_rows
from raggym_env.training.process_data.trajectories import Trajectory
from raggym_env.training.trl.fit import Job, ProcessData, Progress, carry_out, fitting, held_out
from raggym_env.training.trl.lm import Base, data_set, load, trainable, trl
from raggym_env.training.trl.options import Exam, Options, Pairs, arguments
from raggym_env.training.trl.recipe import Recipe

__all__ = ["train"]


def train(
    data: str | Path,
    out: str | Path,
    options: Options | None = None,
    *,
    pairs: Pairs | None = None,
    holdout: float = 0.1,
    center: float = 0.01,
    policy: str | Path | PolicyCard = "lexical",
    best_of: int = 8,
    exam: Exam | None = None,
    progress: Progress | None = None,
) -> Recipe:
    """Train a process reward model on pairs of candidates, or go on with that.

    The loss of a pair is -log sigmoid(r(chosen) - r(rejected)), r being the model's one output. The share of held-out
    pairs that it ranks right is in the report, before (with an untrained head) and after.

    Args:
        data: A folder made by `raggym collect`.
        out: Folder for what is trained; see `recipe`.
        options: What to train and how; by default a learning rate of 1e-4 (a LoRA adapter) or 1e-5 (all weights).
        pairs: Which pairs are learnt from; by default four per state.
        holdout: Share of the questions whose pairs are tested on instead, in [0, 1).
        center: Weight of (r(chosen) + r(rejected))^2, which holds the mean output near 0 (arXiv:2312.09244); eq. 1
            alone leaves it open, and a step that is no help could then score above 0. 0 is eq. 1 alone.
        policy: Whose candidates are chosen among in the exam.
        best_of: Of how many. Before training, it takes its own first choice.
        exam: As for `sft.train`.
        progress: As for `sft.train`.

    Raises:
        RunError: The data makes no pairs, or `out` holds something else.
        LLMError: The model cannot be had, or is no plain base.
        ValueError: A number is out of range.
    """
    _check(holdout, center, best_of)
    options, pairs = (options or Options()).filled(lr=1e-4, batch=8), pairs or Pairs(4)
    source = ProcessData.read(data, options.limit, pairs.outcome_weight)
    base = _load(options)
    rows, test_rows, counts = _rows(source.trajectories, base, options, pairs, holdout)
    shared = {"kind": "prm", "data": source.identity, "model": base.identity(), "options": options.identity()}
    job = Job(
        config={**shared, "pairs": asdict(pairs), "holdout": holdout, "center": center},
        base=base,
        trainer=lambda folder: _trainer(base, rows, test_rows, center, options, folder),
        rows=counts,
        policy=policy_card(policy).model_copy(update={"search": SearchCard()}),
        before={},
        after=lambda result: _chosen_by(result, best_of, options),
    )
    return carry_out(job, out, exam, progress)


def _check(holdout: float, center: float, best_of: int) -> None:
    for name, value, fine, wanted in (
        ("holdout", holdout, 0 <= holdout < 1, "in [0, 1)"),
        ("center", center, center >= 0, "0 or more"),
        ("best_of", best_of, best_of >= 1, "at least 1"),
    ):
        if not fine:
            raise OptionError(f"{name} must be {wanted}, got {value}.")


def _chosen_by(critic: str, best_of: int, options: Options) -> dict[str, Any]:
    """Settings of a policy that lets the critic choose."""
    critic_options = {"path": critic, "device": options.device, "max_tokens": options.max_length}
    return {
        "policy.search.best_of": best_of,
        "policy.search.critic": "model",
        "policy.search.critic_options": critic_options,
    }


def _load(options: Options) -> Base:
    base = load(options.model, lora=options.lora_rank > 0)
    if base.adapter is not None:
        raise LLMError(
            f"A reward model is trained on a plain base, so that its adapter loads there; got {options.model!r}. "
            "Leave the adapter out, or train all weights (lora_rank = 0)."
        )
    if options.lora_rank and base.name.endswith(".gguf"):
        raise LLMError(
            f"The adapter of a reward model cannot be loaded on a GGUF file, got {base.name!r}. Train all weights "
            "(lora_rank = 0), or take a model with safetensors."
        )
    return base


def _rows(
    trajectories: list[Trajectory], base: Base, options: Options, pairs: Pairs, holdout: float
) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """Pairs to train and to test on, of states without the oldest passages that there is no room for."""

    def fit(state: State) -> State:
        try:
            return fitted(base.tokenizer, state, options.max_length)
        except RewardError:  # its rows are too long, and are counted as such
            return state

    def made(some: list[Trajectory]) -> Iterator[Row]:
        return reward_rows(some, margin=pairs.margin, pairs=pairs.count, seed=options.seed, fit=fit)

    learnt, tested = held_out(trajectories, holdout, options.seed)
    rows, counts = fitting(made(learnt), base, options.max_length, "pairs of candidates")
    test_rows = [row for row in made(tested) if base.tokens(row) <= options.max_length]
    return rows, test_rows, {**counts, "held_out": len(test_rows)}


def _trainer(base: Base, rows: list[Row], test_rows: list[Row], center: float, options: Options, folder: Path) -> Any:
    import torch

    torch.manual_seed(options.seed)  # of the head
    base.model = _classifier(base)
    return trl.RewardTrainer(
        **trainable(base, options.lora_rank, "SEQ_CLS"),
        args=trl.RewardConfig(**arguments(options, folder), max_length=None, center_rewards_coefficient=center or None),
        train_dataset=data_set(rows),
        eval_dataset=data_set(test_rows) if test_rows else None,
        processing_class=base.tokenizer,
    )


def _classifier(base: Base) -> Any:
    """The model's body with a new head of one output."""
    from transformers import AutoModelForSequenceClassification

    config = base.model.config
    config.num_labels = 1
    config.pad_token_id = base.tokenizer.pad_token_id
    automatic: Any = AutoModelForSequenceClassification  # its methods are not typed
    try:
        made = automatic.from_config(config, dtype=base.model.dtype)
        made.base_model.load_state_dict(base.model.base_model.state_dict())
    except (ValueError, RuntimeError) as error:
        raise RunError(f"The model {base.name!r} has no form with one output: {error}") from error
    return made
