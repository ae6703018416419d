"""Many episodes at once: one batched retrieval and one batched process-reward call per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from raggym_env.core import State, Task, as_action
from raggym_env.envs.episodes import Episodes, Outcome
from raggym_env.envs.spaces import action_space, observation_space, observe
from raggym_env.errors import InvalidAction, OptionError
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.step_reward import StepReward

__all__ = ["RAGVectorEnv"]

VectorObs = dict[str, Any]
VectorStep = tuple[VectorObs, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class RAGVectorEnv(VectorEnv[VectorObs, Any, Any]):
    """`n` episodes of `RAGEnv` in step, equal to `SyncVectorEnv` over `n` of them but batched.

    Observations are batched as Gymnasium batches them: `question`, `options` and `history` are tuples of length
    `n`, `searches_left` is an int64 array of shape `(n,)`. Actions are a sequence of `n` actions; in an
    environment that the step only resets (autoreset mode "NextStep") the action is not looked at and may be None.

    Gymnasium's own `SyncVectorEnv` works, too, and so does `AsyncVectorEnv` with `shared_memory=False`: texts of any
    length have no shared memory.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # an instance variable in VectorEnv

    def __init__(
        self,
        tasks: Sequence[Task],
        dynamics: Dynamics,
        reward: StepReward | None = None,
        *,
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        """Make a vector environment from parts; `gym.make_vec` makes one from a card.

        Args:
            tasks: Questions to draw episodes from, at least one.
            dynamics: The transition: retriever, passages per search, search budget.
            reward: How steps are rewarded; by default exact match of the answer.
            num_envs: Number of parallel episodes, `n`, at least 1.
            autoreset_mode: When an ended episode is followed by the next; see `gymnasium.vector.AutoresetMode`.
        """
        if num_envs < 1:
            raise OptionError(f"num_envs must be at least 1, got {num_envs}.")
        self.num_envs = num_envs
        self.episodes = Episodes(tasks, dynamics, reward)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = observation_space(dynamics.max_searches)
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._tasks: list[Task | None] = [None] * num_envs
        self._states: list[State | None] = [None] * num_envs

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[VectorObs, dict[str, Any]]:
        """Start an episode in every environment, or in those of `options["reset_mask"]`.

        Args:
            seed: None, or one seed per environment; an int stands for `seed, seed + 1, ...`.
            options: As for `RAGEnv.reset`, for all environments; and `reset_mask`, a bool array of shape `(n,)`.
        """
        seeds = self._seeds(seed)
        task_options = dict(options or {})
        mask = _reset_mask(task_options.pop("reset_mask", None), self.num_envs)
        infos: list[dict[str, Any] | None] = [None] * self.num_envs
        for i in np.flatnonzero(mask).tolist():
            if seeds[i] is not None:
                self._rngs[i], _ = seeding.np_random(seeds[i])
            infos[i] = self._start(i, task_options)
        return self._observe(), _batch_infos(infos)

    def step(self, actions: Sequence[Any]) -> VectorStep:
        """Step every running episode; start a new one where the autoreset mode says so.

        Returns:
            As `gymnasium.vector.SyncVectorEnv.step`: observations, rewards float64 `(n,)`, terminated and
            truncated bool `(n,)`, and infos as arrays with masks.

        Raises:
            ResetNeeded: `reset` was never called, or an ended episode was not reset in mode "Disabled".
            InvalidAction: An action is neither a search nor an answer, or there are not `num_envs` actions. Nothing has
                changed.
            RetrievalError: The search failed. Nothing has changed, so the step may be repeated.
            RewardError: The process reward failed. Likewise.
        """
        if len(actions) != self.num_envs:
            raise InvalidAction(f"{self.num_envs} environments need as many actions, got {len(actions)}.")
        rows = self._running()
        tasks = [self._tasks[i] for i in rows]
        outcomes = self.episodes.step(
            tasks,  # type: ignore[arg-type]  # rows run, so they have tasks and states
            [self._states[i] for i in rows],  # type: ignore[misc]
            [as_action(actions[i]) for i in rows],
        )
        return self._commit(rows, outcomes)

    def _commit(self, rows: list[int], outcomes: list[Outcome]) -> VectorStep:
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        infos: list[dict[str, Any] | None] = [None] * self.num_envs
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            # In this mode the step after an episode's end only resets it; its action was not looked at.
            for i in set(range(self.num_envs)).difference(rows):
                infos[i] = self._start(i)
        for i, outcome in zip(rows, outcomes, strict=True):
            task = self._tasks[i]
            self._states[i] = outcome.state
            rewards[i] = outcome.reward.total
            terminated[i] = outcome.terminated
            truncated[i] = outcome.truncated
            infos[i] = outcome.info(task)  # type: ignore[arg-type]
            if outcome.state.stop is not None and self.autoreset_mode is AutoresetMode.SAME_STEP:
                # The observation returned below is of the next episode, so the last one travels in `info`.
                final = {"final_obs": observe(outcome.state), "final_info": infos[i]}
                infos[i] = {**final, **self._start(i)}
        return self._observe(), rewards, terminated, truncated, _batch_infos(infos)

    def _running(self) -> list[int]:
        """Return the environments to step. In mode "NextStep" the others are reset instead.

        Raises:
            ResetNeeded: An environment was never reset, or has ended in mode "Disabled".
        """
        if any(state is None for state in self._states):
            raise ResetNeeded("No episode is running: call reset() first.")
        rows = [i for i, state in enumerate(self._states) if state is not None and state.stop is None]
        if len(rows) < self.num_envs and self.autoreset_mode is AutoresetMode.DISABLED:
            ended = sorted(set(range(self.num_envs)).difference(rows))
            raise ResetNeeded(f'Environments {ended} have ended: call reset(options={{"reset_mask": ...}}) first.')
        return rows

    def _start(self, i: int, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        rng = self._rngs[i]
        if rng is None:
            self._rngs[i] = rng = seeding.np_random()[0]
        index = self.episodes.pick(rng, options)
        task = self.episodes.tasks[index]
        self._tasks[i] = task
        self._states[i] = self.episodes.dynamics.start(task.question)
        return {"question_id": task.id, "index": index}

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        seeds: list[int | None]
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        if len(seeds) != self.num_envs:
            raise OptionError(f"{self.num_envs} environments need as many seeds, got {len(seeds)}.")
        return seeds

    def _observe(self) -> VectorObs:
        states = [state for state in self._states if state is not None]
        if len(states) < self.num_envs:
            raise ResetNeeded("Some environments were never reset: call reset() without a mask first.")
        return {
            # Lists inside `tuple` are a third faster than generators, and this runs at every step.
            "question": tuple([state.question.text for state in states]),
            "options": tuple([state.question.options for state in states]),
            "history": tuple([state.history for state in states]),
            "searches_left": np.array([state.searches_left for state in states], np.int64),
        }


def _reset_mask(mask: Any, n: int) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(n, np.bool_)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (n,) or not mask.any():
        raise OptionError(f"reset_mask must be a bool array of shape ({n},) with a True in it, got {mask!r}.")
    return mask


def _batch_infos(infos: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Arrays with masks, as `VectorEnv._add_info` makes them one key and environment at a time, only faster."""
    present = [(i, info) for i, info in enumerate(infos) if info is not None]
    batched: dict[str, Any] = {}
    for key in dict.fromkeys(chain.from_iterable(info for _, info in present)):
        rows = [i for i, info in present if key in info]
        mask = np.zeros(len(infos), np.bool_)
        mask[rows] = True
        values = [info[key] for _, info in present if key in info]
        batched[key], batched[f"_{key}"] = _batch_values(key, values, rows, len(infos)), mask
    return batched


def _batch_values(key: str, items: list[Any], rows: list[int], n: int) -> Any:
    if isinstance(items[0], dict) and key != "final_obs":
        spread: list[dict[str, Any] | None] = [None] * n
        for i, item in zip(rows, items, strict=True):
            spread[i] = item
        return _batch_infos(spread)
    if type(items[0]) in (int, float):
        array = np.zeros(n, type(items[0]))
        array[rows] = items
        return array
    array = np.full(n, None, object)
    for i, item in zip(rows, items, strict=True):
        array[i] = item  # one by one: NumPy would unpack the tuples of an observation into columns
    return array
