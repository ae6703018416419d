"""The environment: one question at a time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.error import ResetNeeded

from raggym_env.core import Action, Obs, State, Task, as_action
from raggym_env.envs.episodes import Episodes, Outcome
from raggym_env.envs.render import render_episode
from raggym_env.envs.spaces import ActType, action_space, observation_space, observe
from raggym_env.errors import OptionError
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.step_reward import StepReward

__all__ = ["RAGEnv"]

RENDER_MODES = ("ansi", "human")


class RAGEnv(gym.Env[Obs, ActType]):
    """Question answering with a search engine as a Markov decision process.

    ## Description
    A question opens an episode. The agent searches, reads the passages found, searches again, and answers.

    ## Action Space
    `OneOf((query, answer))`: `(0, query)` searches, `(1, answer)` answers. `step` also takes
    `Search(query, draft)` and `Answer(text)`. A question with options is answered by a letter or
    by the option's text.

    ## Observation Space
    `Dict(question, options, history, searches_left)`: the question, its options (empty if it has none), the past
    searches, oldest first, each with its passages, best first, and the number of searches left. It never contains
    a gold answer or the name of the task.

    ## Rewards
    `outcome_weight * outcome + process_weight * process_reward`, see `raggym_env.mdp.step_reward.StepReward`. Both
    parts are in `info` as `outcome_reward` and `process_reward`.

    ## Starting State
    The question, an empty history and the full search budget. `reset` draws a question uniformly; with
    `options={"index": i}` or `options={"question": id or text}` it takes that one.

    ## Episode End
    `terminated` on an answer. `truncated` when a search is asked for with none left: it is not run, and its draft,
    if it has one, is graded as the answer. The last step's `info` has `stop_reason` and the `answer` that counted.

    ## References
    Xiong et al., RAG-Gym, arXiv:2502.13957, section 2.1.

    ## Version History
    * v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # an instance variable in gym.Env
        "render_modes": list(RENDER_MODES),
        "render_fps": 1,
    }

    def __init__(
        self,
        tasks: Sequence[Task],
        dynamics: Dynamics,
        reward: StepReward | None = None,
        *,
        render_mode: str | None = None,
    ) -> None:
        """Make an environment from parts; `gym.make` makes one from a card.

        Args:
            tasks: Questions to draw episodes from, at least one.
            dynamics: The transition: retriever, passages per search, search budget.
            reward: How steps are rewarded; by default exact match of the answer.
            render_mode: "ansi" (render returns text), "human" (every step is printed) or None.
        """
        if render_mode not in (None, *RENDER_MODES):
            raise OptionError(f"render_mode must be None or one of {RENDER_MODES}, got {render_mode!r}.")
        self.episodes = Episodes(tasks, dynamics, reward)
        self.render_mode = render_mode
        # Obs is the TypedDict of what this space holds, which Gymnasium's type of a Dict space cannot say.
        self.observation_space = observation_space(dynamics.max_searches)  # type: ignore[assignment]
        self.action_space = action_space()
        self.task: Task | None = None
        """The current task, with its gold answer: for rewards, wrappers and people, not for agents."""
        self.state: State | None = None
        self.action: Action | None = None
        """The last action taken in this episode, for wrappers."""
        self._outcomes: list[Outcome] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seeds the environment's own generator; no global one is touched.
            options: `{"index": i}` or `{"question": id or text}` picks the question.

        Returns:
            observation: The question with an empty history.
            info: `question_id`, and `index`: the question's place in the split.
        """
        super().reset(seed=seed)
        index = self.episodes.pick(self.np_random, options)
        self.task = self.episodes.tasks[index]
        self.state = self.episodes.dynamics.start(self.task.question)
        self.action = None
        self._outcomes = []
        if self.render_mode == "human":
            print(self._text())
        return observe(self.state), {"question_id": self.task.id, "index": index}

    def step(self, action: ActType) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Run one search, or grade the answer and end the episode.

        Args:
            action: `Search(query)`, `Answer(text)`, `(0, query)` or `(1, answer)`.

        Returns:
            observation: The question and all passages found so far, oldest search first.
            reward: See the class's Rewards.
            terminated: True once an answer is given, right or wrong.
            truncated: True when a search was asked for with none left.
            info: `question_id`, `outcome_reward`, `process_reward`; on the last step also `stop_reason` and `answer`.

        Raises:
            ResetNeeded: No episode is running.
            InvalidAction: The action is neither a search nor an answer. The episode is unchanged.
            RetrievalError: The search failed. The episode is unchanged, so the step may be repeated.
            RewardError: The process reward failed. Likewise.
        """
        task, state = self.task, self.state
        if task is None or state is None or state.stop is not None:
            raise ResetNeeded("No episode is running: call reset() first.")
        parsed = as_action(action)
        (outcome,) = self.episodes.step((task,), (state,), (parsed,))
        # Assigned only once everything has succeeded: a failed search leaves the episode as it was.
        self.state, self.action = outcome.state, parsed
        if self.render_mode is not None:
            self._outcomes.append(outcome)
            if self.render_mode == "human":
                print(self._text(last=True))
        return observe(outcome.state), outcome.reward.total, outcome.terminated, outcome.truncated, outcome.info(task)

    def render(self) -> str | None:
        """The episode so far as text in render mode "ansi"; otherwise None."""
        return self._text() if self.render_mode == "ansi" and self.state is not None else None

    def _text(self, *, last: bool = False) -> str:
        assert self.state is not None  # noqa: S101  # only called after reset
        rewards = [outcome.reward for outcome in self._outcomes]
        # A person's terminal has its own width; the text of "ansi" is the same everywhere.
        width = shutil.get_terminal_size((100, 24)).columns if self.render_mode == "human" else 100
        return render_episode(self.state, rewards, last=last, width=width)
