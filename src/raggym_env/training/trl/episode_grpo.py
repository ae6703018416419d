"""Reinforcement learning on whole episodes: the model searches, reads and answers, and each turn gets its own credit.

    raggym train episodes ENV --model smollm2+FORMAT --reward mini --eval ENV --out DIR
    raggym train episodes ENV ... --reward none --credit episode          the control: the outcome alone

The rollouts are those of `episodes`, the advantages those of `credit`. While it trains, the model answers held-out
questions, so that reward and held-out F1 can be plotted over the steps.

The model must be able to write the format of `episodes` already: one whose replies never end with an action gets the
same penalty for all of them. `episode_examples` makes rows to teach it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from raggym_env.build import MDP, load_mdp
from raggym_env.cards import EnvCard, env_card, override
from raggym_env.envs.env import RAGEnv
from raggym_env.errors import MissingExtra, RunError, check_option
from raggym_env.evaluation.scores import score_records
from raggym_env.runs.plan import card_identity
from raggym_env.training.trl.config import EvalSpec, TrainingConfig, lora_config, trl_config
from raggym_env.training.trl.credit import Credit, EpisodeTrainer, Scale
from raggym_env.training.trl.episodes import EpisodeRollouts, episode_prompts, episode_return
from raggym_env.training.trl.fit import Job, Progress, run_job
from raggym_env.training.trl.grpo import ReplyConfig, check_groups
from raggym_env.training.trl.lm import Base, load, trainable
from raggym_env.training.trl.recipe import Recipe

try:
    import torch
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["EpisodeConfig", "HeldOut", "generate_greedily", "train_episodes"]

_GREEDY_BATCH = 8  # held-out episodes that are generated at once; their cache must fit beside the training


@dataclass(frozen=True, slots=True)
class EpisodeConfig:
    """The rewards of an episode's turns, and how its turns are credited."""

    process_reward: str = "mini"
    """Name of the process reward; "none" for the outcome alone."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the process reward."""
    outcome_weight: float = 1.0
    """Weight of the answer's score by the environment's metric, which the last turn gets."""
    process_weight: float = 1.0
    """Weight of the process reward, which every turn gets."""
    invalid_reward: float = -1.0
    """Reward of a reply that does not end with an action."""
    credit: Credit = "turn"
    """"turn" for an advantage per turn, "episode" for one per episode; see `credit`."""
    discount: float = 1.0
    """Weight of the next turn's return, in [0, 1]; for credit "turn". See `credit` for process rewards that need 0."""
    scale_rewards: Scale = "batch"
    """What advantages are divided by; see `credit`."""
    passage_chars: int = 600
    """Characters shown of each passage."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the environment's card by dotted key, e.g. `{"episode.max_searches": 3}`."""

    def __post_init__(self) -> None:
        for name, values in (("credit", get_args(Credit)), ("scale_rewards", get_args(Scale))):
            check_option(name, getattr(self, name), getattr(self, name) in values, f"one of {values}")
        check_option("discount", self.discount, 0 <= self.discount <= 1, "in [0, 1]")
        check_option("passage_chars", self.passage_chars, self.passage_chars >= 1, "at least 1")


def train_episodes(
    env: str | Path | EnvCard,
    out: str | Path,
    *,
    config: TrainingConfig | None = None,
    episodes: EpisodeConfig | None = None,
    replies: ReplyConfig | None = None,
    beta: float | None = None,
    evaluation: EvalSpec | None = None,
    eval_every: int = 25,
    trust: bool = False,
    progress: Progress | None = None,
) -> Recipe:
    """Train a language model on whole episodes, or resume such a training.

    Arguments, result and errors are those of `train_sft`, except:

    * `env`: Name, path or card of an environment. Its training questions are used.
    * `config`: The learning rate is by default 2e-5 (LoRA adapter) or 2e-6 (all weights), and an update is over the
      rollouts of 4 questions. `per_device_train_batch_size` counts rollouts, `limit` questions, and `max_length` the
      tokens of an episode after its prompt.
    * `episodes`, `replies`: Rewards, credit and sampling; `num_generations` counts rollouts per question.
    * `beta`: Weight of the KL divergence from the model before training; by default 0.
    * `evaluation`: Held-out questions, answered greedily every `eval_every` updates, before the first and after the
      last. The scores are logged as `held_out/f1` and so on; `report["curve"]` holds these entries.
    """
    episodes, replies = episodes or EpisodeConfig(), replies or ReplyConfig()
    check_option("eval_every", eval_every, eval_every >= 1, "at least 1")
    sizes = {"batch_size": replies.num_generations, "rows_per_step": 4 * replies.num_generations}
    config = (config or TrainingConfig()).with_defaults(learning_rate=2e-5, **sizes)
    check_groups(config, replies.num_generations, "rollouts per question")
    args = trl_config(
        "GRPOConfig", config, out, **asdict(replies), scale_rewards=episodes.scale_rewards, beta=beta or 0.0
    )
    adapter = lora_config(config)
    mdp = _environment(env, episodes, trust)
    held_out = None
    if evaluation is not None:
        # As the model is trained, e.g. with as many searches, unless the specification says otherwise.
        settings = {**episodes.settings, **evaluation.settings, "reward.process_reward": "none"}
        held_out = load_mdp(override(env_card(evaluation.env, trust=trust), settings), evaluation.split)
    base = load(config.model, lora=config.lora_rank > 0, dtype=config.base_dtype)
    shown: dict[str, Any] = {"passage_chars": episodes.passage_chars, "max_tokens": config.max_length}

    def make_trainer() -> Any:
        rollouts = EpisodeRollouts(_first(mdp, config.limit), invalid_reward=episodes.invalid_reward, **shown)
        trainer = _trainer(trainable(base, adapter), base, args, rollouts, episodes)
        if held_out is not None and evaluation is not None:
            questions = _first(held_out, evaluation.limit)
            rollouts = EpisodeRollouts(questions, generate=generate_greedily, **shown)
            trainer.add_callback(HeldOut(trainer, rollouts, episode_prompts(questions)["prompt"], eval_every))
        return trainer

    data = {"environment": card_identity(mdp.card), "dataset": mdp.dataset.fingerprint, "limit": config.limit}
    held_out_identity = None if evaluation is None else {**asdict(evaluation), "every": eval_every}
    options: dict[str, Any] = {"episodes": asdict(episodes), "replies": asdict(replies), "beta": beta}
    identity = {"kind": "episodes", "data": data, **options, "held_out": held_out_identity}
    identity |= {"model": base.identity(), "options": config.identity()}
    # No policy card writes the format of `episodes`, so the model is evaluated while it trains, by `HeldOut`.
    job = Job(identity, base, make_trainer, {"questions": len(mdp.tasks[: config.limit])}, "", {}, lambda name: {})
    return run_job(job, out, None, trust=trust, progress=progress)


def _environment(env: str | Path | EnvCard, episodes: EpisodeConfig, trust: bool) -> MDP:
    reward = {
        "reward.process_reward": episodes.process_reward,
        "reward.options": dict(episodes.options),
        "reward.outcome_weight": episodes.outcome_weight,
        "reward.process_weight": episodes.process_weight,
    }
    return load_mdp(override(env_card(env, trust=trust), {**episodes.settings, **reward}), "train")


def _first(mdp: MDP, limit: int | None) -> RAGEnv:
    return RAGEnv(mdp.tasks[:limit], mdp.dynamics, mdp.reward)


def _trainer(
    model: dict[str, Any], base: Base, args: Any, rollouts: EpisodeRollouts, episodes: EpisodeConfig
) -> EpisodeTrainer:
    with warnings.catch_warnings():
        # TRL may change what it calls experimental; pyproject.toml admits only the minor versions that are tested.
        warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
        return EpisodeTrainer(
            **model,
            reward_funcs=episode_return,
            args=args,
            train_dataset=episode_prompts(rollouts.env, seed=args.seed),
            processing_class=base.tokenizer,
            rollout_func=rollouts,
            credit=episodes.credit,
            discount=episodes.discount,
        )


def generate_greedily(trainer: Any, prompts: list[list[int]]) -> tuple[list[list[int]], None]:
    """Return the most probable reply to each prompt, as a `Generate`. It uses no random numbers."""
    model, device = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.device
    pad, ends = trainer.processing_class.pad_token_id, set(trainer.eos_token_ids)
    options = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "pad_token_id": pad}
    options |= {"max_new_tokens": trainer.max_completion_length, "eos_token_id": sorted(ends)}
    training = model.training
    model.eval()
    replies: list[list[int]] = []
    try:
        for start in range(0, len(prompts), _GREEDY_BATCH):
            batch = prompts[start : start + _GREEDY_BATCH]
            width = max(map(len, batch))
            ids = torch.tensor([[pad] * (width - len(row)) + row for row in batch], device=device)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch], device=device)
            with torch.no_grad():
                written = model.generate(input_ids=ids, attention_mask=mask, **options)[:, width:].tolist()
            # What follows the end is padding, and the end may be the padding token itself.
            stops = [next((place for place, token in enumerate(row) if token in ends), len(row)) for row in written]
            replies += [row[: stop + 1] for row, stop in zip(written, stops, strict=True)]
    finally:
        model.train(training)
    return replies, None


class HeldOut(TrainerCallback):
    """Scores held-out episodes before the first weight update, every `every` updates and after the last one."""

    def __init__(self, trainer: Any, rollouts: EpisodeRollouts, prompts: Sequence[Any], every: int) -> None:
        self.trainer, self.rollouts, self.prompts, self.every = trainer, rollouts, list(prompts), every

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the scores before training."""
        if state.global_step == 0:
            self.trainer.log(self.scores())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the scores to the metrics of the step, which TRL logs after this."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            for name, value in self.scores().items():
                self.trainer._metrics["train"][name].append(value)

    def scores(self) -> dict[str, float]:
        """Return the mean scores, the bounds of the interval of F1, and the share of failed episodes.

        Raises:
            RunError: All episodes failed.
        """
        episodes, _ = self.rollouts.run(self.prompts, self.trainer)
        scores = score_records(episodes, self.rollouts.episodes.tasks)
        if not scores.scored:
            raise RunError(f"All {len(episodes)} held-out episodes failed. The first one: {episodes[0].error}")
        values = {metric: estimate[0] for metric, estimate in scores.metrics.items()}
        if "f1" in scores.metrics:  # questions with options are scored by accuracy
            _, values["f1_low"], values["f1_high"] = scores.metrics["f1"]
        values |= {"searches": scores.searches or 0.0, "no_action": scores.no_action / scores.scored}
        values["failed"] = scores.failed / scores.questions
        return {f"held_out/{name}": float(value) for name, value in values.items()}
