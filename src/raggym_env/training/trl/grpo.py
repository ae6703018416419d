"""Reinforcement learning on single steps: an agent's replies in known states, rewarded by a process reward.

    raggym train grpo DATA --model smollm2+SFT --as react --reward evidence --out DIR
    raggym train grpo DATA ... --algorithm rloo

The states are those of collected trajectories. In each the model writes several replies; each is read as the agent
reads it, and its action is scored in its state. The advantage of a reply is over the others of its state: GRPO
(arXiv:2402.03300) or RLOO (arXiv:2402.14740). For whole episodes see `environment`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from raggym_env.build import MDP, load_mdp
from raggym_env.cards import PolicyCard, SearchCard, env_card, override, policy_card
from raggym_env.core import Action, Answer, State, Task
from raggym_env.errors import OptionError, RAGGymError, RewardError, RunError
from raggym_env.llm.scripted import ScriptedLLM
from raggym_env.mdp.metrics import score as metric_score
from raggym_env.policies import make
from raggym_env.protocols import Policy, ProcessReward, score
from raggym_env.runs.plan import card_identity
from raggym_env.training.process_data.rows import Render
from raggym_env.training.process_data.trajectories import Choice
from raggym_env.training.trl.fit import ProcessData, Progress, agent_job, carry_out, fitting
from raggym_env.training.trl.lm import Base, data_set, load, trainable, trl
from raggym_env.training.trl.options import Exam, Options, arguments
from raggym_env.training.trl.recipe import Recipe

__all__ = ["Algorithm", "Replies", "Scoring", "StepRewards", "train"]

Algorithm = Literal["grpo", "rloo"]


@dataclass(frozen=True, slots=True)
class Scoring:
    """What a reply earns."""

    name: str = "mini"
    """Name of the process reward."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Its options."""
    outcome_weight: float = 0.0
    """Weight of an answer's score by the environment's metric, which is added; 0 for none."""
    penalty: float = 1.0
    """For a reply that is no action; see `StepRewards`. Above 0."""

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise OptionError(f"penalty must be above 0, got {self.penalty}.")


@dataclass(frozen=True, slots=True)
class Replies:
    """How replies are drawn."""

    count: int = 4
    """Replies per state, at least 2."""
    max_tokens: int = 96
    """Tokens of a reply, at least 1. One that is cut off can hardly be read."""
    temperature: float = 1.0
    """Above 0."""

    def __post_init__(self) -> None:
        for name, value, fine, wanted in (
            ("count", self.count, self.count >= 2, "at least 2, for one to be better than another"),
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1"),
            ("temperature", self.temperature, self.temperature > 0, "above 0"),
        ):
            if not fine:
                raise OptionError(f"{name} must be {wanted}, got {value}.")


class StepRewards:
    """The reward function for TRL: a reply's action, scored in the state that its row names by `index`.

    A reply that cannot be read, or is no action that this agent may take, gets the lowest score among the replies to
    its state less `penalty`; where none can be read, all get `-penalty`, and none is learnt from. Where the process
    reward fails for a state, its replies get None, which TRL leaves out. A failure is never a score.

    Args:
        card: The agent, which says how a reply is read.
        states: What `index` counts.
        reward: The process reward.
        penalty: Above 0.
        outcome: Added for an answer, given the number of its state; by default nothing.
    """

    __name__ = "process_reward"  # what TRL's logs call it

    def __init__(
        self,
        card: PolicyCard,
        states: Sequence[State],
        reward: ProcessReward,
        *,
        penalty: float = 1.0,
        outcome: Callable[[int, Answer], float] = lambda index, answer: 0.0,
    ) -> None:
        self.card = card
        self.states = states
        self.reward = reward
        self.penalty = penalty
        self.outcome = outcome

    def __call__(
        self,
        completions: Sequence[Sequence[Mapping[str, str]]],
        index: Sequence[int],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward per reply.

        Raises:
            RewardError, RetrievalError: The process reward failed for every state of the batch.
        """
        actions = self._read([messages[-1]["content"] for messages in completions], index)
        places: dict[int, list[int]] = {}
        for place, number in enumerate(index):
            places.setdefault(number, []).append(place)
        scores = self._scores({number: [actions[place] for place in row] for number, row in places.items()})
        rewards: list[float | None] = [None] * len(index)
        for number, row in places.items():
            for place, value in zip(row, scores[number] or repeat(None), strict=False):
                rewards[place] = value
        if log_metric is not None:
            log_metric("replies/unreadable", float(np.mean([action is None for action in actions])))
            log_metric("replies/answers", float(np.mean([isinstance(action, Answer) for action in actions])))
            log_metric("replies/unscored", float(np.mean([value is None for value in rewards])))
        return rewards

    def _read(self, texts: Sequence[str], index: Sequence[int]) -> list[Action | None]:
        """The replies as actions, by the agent itself."""
        agent = reader(self.card, texts)
        return [row[0].action for row in agent.propose([self.states[number] for number in index])]

    def _scores(self, actions: Mapping[int, Sequence[Action | None]]) -> dict[int, list[float] | None]:
        readable = {number: [action for action in row if action is not None] for number, row in actions.items()}
        scored = self._process({number: row for number, row in readable.items() if row})
        return {number: self._blend(number, row, scored.get(number, [])) for number, row in actions.items()}

    def _blend(self, number: int, row: Sequence[Action | None], scores: list[float] | None) -> list[float] | None:
        if scores is None:
            return None
        acted = [action for action in row if action is not None]
        values = [
            score + (self.outcome(number, action) if isinstance(action, Answer) else 0.0)
            for score, action in zip(scores, acted, strict=True)
        ]
        unreadable, given = min(values, default=0.0) - self.penalty, iter(values)
        return [unreadable if action is None else next(given) for action in row]

    def _process(self, actions: Mapping[int, Sequence[Action]]) -> dict[int, list[float] | None]:
        """The scores per state, all at once, or, if that fails, each state alone; None where that fails too."""
        if not actions:
            return {}
        try:
            return dict(zip(actions, self._scored(list(actions), list(actions.values())), strict=True))
        except RAGGymError:
            if len(actions) == 1:
                raise
        alone: dict[int, list[float] | None] = {}
        problem: RAGGymError | None = None
        for number, row in actions.items():
            try:
                alone[number] = self._scored([number], [row])[0]
            except RAGGymError as error:
                alone[number], problem = None, error
        if problem is not None and not any(row is not None for row in alone.values()):
            raise problem
        return alone

    def _scored(self, numbers: Sequence[int], actions: Sequence[Sequence[Action]]) -> list[list[float]]:
        scores = score(self.reward, [self.states[number] for number in numbers], actions)
        if any(not np.isfinite(row).all() or len(row) != len(mine) for row, mine in zip(scores, actions, strict=True)):
            raise RewardError(
                f"{type(self.reward).__name__} must give one finite score per action, got {scores!r:.200}."
            )
        return [[float(value) for value in row] for row in scores]


def reader(card: PolicyCard, replies: Sequence[str]) -> Policy:
    """The agent, with replies that were written already."""
    card = card.model_copy(update={"search": SearchCard(), "price": None})
    return make(card, llm=ScriptedLLM(list(replies)), on_failure="fail")


def train(
    data: str | Path,
    agent: str | Path | PolicyCard,
    out: str | Path,
    options: Options | None = None,
    *,
    scoring: Scoring | None = None,
    replies: Replies | None = None,
    algorithm: Algorithm = "grpo",
    beta: float | None = None,
    exam: Exam | None = None,
    progress: Progress | None = None,
) -> Recipe:
    """Train an agent's model on the process reward of what it does, or go on with that.

    Args:
        data: A folder made by `raggym collect`, for the states of its trajectories; or the name or path of an
            environment's card, for the first states of its training questions.
        agent: Name, path or card of the prompt agent to train.
        out: Folder for what is trained; see `recipe`.
        options: What to train and how; by default a learning rate of 2e-5 (a LoRA adapter) or 2e-6 (all weights),
            and the replies to 4 states per step. `batch` counts replies.
        scoring: What a reply earns.
        replies: How replies are drawn.
        algorithm: "grpo" or "rloo".
        beta: Weight of the divergence from the model as it was; by default TRL's, 0 for GRPO and 0.05 for RLOO.
        exam: As for `sft.train`.
        progress: As for `sft.train`.

    Raises:
        RunError: There are no states to train on, or `out` holds something else.
        LLMError: The model cannot be had.
        CardError: It is no prompt agent's card, or the reward has no such options.
        RewardError: The reward cannot be used here.
        ValueError: There is no such algorithm.
    """
    if algorithm not in get_args(Algorithm):
        raise OptionError(f"algorithm must be one of {get_args(Algorithm)}, got {algorithm!r}.")
    scoring, replies = scoring or Scoring(), replies or Replies()
    options = _filled(options or Options(), replies.count)
    card = policy_card(agent)
    mdp, choices, identity = _states(data, options.limit, scoring)
    base = load(options.model, lora=options.lora_rank > 0)
    rows, counts = _rows(choices, Render(card), base, options.max_length - replies.max_tokens)
    rewards = _rewards(card, mdp, choices, scoring)
    config = {"kind": algorithm, "data": identity, "scoring": asdict(scoring), "replies": asdict(replies), "beta": beta}

    def trainer(folder: Path) -> Any:
        return _trainer(base, rows, rewards, algorithm, {**_ways(replies, beta), **arguments(options, folder)}, options)

    return carry_out(agent_job(card, base, options, config, counts, trainer), out, exam, progress)


def _filled(options: Options, generations: int) -> Options:
    options = replace(options, batch=options.batch or generations)
    options = options.filled(lr=2e-5, batch=generations, rows=4 * generations)
    replies = (options.batch or 1) * (options.accumulate or 1)
    if replies % generations:
        raise RunError(
            f"batch * accumulate must be a multiple of the {generations} replies per state, got {options.batch} * "
            f"{options.accumulate} = {replies}."
        )
    return options


def _states(data: str | Path, limit: int | None, scoring: Scoring) -> tuple[MDP, list[Choice], dict[str, Any]]:
    """The environment with the reward, the states to train on, and what identifies them."""
    changes = {"reward.process_reward": scoring.name, "reward.options": dict(scoring.options)}
    if Path(data).is_dir():
        source = ProcessData.read(data, limit)
        run = source.collection.run
        mdp = load_mdp(override(run.card, changes), run.config["split"])
        return mdp, [choice for each in source.trajectories for choice in each.choices], source.identity
    mdp = load_mdp(override(env_card(data), changes), "train")
    states = [mdp.dynamics.start(task.question) for task in mdp.tasks[:limit]]
    identity = {"environment": card_identity(mdp.card), "dataset": mdp.dataset.fingerprint, "limit": limit}
    return mdp, [Choice(state, (), Answer("?")) for state in states], identity


def _rewards(card: PolicyCard, mdp: MDP, choices: Sequence[Choice], scoring: Scoring) -> StepRewards:
    if mdp.reward.process_reward is None:
        raise RewardError(f"The process reward {scoring.name!r} scores nothing, so there is nothing to learn from it.")
    states = [choice.state for choice in choices]
    tasks: dict[str, Task] = {task.id: task for task in mdp.tasks}

    def outcome(index: int, answer: Answer) -> float:
        return scoring.outcome_weight * metric_score(mdp.reward.metric, answer.text, tasks[states[index].question.id])

    graded = {"outcome": outcome} if scoring.outcome_weight else {}
    return StepRewards(card, states, mdp.reward.process_reward, penalty=scoring.penalty, **graded)


def _rows(
    choices: Sequence[Choice], render: Render, base: Base, max_length: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    if max_length < 1:
        raise RunError("There is no room for a prompt: max_length must be more than a reply's max_tokens.")
    prompts = [{"prompt": base.chat(render.prompt(choice))} for choice in choices]
    kept, counts = fitting(prompts, base, max_length, "states")
    short = {id(row) for row in kept}
    return [{**row, "index": number} for number, row in enumerate(prompts) if id(row) in short], counts


def _ways(replies: Replies, beta: float | None) -> dict[str, Any]:
    ways = {
        "num_generations": replies.count,
        "max_completion_length": replies.max_tokens,
        "temperature": replies.temperature,
    }
    return ways if beta is None else {**ways, "beta": beta}


def _trainer(
    base: Base, rows: list[Any], rewards: StepRewards, algorithm: Algorithm, given: dict[str, Any], options: Options
) -> Any:
    name = algorithm.upper()
    return getattr(trl, f"{name}Trainer")(
        **trainable(base, options.lora_rank),
        reward_funcs=rewards,
        args=getattr(trl, f"{name}Config")(**given),
        train_dataset=data_set(rows),
        processing_class=base.tokenizer,
    )
