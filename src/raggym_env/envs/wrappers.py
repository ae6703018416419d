"""Wrappers: text in and text out, and a record of every episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.error import ResetNeeded

from raggym_env.core import Obs, State
from raggym_env.envs.env import RAGEnv
from raggym_env.envs.spaces import UnicodeText
from raggym_env.errors import InvalidAction
from raggym_env.mdp.records import Episode, Step, append_record
from raggym_env.text.tagged import parse_tagged, tagged_text

__all__ = ["RecordEpisodes", "TaggedText"]


class TaggedText(gym.Wrapper[Any, Any, Any, Any]):
    """Text in, text out: observations by `tagged_text`, actions by `parse_tagged`."""

    def __init__(self, env: gym.Env[Obs, Any], *, invalid_reward: float | None = None) -> None:
        """Wrap an environment.

        Args:
            env: A `RAGEnv`, wrapped or not.
            invalid_reward: With None, a text that cannot be parsed raises `InvalidAction` and the episode continues.
                With a number, it truncates the episode with that reward and `info["parse_failure"]` says why, as
                training loops over language models need.
        """
        super().__init__(env)
        self.invalid_reward = invalid_reward
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText(min_length=1)
        self._obs: Obs | None = None
        self._failed = False
        self._info: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._info = {"question_id": info["question_id"], "outcome_reward": 0.0, "process_reward": 0.0}
        return self._text(obs), info

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._failed or self._obs is None:
            raise ResetNeeded("No episode is running: call reset() first.")
        try:
            parsed = parse_tagged(action)
        except InvalidAction as error:
            if self.invalid_reward is None:
                raise
            self._failed = True
            info = {**self._info, "stop_reason": "parse_failure", "parse_failure": str(error)}
            return tagged_text(State.from_obs(self._obs)), self.invalid_reward, False, True, info
        obs, reward, terminated, truncated, info = self.env.step(parsed)
        return self._text(obs), float(reward), terminated, truncated, info

    def _text(self, obs: Obs) -> str:
        self._obs, self._failed = obs, False
        return tagged_text(State.from_obs(obs))


class RecordEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Appends every ended episode to a file, in the form of a run folder's `episodes.jsonl`.

    An episode that an inner wrapper cuts short is recorded too, with that wrapper's `stop_reason` if it gives one,
    else "truncated".
    """

    def __init__(self, env: gym.Env[Any, Any], path: str | Path) -> None:
        """Wrap an environment.

        Args:
            env: A `RAGEnv`, wrapped or not.
            path: File to append to; made with its folder if it does not exist.
        """
        super().__init__(env)
        if not isinstance(env.unwrapped, RAGEnv):
            raise TypeError(f"RecordEpisodes wraps a RAGEnv, got {env.unwrapped}.")
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._base = env.unwrapped
        self._steps: list[Step] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._steps = []
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        state = self._base.state
        obs, reward, terminated, truncated, info = self.env.step(action)
        next_state, action_taken = self._base.state, self._base.action
        # An inner wrapper may have answered for the environment, e.g. when a text could not be parsed: no step then.
        if state is not None and next_state is not None and action_taken is not None and next_state is not state:
            rewards = info["outcome_reward"], info["process_reward"]
            self._steps.append(Step.of(state, action_taken, next_state, *rewards))
        if next_state is not None and (terminated or truncated):
            record = Episode.of(next_state, tuple(self._steps)).to_json()
            append_record(self.path, {**record, "stop": record["stop"] or info.get("stop_reason", "truncated")})
        return obs, reward, terminated, truncated, info
