"""Reinforcement learning on single steps: an agent's replies in given states, rewarded by a process reward.

    raggym train grpo DATA --model smollm2+SFT --as react --reward evidence --out DIR
    raggym train grpo DATA ... --algorithm rloo

The states are those of collected trajectories. In each the model samples several replies. Each is parsed as the agent
parses it, and its action is scored in its state. The advantage of a reply is relative to the others of its state: GRPO
(arXiv:2402.03300) or RLOO (arXiv:2402.14740). For whole episodes see `episode_grpo`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from raggym_env.build import MDP, load_mdp
from raggym_env.cards import PolicyCard, SearchCard, check_authority, env_card, override, policy_card
from raggym_env.core import Action, Answer, State
from raggym_env.errors import OptionError, RAGGymError, RewardError, check_option
from raggym_env.llm.scripted import ScriptedLLM
from raggym_env.mdp.metrics import score as metric_score
from raggym_env.policies import make
from raggym_env.protocols import ProcessReward, score
from raggym_env.runs.plan import card_identity
from raggym_env.training.process_data.prompts import Renderer
from raggym_env.training.process_data.trajectories import Collection, TrajectoryStep
from raggym_env.training.trl.config import EvalSpec, TrainingConfig, lora_config, trl_config
from raggym_env.training.trl.fit import ProcessData, Progress, agent_job, drop_long, make_trainer, run_job
from raggym_env.training.trl.lm import Base, load
from raggym_env.training.trl.recipe import Recipe

__all__ = ["Algorithm", "ReplyConfig", "StepRewardConfig", "StepRewards", "check_groups", "train_grpo"]

Algorithm = Literal["grpo", "rloo"]


@dataclass(frozen=True, slots=True)
class StepRewardConfig:
    """The reward of a reply."""

    process_reward: str = "mini"
    """Name of the process reward."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the process reward."""
    outcome_weight: float = 0.0
    """Weight of an answer's score by the environment's metric, which is added to the process reward."""
    penalty: float = 1.0
    """How far below the worst reply of its state an invalid one is scored; above 0. See `StepRewards`."""

    def __post_init__(self) -> None:
        check_option("penalty", self.penalty, self.penalty > 0, "above 0")


@dataclass(frozen=True, slots=True)
class ReplyConfig:
    """How replies are sampled. The names are TRL's."""

    num_generations: int = 4
    """Replies per state, at least 2."""
    max_completion_length: int = 96
    """Maximum number of tokens of a reply. A reply that is cut off can rarely be parsed."""
    temperature: float = 1.0
    """Sampling temperature, above 0."""

    def __post_init__(self) -> None:
        # An advantage is relative to the other replies, so one alone teaches nothing.
        check_option("num_generations", self.num_generations, self.num_generations >= 2, "at least 2")
        check_option("max_completion_length", self.max_completion_length, self.max_completion_length >= 1, "at least 1")
        check_option("temperature", self.temperature, self.temperature > 0, "above 0")


@dataclass(frozen=True)
class StepRewards:
    """The reward function for TRL: the score of a reply's action in the state that its row names by `index`.

    A reply is invalid if it cannot be parsed or is an action that this agent may not take. It gets the lowest score
    among the replies to its state less `penalty`. If all replies to a state are invalid, all get `-penalty`, so their
    advantages are 0. If the process reward fails for a state, its replies get None, and TRL ignores them: a failure
    is never a score.
    """

    __name__ = "process_reward"  # the name in TRL's logs

    card: PolicyCard
    """The agent, which determines how a reply is parsed."""
    states: Sequence[State]
    """The states that `index` refers to."""
    process_reward: ProcessReward
    penalty: float = 1.0
    outcome: Callable[[int, Answer], float] = lambda index, answer: 0.0
    """Returns a number to add for an answer, given the index of its state."""

    def __call__(
        self,
        completions: Sequence[Sequence[Mapping[str, str]]],
        index: Sequence[int],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return one reward per reply.

        Raises:
            RewardError, RetrievalError: The process reward failed for every state of the batch.
        """
        # The agent itself parses the replies, so training and evaluation cannot disagree on what an action is.
        card = self.card.model_copy(update={"search": SearchCard(), "price": None})  # no search at inference
        agent = make(card, llm=ScriptedLLM([row[-1]["content"] for row in completions]), on_failure="fail")
        actions = [row[0].action for row in agent.propose([self.states[number] for number in index])]
        # By state and then by place in the batch, since TRL may deliver the replies in any order.
        valid: dict[int, dict[int, Action]] = {number: {} for number in index}
        for place, (number, action) in enumerate(zip(index, actions, strict=True)):
            if action is not None:
                valid[number][place] = action
        # One call for all states: a critic that is a model scores them in batches.
        scores = self._scores({number: list(row.values()) for number, row in valid.items() if row})
        values: dict[int, float] = {}  # by place; none for a state without scores
        for number, row in valid.items():
            for (place, action), value in zip(row.items(), scores.get(number) or (), strict=False):
                values[place] = value + (self.outcome(number, action) if isinstance(action, Answer) else 0.0)
        rewards: list[float | None] = [None] * len(index)
        for place, number in enumerate(index):
            if scores.get(number, []) is not None:
                lowest = min((values[other] for other in valid[number]), default=0.0)
                rewards[place] = values.get(place, lowest - self.penalty)
        if log_metric is not None:
            log_metric("replies/unreadable", float(np.mean([action is None for action in actions])))
            log_metric("replies/answers", float(np.mean([isinstance(action, Answer) for action in actions])))
            log_metric("replies/unscored", float(np.mean([value is None for value in rewards])))
        return rewards

    def _scores(self, actions: Mapping[int, Sequence[Action]]) -> dict[int, list[float] | None]:
        """Score the states in one call or, if that fails, one by one; None for a state that fails by itself."""
        if not actions:
            return {}
        try:
            return self._score(actions)
        except RAGGymError as error:
            if len(actions) == 1:
                raise
            failure = error
        # The error does not say which state caused it; the others keep their scores.
        scores: dict[int, list[float] | None] = dict.fromkeys(actions)
        for number, row in actions.items():
            with suppress(RAGGymError):
                scores |= self._score({number: row})
        if all(row is None for row in scores.values()):
            raise failure  # nothing could be learned from the batch, and probably not from the next one
        return scores

    def _score(self, actions: Mapping[int, Sequence[Action]]) -> dict[int, list[float] | None]:
        rows = score(self.process_reward, [self.states[number] for number in actions], list(actions.values()))
        return {number: row.tolist() for number, row in zip(actions, rows, strict=True)}


def train_grpo(
    data: str | Path | Collection,
    out: str | Path,
    *,
    agent: str | Path | PolicyCard = "react",
    config: TrainingConfig | None = None,
    reward: StepRewardConfig | None = None,
    replies: ReplyConfig | None = None,
    algorithm: Algorithm = "grpo",
    beta: float | None = None,
    evaluation: EvalSpec | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Recipe:
    """Train an agent's model on the process reward of its own actions, or resume such a training.

    Arguments, result and errors are those of `train_sft`, except:

    * `data`: Process data or its folder, for the states of its trajectories; or the name or path of an environment's
      card, for the first states of its training questions.
    * `config`: The learning rate is by default 2e-5 (LoRA adapter) or 2e-6 (all weights), and an update is over the
      replies to 4 states. `per_device_train_batch_size` counts replies.
    * `reward`: The reward of a reply. One that gives no scores raises `RewardError`.
    * `replies`: How replies are sampled.
    * `algorithm`: "grpo" or "rloo".
    * `beta`: Weight of the KL divergence from the model before training; by default TRL's: 0 for GRPO, 0.05 for RLOO.
    """
    check_option("algorithm", algorithm, algorithm in get_args(Algorithm), f"one of {get_args(Algorithm)}")
    reward, replies = reward or StepRewardConfig(), replies or ReplyConfig()
    config, generations = config or TrainingConfig(), replies.num_generations
    # By default a batch is the replies to one state, on a CPU as well: they share its prompt.
    config = replace(config, per_device_train_batch_size=config.per_device_train_batch_size or generations)
    config = config.with_defaults(learning_rate=2e-5, batch_size=generations, rows_per_step=4 * generations)
    check_groups(config, generations, "replies per state")
    sampling = {**asdict(replies), **({} if beta is None else {"beta": beta})}
    args = trl_config(f"{algorithm.upper()}Config", config, out, **sampling)  # GRPOConfig or RLOOConfig
    adapter = lora_config(config)
    card = policy_card(agent, trust=trust)
    mdp, steps, source = _states(data, config.limit, reward, trust)
    base = load(config.model, lora=config.lora_rank > 0, dtype=config.base_dtype)
    rows, counts = _rows(steps, Renderer(card), base, config.max_length - replies.max_completion_length)
    rewards = _step_rewards(card, mdp, [step.state for step in steps], reward)
    identity = {"kind": algorithm, "data": source, "reward": asdict(reward), "replies": asdict(replies), "beta": beta}
    name = f"{algorithm.upper()}Trainer"  # GRPOTrainer or RLOOTrainer
    trainer = partial(make_trainer, name, base, adapter, args, rows, reward_funcs=rewards)
    job = agent_job(card, base, config, identity, counts, trainer)
    return run_job(job, out, evaluation, trust=trust, progress=progress)


def check_groups(config: TrainingConfig, generations: int, unit: str) -> None:
    """Raise `OptionError` unless a weight update uses whole groups, of the `unit` that the option counts."""
    batch, accumulation = config.per_device_train_batch_size or 1, config.gradient_accumulation_steps or 1
    if batch * accumulation % generations:
        raise OptionError(
            f"per_device_train_batch_size * gradient_accumulation_steps must be a multiple of num_generations = "
            f"{generations}, the {unit}; got {batch} * {accumulation} = {batch * accumulation}."
        )


def _states(
    data: str | Path | Collection, limit: int | None, reward: StepRewardConfig, trust: bool
) -> tuple[MDP, list[TrajectoryStep], dict[str, Any]]:
    """Return the environment with the process reward, the states to train on, and the identity of the data."""
    changes = {"reward.process_reward": reward.process_reward, "reward.options": dict(reward.options)}
    # An environment's name is not a folder; a card's path is a file.
    if isinstance(data, Collection) or Path(data).is_dir():
        source = ProcessData.read(data, limit)
        run = source.collections[0].run
        # The card as it was when the data was collected, and its split: "evidence" needs that split's gold facts.
        card = env_card(run.card, trust=trust)
        if not trust:
            check_authority(card)  # the folder may be somebody else's, and its card is about to be used
        mdp = load_mdp(override(card, changes), run.config["split"])
        return mdp, [step for trajectory in source.trajectories for step in trajectory.steps], source.identity
    mdp = load_mdp(override(env_card(data, trust=trust), changes), "train")
    identity = {"environment": card_identity(mdp.card), "dataset": mdp.dataset.fingerprint, "limit": limit}
    return mdp, [TrajectoryStep(mdp.dynamics.start(task.question)) for task in mdp.tasks[:limit]], identity


def _step_rewards(card: PolicyCard, mdp: MDP, states: Sequence[State], reward: StepRewardConfig) -> StepRewards:
    if mdp.reward.process_reward is None:
        raise RewardError(f"The process reward {reward.process_reward!r} gives no scores to learn from. Name another.")
    tasks = {task.id: task for task in mdp.tasks}

    def outcome(index: int, answer: Answer) -> float:
        if not reward.outcome_weight:
            return 0.0
        return reward.outcome_weight * metric_score(mdp.reward.metric, answer.text, tasks[states[index].question.id])

    return StepRewards(card, states, mdp.reward.process_reward, penalty=reward.penalty, outcome=outcome)


def _rows(
    steps: Sequence[TrajectoryStep], renderer: Renderer, base: Base, max_length: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return one row per state whose prompt has at most `max_length` tokens, and their numbers."""
    # Long prompts are dropped, never cut: they would lose their instructions or their question.
    if max_length < 1:
        raise OptionError("max_length must be greater than max_completion_length, to leave room for a prompt.")
    rows = [{"prompt": base.chat(renderer.prompt(step)), "index": number} for number, step in enumerate(steps)]
    return drop_long(rows, base, max_length, "states")
