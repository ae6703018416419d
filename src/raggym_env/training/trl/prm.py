"""Process reward models: a classifier learns to rank the candidates of a state (arXiv:2502.13957, eq. 1).

    raggym train prm DATA --model smollm2 --out DIR
    raggym eval ENV --policy lexical --best-of 8 --critic model --set policy.search.critic_options.path='"DIR"'

Its inputs are rendered by `text.state_chat`, as are those of `ModelReward`, which loads the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard, SearchCard, policy_card
from raggym_env.core import State
from raggym_env.errors import LLMError, RewardError, RunError, check_option
from raggym_env.text.state_chat import fitted
from raggym_env.training.process_data.rows import Row, reward_rows
from raggym_env.training.process_data.trajectories import Collection, Trajectory
from raggym_env.training.trl.config import EvalSpec, PairConfig, TrainingConfig, lora_config, trl, trl_config
from raggym_env.training.trl.fit import Job, ProcessData, Progress, drop_long, held_out_split, run_job
from raggym_env.training.trl.lm import Base, data_set, load, trainable
from raggym_env.training.trl.recipe import Recipe

__all__ = ["train_prm"]


def train_prm(
    data: str | Path | Collection,
    out: str | Path,
    *,
    config: TrainingConfig | None = None,
    pairs: PairConfig | None = None,
    held_out: float = 0.1,
    center_rewards_coefficient: float = 0.01,
    policy: str | Path | PolicyCard = "lexical",
    best_of: int = 8,
    evaluation: EvalSpec | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Recipe:
    """Train a process reward model on pairs of candidates, or resume such a training.

    The loss of a pair is -log sigmoid(r(chosen) - r(rejected)), where r is the model's single output. The report has
    the share of held-out pairs that it ranks correctly, before training (with a random head) and after.

    Args:
        data: Process data, or its folder.
        out: Folder of the training; see `recipe`.
        config: Model and optimisation. The learning rate is by default 1e-4 (LoRA adapter) or 1e-5 (all weights).
        pairs: Which pairs are learned from; by default four per state.
        held_out: Share of the questions whose pairs are tested on instead, in [0, 1).
        center_rewards_coefficient: Weight of (r(chosen) + r(rejected))^2, which keeps the mean output near 0
            (arXiv:2312.09244). Equation 1 alone leaves the level open, so a useless step could score above 0.
            0 is equation 1 alone.
        policy: Policy whose candidates the trained critic chooses among in the evaluation.
        best_of: Number of those candidates. The evaluation before training takes the policy's own first choice.
        evaluation: As for `train_sft`.
        trust: As for `train_sft`.
        progress: As for `train_sft`.

    Raises:
        RunError: The data makes no pairs, or `out` holds something else.
        OptionError: An option is unknown or out of range.
        LLMError: The model cannot be loaded, or is not a plain base.
    """
    check_option("held_out", held_out, 0 <= held_out < 1, "in [0, 1)")
    center = center_rewards_coefficient
    check_option("center_rewards_coefficient", center, center >= 0, "0 or more")
    check_option("best_of", best_of, best_of >= 1, "at least 1")
    config = (config or TrainingConfig()).with_defaults(learning_rate=1e-4, batch_size=8)
    # 0 and None differ for TRL: with 0 it would compute a term that has no effect.
    args = trl_config("RewardConfig", config, out, max_length=None, center_rewards_coefficient=center or None)
    adapter, pairs = lora_config(config, "SEQ_CLS"), pairs or PairConfig(4)
    card = policy_card(policy, trust=trust).model_copy(update={"search": SearchCard()})
    source = ProcessData.read(data, config.limit, pairs.outcome_weight)
    base = _load(config)
    rows, test_rows, counts = _rows(source.trajectories, base, config, pairs, held_out)
    identity = {"kind": "prm", "data": source.identity, "model": base.identity(), "options": config.identity()}
    job = Job(
        config={**identity, "pairs": asdict(pairs), "held_out": held_out, "center_rewards_coefficient": center},
        base=base,
        make_trainer=lambda: _trainer(base, adapter, args, rows, test_rows),
        rows=counts,
        policy=card,
        settings_before={},  # the policy alone, since an untrained critic chooses at random
        settings_after=lambda result: {
            "policy.search.best_of": best_of,
            "policy.search.critic": "model",
            "policy.search.critic_options": {"path": result, "device": config.device, "max_tokens": config.max_length},
        },
    )
    return run_job(job, out, evaluation, trust=trust, progress=progress)


def _load(config: TrainingConfig) -> Base:
    base = load(config.model, lora=config.lora_rank > 0)
    if base.adapter is not None:
        raise LLMError(
            f"A reward model is trained on a plain base, because its adapter is loaded on one; got {config.model!r}. "
            "Leave the adapter out, or train all weights (lora_rank = 0)."
        )
    if config.lora_rank and base.name.endswith(".gguf"):
        raise LLMError(
            f"The adapter of a reward model cannot be loaded on a GGUF file, got {base.name!r}. Train all weights "
            "(lora_rank = 0), or use a model with safetensors."
        )
    return base


def _rows(
    trajectories: list[Trajectory], base: Base, config: TrainingConfig, pairs: PairConfig, held_out: float
) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """Return the pairs to train on, those to test on, and their numbers.

    A state that is too long loses its oldest passages, as it does in `ModelReward`.
    """

    def fit(state: State) -> State:
        try:
            return fitted(base.tokenizer, state, config.max_length)
        except RewardError:  # too long even without passages: its rows are dropped, and counted
            return state

    def make_rows(part: list[Trajectory]) -> Iterator[Row]:
        return reward_rows(part, margin=pairs.margin, pairs=pairs.count, seed=config.seed, fit=fit)

    training, test = held_out_split(trajectories, held_out, config.seed)
    rows, counts = drop_long(make_rows(training), base, config.max_length, "pairs of candidates")
    test_rows = [row for row in make_rows(test) if base.tokens(row) <= config.max_length]
    return rows, test_rows, {**counts, "held_out": len(test_rows)}


def _trainer(base: Base, adapter: Any, args: Any, rows: list[Row], test_rows: list[Row]) -> Any:
    import torch

    torch.manual_seed(args.seed)  # TRL seeds only after the head is initialised
    base.model = _classifier(base)
    return trl.RewardTrainer(
        **trainable(base, adapter),
        args=args,
        train_dataset=data_set(rows),
        eval_dataset=data_set(test_rows) if test_rows else None,
        processing_class=base.tokenizer,
    )


def _classifier(base: Base) -> Any:
    """Return the model's body with a new, random head of one output."""
    from transformers import AutoModelForSequenceClassification

    config = base.model.config
    config.num_labels = 1
    # The classifier reads the last token that is not padding, so it must know which token pads.
    config.pad_token_id = base.tokenizer.pad_token_id
    auto_class: Any = AutoModelForSequenceClassification  # its methods are not typed
    try:
        classifier = auto_class.from_config(config, dtype=base.model.dtype)
        # Only the body: the language model's head has no place in a classifier.
        classifier.base_model.load_state_dict(base.model.base_model.state_dict())
    except (ValueError, RuntimeError) as error:
        raise RunError(f"transformers has no classifier for the model {base.name!r}: {error}") from error
    return classifier
