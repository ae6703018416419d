"""The reward of a step: outcome and process reward, weighted and added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from raggym_env.core import Action, State, Task
from raggym_env.errors import check_option
from raggym_env.mdp.metrics import METRICS, score
from raggym_env.protocols import ProcessReward
from raggym_env.protocols import score as score_actions

__all__ = ["Reward", "StepReward"]


class Reward(NamedTuple):
    """The reward of one step, and the two parts before weighting."""

    total: float
    outcome: float
    process_reward: float


_ZERO = Reward(0.0, 0.0, 0.0)


class StepReward:
    """Rewards steps by `total = outcome_weight * outcome + process_weight * process_reward`.

    The outcome is 0 until the episode has ended; then it is the metric's score in [0, 1] of the answer that counts,
    or 0 if there is none. The process reward is the score of the action in its state, or 0 without a process reward
    model.

    Args:
        metric: Scores answers; a name in `metrics.METRICS`.
        process_reward: Scores actions; None for outcome rewards only.
        outcome_weight: Factor of the outcome.
        process_weight: Factor of the process reward.

    Raises:
        OptionError: No metric has that name.
    """

    def __init__(
        self,
        metric: str = "em",
        process_reward: ProcessReward | None = None,
        *,
        outcome_weight: float = 1.0,
        process_weight: float = 1.0,
    ) -> None:
        check_option("metric", metric, metric in METRICS, f"one of {sorted(METRICS)}")
        self.metric = metric
        self.process_reward = process_reward
        self.outcome_weight = outcome_weight
        self.process_weight = process_weight

    def score(
        self, tasks: Sequence[Task], states: Sequence[State], actions: Sequence[Action], after: Sequence[State]
    ) -> list[Reward]:
        """Return the rewards of `n` steps: of the `actions` taken in `states`, which led to the states `after`.

        The gold answers of the `tasks`, one for each step, grade the outcomes.

        Raises:
            RewardError: The process reward failed.
        """
        if self.process_reward is None:
            # Most steps are searches then, and share one immutable zero.
            pairs = zip(tasks, after, strict=True)
            return [_ZERO if state.stop is None else self._reward(task, state, 0.0) for task, state in pairs]
        # One call for all steps: a process reward model is the slowest part of a step, and fastest in batches.
        rows = score_actions(self.process_reward, states, [(action,) for action in actions])
        return [self._reward(task, state, float(row[0])) for task, state, row in zip(tasks, after, rows, strict=True)]

    def _reward(self, task: Task, state: State, value: float) -> Reward:
        outcome = 0.0 if state.stop is None else score(self.metric, state.answer, task)
        return Reward(self.outcome_weight * outcome + self.process_weight * value, outcome, value)
