"""Process reward models: a classifier learns to rank the candidates of a state (arXiv:2502.13957, eq. 1).

    raggym train prm DATA --model smollm2 --out DIR
    raggym eval ENV --policy lexical --best-of 8 --critic model --set policy.search.critic_options.path='"DIR"'

Its inputs are rendered by `text.state_chat`, as are those of `ModelReward`, which loads the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard, SearchCard, policy_card
from raggym_env.core import State
from raggym_env.errors import LLMError, RewardError, RunError, check_option
from raggym_env.text.state_chat import fitted, shortened
from raggym_env.training.process_data.rows import Row, reward_rows
from raggym_env.training.process_data.trajectories import AnyCollection, Trajectory
from raggym_env.training.trl.config import EvalSpec, PairConfig, TrainingConfig, lora_config, trl_config
from raggym_env.training.trl.fit import Job, ProcessData, Progress, drop_long, held_out_split, make_trainer, run_job
from raggym_env.training.trl.lm import Base, load
from raggym_env.training.trl.recipe import Recipe

__all__ = ["train_prm"]


def train_prm(
    data: AnyCollection | Sequence[AnyCollection],
    out: str | Path,
    *,
    config: TrainingConfig | None = None,
    pairs: PairConfig | None = None,
    held_out: float = 0.1,
    center_rewards_coefficient: float = 0.01,
    history_chars: int | None = None,
    policy: str | Path | PolicyCard = "lexical",
    best_of: int = 8,
    evaluation: EvalSpec | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Recipe:
    """Train a process reward model on pairs of candidates, or resume such a training.

    The loss of a pair is -log sigmoid(r(chosen) - r(rejected)), where r is the model's single output. The report has
    the share of held-out pairs that it ranks correctly, before training (with a random head) and after.

    Arguments, result and errors are those of `train_sft`, except:

    * `config`: The learning rate is by default 1e-4 (LoRA adapter) or 1e-5 (all weights). The model must be a plain
      base; an adapter raises `LLMError`.
    * `pairs`: Which pairs to learn from; by default four per state.
    * `held_out`: Share of the questions whose pairs are tested on instead, in [0, 1).
    * `center_rewards_coefficient`: Weight of (r(chosen) + r(rejected))^2, which keeps the mean output near 0
      (arXiv:2312.09244). Equation 1 alone leaves the level open, so a useless step could score above 0. 0 is
      equation 1 alone.
    * `history_chars`: Show the sentences of the passages that matter, in so many characters; None shows whole passages.
      `ModelReward` takes the same option, and must be given the same value.
    * `policy`: Policy whose candidates the trained critic chooses among in the evaluation.
    * `best_of`: Number of those candidates. The evaluation before training takes the policy's own first choice.
    """
    check_option("held_out", held_out, 0 <= held_out < 1, "in [0, 1)")
    center, chars = center_rewards_coefficient, history_chars
    check_option("history_chars", chars, chars is None or chars >= 1, "at least 1")
    check_option("center_rewards_coefficient", center, center >= 0, "0 or more")
    check_option("best_of", best_of, best_of >= 1, "at least 1")
    config = (config or TrainingConfig()).with_defaults(learning_rate=1e-4, batch_size=8)
    # 0 and None differ for TRL: with 0 it would compute a term that has no effect.
    args = trl_config("RewardConfig", config, out, max_length=None, center_rewards_coefficient=center or None)
    adapter, pairs = lora_config(config, "SEQ_CLS"), pairs or PairConfig(4)
    card = policy_card(policy, trust=trust).model_copy(update={"search": SearchCard()})
    source = ProcessData.read(data, config.limit, pairs.outcome_weight, config.seed)
    base = _load(config)
    rows, test_rows, counts = _rows(source.trajectories, base, config, pairs, held_out, chars)
    identity: dict[str, Any] = {
        "kind": "prm",
        "data": source.identity,
        "model": base.identity(),
        "options": config.identity(),
    }
    critic: dict[str, Any] = {"device": config.device, "max_tokens": config.max_length}
    if chars is not None:  # left out otherwise, so that a training begun before it existed can be resumed
        critic["history_chars"] = chars
        identity["history_chars"] = chars

    def trainer() -> Any:
        base.model = _classifier(base, config.seed)
        return make_trainer("RewardTrainer", base, adapter, args, rows, test_rows, config=config)

    job = Job(
        config={**identity, "pairs": pairs.identity(), "held_out": held_out, "center_rewards_coefficient": center},
        base=base,
        make_trainer=trainer,
        rows=counts,
        policy=card,
        settings_before={},  # the policy alone, since an untrained critic chooses at random
        settings_after=lambda result: {
            "policy.search.best_of": best_of,
            "policy.search.critic": "model",
            "policy.search.critic_options": {"path": result, **critic},
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
    trajectories: list[Trajectory],
    base: Base,
    config: TrainingConfig,
    pairs: PairConfig,
    held_out: float,
    history_chars: int | None,
) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """Return the pairs to train on, those to test on, and their numbers.

    A state that is too long loses its oldest passages, as it does in `ModelReward`.
    """

    def fit(state: State) -> State:
        state = shortened(state, history_chars)
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


def _classifier(base: Base, seed: int) -> Any:
    """Return the model's body with a new, random head of one output."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)  # TRL seeds only after the head is initialised
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
