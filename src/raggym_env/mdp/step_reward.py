"""How outcome and process blend into the reward of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raggym_env.core import Action, State, Task
from raggym_env.errors import RewardError
from raggym_env.mdp.metrics import METRICS, score
from raggym_env.protocols import ProcessReward

__all__ = ["Reward", "StepReward"]


class Reward(NamedTuple):
    """The reward of one step and its two parts, before weighting."""

    total: float
    outcome: float
    process: float


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
        process: ProcessReward | None = None,
        *,
        outcome_weight: float = 1.0,
        process_weight: float = 1.0,
    ) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {sorted(METRICS)}, got {metric!r}.")
        self.metric = metric
        self.process = process
        self.outcome_weight = outcome_weight
        self.process_weight = process_weight

    def score(
        self, tasks: Sequence[Task], states: Sequence[State], actions: Sequence[Action], after: Sequence[State]
    ) -> list[Reward]:
        """Reward `n` steps: the action taken in each state, and the state it led to.

        Raises:
            RewardError: The process reward failed.
        """
        process = self._process_scores(states, actions)
        return [
            # Most steps are searches without a process reward; they share one immutable zero.
            _ZERO if state.stop is None and part == 0.0 else self._blend(task, state, part)
            for task, state, part in zip(tasks, after, process, strict=True)
        ]

    def _blend(self, task: Task, state: State, process: float) -> Reward:
        outcome = 0.0 if state.stop is None else score(self.metric, state.answer, task)
        return Reward(self.outcome_weight * outcome + self.process_weight * process, outcome, process)

    def _process_scores(self, states: Sequence[State], actions: Sequence[Action]) -> list[float]:
        if self.process is None:
            return [0.0] * len(states)
        scores = [np.asarray(row, np.float32) for row in self.process.score(states, [(a,) for a in actions])]
        if len(scores) != len(states) or any(row.shape != (1,) or not np.isfinite(row[0]) for row in scores):
            raise RewardError(
                f"{type(self.process).__name__} must give one finite score per action: {len(states)} arrays "
                f"of shape (1,), got {len(scores)} {[row.tolist() for row in scores]!r:.200}."
            )
        return [float(row[0]) for row in scores]
