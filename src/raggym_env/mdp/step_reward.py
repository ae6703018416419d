"""How outcome and process blend into the reward of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from raggym_env.core import Action, State, Task
from raggym_env.errors import OptionError
from raggym_env.mdp.metrics import METRICS, score
from raggym_env.protocols import ProcessReward
from raggym_env.protocols import score as score_actions

__all__ = ["Reward", "StepReward"]


class Reward(NamedTuple):
    """The reward of one step and its two parts, before weighting."""

    total: float
    outcome: float
    process_reward: float


_ZERO = Reward(0.0, 0.0, 0.0)


class StepReward:
    """Rewards steps by `total = outcome_weight * outcome + process_weight * process`.

    The outcome is the metric's score in [0, 1] of the answer that counts once the episode has ended (0 if it
    ended without one) and 0 before. The process part is the process reward's score of the action in its state;
    with no process reward it is 0.
    """

    def __init__(
        self,
        metric: str = "em",
        process_reward: ProcessReward | None = None,
        *,
        outcome_weight: float = 1.0,
        process_weight: float = 1.0,
    ) -> None:
        if metric not in METRICS:
            raise OptionError(f"metric must be one of {sorted(METRICS)}, got {metric!r}.")
        self.metric = metric
        self.process_reward = process_reward
        self.outcome_weight = outcome_weight
        self.process_weight = process_weight

    def score(
        self, tasks: Sequence[Task], states: Sequence[State], actions: Sequence[Action], after: Sequence[State]
    ) -> list[Reward]:
        """Reward `n` steps: the action taken in each state, and the state it led to.

        Raises:
            RewardError: The process reward failed.
        """
        process_rewards = self._process_rewards(states, actions)
        return [
            # Most steps are searches without a process reward; they share one immutable zero.
            _ZERO if state.stop is None and part == 0.0 else self._blend(task, state, part)
            for task, state, part in zip(tasks, after, process_rewards, strict=True)
        ]

    def _blend(self, task: Task, state: State, process_reward: float) -> Reward:
        outcome = 0.0 if state.stop is None else score(self.metric, state.answer, task)
        return Reward(self.outcome_weight * outcome + self.process_weight * process_reward, outcome, process_reward)

    def _process_rewards(self, states: Sequence[State], actions: Sequence[Action]) -> list[float]:
        if self.process_reward is None:
            return [0.0] * len(states)
        return [float(row[0]) for row in score_actions(self.process_reward, states, [(action,) for action in actions])]
