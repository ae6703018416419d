"""The part that `RAGEnv` and `RAGVectorEnv` share: picking tasks and stepping many episodes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from raggym_env.core import Action, State, StopReason, Task
from raggym_env.errors import DataError, InvalidReset, UnknownName
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.step_reward import Reward, StepReward

__all__ = ["Episodes", "Outcome"]


class Outcome(NamedTuple):
    """The result of one step."""

    state: State
    reward: Reward

    @property
    def terminated(self) -> bool:
        return self.state.stop is StopReason.ANSWER

    @property
    def truncated(self) -> bool:
        return self.state.stop is StopReason.SEARCH_BUDGET

    def info(self, task: Task) -> dict[str, Any]:
        """Return a step's `info`: both parts of the reward; at the end also the stop reason and the graded answer."""
        state, (_, outcome, process_reward) = self
        info: dict[str, Any] = {
            "question_id": task.question.id,
            "outcome_reward": outcome,
            "process_reward": process_reward,
        }
        if state.stop is not None:
            info["stop_reason"] = state.stop.value
            info["answer"] = state.answer or ""
        return info


class Episodes:
    """Picks tasks for new episodes and steps running ones; holds the tasks, their dynamics and the reward of a step."""

    def __init__(self, tasks: Sequence[Task], dynamics: Dynamics, reward: StepReward | None = None) -> None:
        if not len(tasks):
            raise DataError("An environment needs at least one task, got none.")
        self.tasks = tasks
        self.dynamics = dynamics
        self.reward = reward or StepReward()

    def pick(self, rng: np.random.Generator, options: Mapping[str, Any] | None) -> int:
        """Return the index of the task that `reset` starts: named by `options`, else drawn uniformly.

        Args:
            rng: Drawn from only if `options` names no task.
            options: `{"index": i}` or `{"question": id or text}`; anything else is refused.

        Raises:
            UnknownName: No task has that question.
            InvalidReset: The index is not a whole number in `range(len(tasks))`, or another option was given.
        """
        if not options:
            return int(rng.integers(len(self.tasks)))
        if len(options) > 1 or not options.keys() & {"index", "question"}:
            raise InvalidReset(
                f'reset options are {{"index": i}} or {{"question": id or text}}, got {dict(options)!r}.'
            )
        if "index" in options:
            index = options["index"]
            if not isinstance(index, int | np.integer) or not 0 <= index < len(self.tasks):
                raise InvalidReset(f"index must be a whole number in [0, {len(self.tasks)}), got {index!r}.")
            return int(index)
        question = options["question"]
        # A scan: picking by question is for people and tests, and an index of a million texts would cost everybody.
        for index, task in enumerate(self.tasks):
            if question in (task.question.id, task.question.text):
                return index
        raise UnknownName("question", str(question), (task.question.text for task in self.tasks))

    def step(self, tasks: Sequence[Task], states: Sequence[State], actions: Sequence[Action]) -> list[Outcome]:
        """Step `n` running episodes, with one retriever call and one process-reward call.

        Raises:
            RetrievalError: The search failed. Nothing has changed, so the step may be repeated.
            RewardError: The process reward failed. Likewise.
        """
        # Both calls may fail and neither changes a state, so a failed step can be repeated.
        next_states = self.dynamics.transition(states, actions)
        rewards = self.reward.score(tasks, states, actions, next_states)
        return [*map(Outcome, next_states, rewards)]
