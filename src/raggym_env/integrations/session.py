"""One episode after another, as frameworks with tools drive them: text in, text and rewards out.

    world = load_world("RAGGym-Synth-v0", split="train")
    session = Session(world)
    print(session.reset(row=0))              # the question
    print(session.search("Mara Quill"))      # the new passages
    session.answer("Ostby")
    print(session.reward, session.outcome, session.process, session.done)

The same actions get the same rewards as in `RAGEnv`, whose transition and rewards these are. Many sessions share one
world; with a `StepBatcher`, the searches and rewards of those that step at the same time are batched.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding

from raggym_env.build import load_mdp
from raggym_env.cards import EnvCard
from raggym_env.core import Action, Answer, Search, State, StopReason, Task, as_action
from raggym_env.envs.episodes import Episodes, Outcome
from raggym_env.errors import InvalidAction, InvalidReset, check_option
from raggym_env.integrations.batching import StepBatcher
from raggym_env.mdp.step_reward import Reward
from raggym_env.retrieval.server.batching import SearchTimeout
from raggym_env.text.tagged import information, tagged_text

__all__ = ["LARGEST_SEED", "TRAINING_SECONDS", "Session", "is_row", "load_world"]

LARGEST_SEED = 2**64 - 1  # as large as NumPy's own; a number of any length would take as long to use
TRAINING_SECONDS = 600.0  # that a step may take in training: a process reward may be a large language model's score
_ENDED = {
    StopReason.ANSWER: "The episode has ended with your answer.",
    StopReason.SEARCH_BUDGET: "No searches are left, so this one was not run and the episode has ended.",
}


def load_world(card: str | Path | EnvCard, split: str | None = None, **settings: Any) -> Episodes:
    """Return the tasks, the transition and the rewards of a card: what all sessions share.

    Args:
        card: Name, path or card of an environment.
        split: Split of the tasks; by default the card's `default_split`.
        settings: The other arguments of `raggym_env.build.load_mdp`, whose errors these are too.
    """
    mdp = load_mdp(card, split, **settings)
    return Episodes(mdp.tasks, mdp.dynamics, mdp.reward)


def is_row(index: Any, question_id: Any, world: Episodes) -> TypeGuard[int]:
    """Return whether the index of a trainer's row is that of the question with an id. Both may be anything."""
    is_index = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(world.tasks)
    return is_index and bool(world.tasks[index].id == question_id)


class Session:
    """Runs one episode at a time on a shared world.

    Args:
        world: What `load_world` returns; `RAGEnv.episodes` is one too.
        batcher: Takes the steps together with those of other sessions; None takes each by itself.
        passage_chars: Characters shown of each passage.
        seconds: Time that a step may take with a batcher.

    Raises:
        OptionError: `passage_chars` is below 1.
    """

    def __init__(
        self, world: Episodes, *, batcher: StepBatcher | None = None, passage_chars: int = 600, seconds: float = 60.0
    ) -> None:
        check_option("passage_chars", passage_chars, passage_chars >= 1, "at least 1")
        self.world = world
        self.task: Task | None = None
        """The current task, with its gold answer: for rewards, not for agents."""
        self.row: int | None = None
        """The task's position in the split."""
        self.state: State | None = None
        self.rewards: list[Reward] = []
        """The reward of every step of the episode, with its two parts."""
        self._batcher = batcher
        self._passage_chars = passage_chars
        self._seconds = seconds
        self._rng: np.random.Generator | None = None
        self._stepping = threading.Lock()

    @property
    def done(self) -> bool:
        """True once the episode has ended."""
        return self.state is not None and self.state.stop is not None

    @property
    def searches_left(self) -> int:
        """Searches that the episode has left; those of a new one before the first reset."""
        return self.world.dynamics.max_searches if self.state is None else self.state.searches_left

    @property
    def reward(self) -> float:
        """The last step's reward, weighted and added up from its two parts; 0 before the first step."""
        return self.rewards[-1].total if self.rewards else 0.0

    @property
    def outcome(self) -> float:
        """The last step's outcome reward: the answer's score in [0, 1] where the episode has ended, else 0."""
        return self.rewards[-1].outcome if self.rewards else 0.0

    @property
    def process(self) -> float:
        """The last step's process reward."""
        return self.rewards[-1].process_reward if self.rewards else 0.0

    @property
    def episode_return(self) -> float:
        """The sum of the rewards of all steps so far."""
        return sum(reward.total for reward in self.rewards)

    def report(self) -> dict[str, Any]:
        """Return what a program reads of the last step: the reward, its two parts, and what is left of the episode."""
        return {
            "done": self.done,
            "searches_left": self.searches_left,
            "reward": self.reward,
            "outcome_reward": self.outcome,
            "process_reward": self.process,
        }

    def reset(self, seed: int | None = None, row: int | None = None) -> str:
        """Start an episode, and return the question and its options as text.

        Args:
            seed: Seeds this session's own generator; the question is then the one that `RAGEnv.reset(seed=...)` draws.
            row: The task's position in the split; None draws one.

        Raises:
            InvalidReset: The seed or the row is not a whole number in its range, or a step is running.
        """
        for name, value in (("seed", seed), ("row (index)", row)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
                raise InvalidReset(f"{name} must be a whole number, got {value!r:.80}.")
        if seed is not None and not 0 <= seed <= LARGEST_SEED:
            raise InvalidReset(f"seed must be in [0, 2**64), got {_digits(seed)}.")
        if row is not None and not 0 <= row < len(self.world.tasks):
            raise InvalidReset(f"row (index) must be in [0, {len(self.world.tasks)}), got {_digits(row)}.")
        with self._alone(InvalidReset):
            if seed is not None or self._rng is None:
                self._rng, _ = seeding.np_random(None if seed is None else int(seed))
            self.row = self.world.pick(self._rng, None if row is None else {"index": int(row)})
            self.task = self.world.tasks[self.row]
            self.state = self.world.dynamics.start(self.task.question)
            self.rewards = []
            return tagged_text(self.state)

    def search(self, query: str, draft: str | None = None) -> str:
        """Search, and return the passages as text. Arguments are those of `Search`, errors those of `step`."""
        return self.step(Search(query, draft))

    def answer(self, text: str) -> str:
        """Answer, which ends the episode, and return a text that says so. Errors are those of `step`."""
        return self.step(Answer(text))

    def step(self, action: Action | tuple[int, str]) -> str:
        """Take an action, and return what it led to as text.

        Raises:
            ResetNeeded: No episode is running.
            InvalidAction: The action is neither a search nor an answer, or another step of this session is running.
            RetrievalError: The search failed or took too long. The episode is unchanged, so the step may be repeated.
            RewardError: The process reward failed. Likewise.
        """
        with self._alone(InvalidAction):
            task, state, parsed = self._running(action)
            if self._batcher is None:
                (outcome,) = self.world.step((task,), (state,), (parsed,))
                return self._commit(outcome)
            future = self._batcher.submit(task, state, parsed)
            try:
                return self._commit(future.result(self._seconds))
            except TimeoutError as error:
                future.cancel()
                raise self._timeout() from error

    async def step_async(self, action: Action | tuple[int, str]) -> str:
        """Take an action like `step`, without blocking the event loop."""
        if self._batcher is None:
            return await asyncio.to_thread(self.step, action)
        with self._alone(InvalidAction):
            task, state, parsed = self._running(action)
            future = asyncio.wrap_future(self._batcher.submit(task, state, parsed))
            try:
                return self._commit(await asyncio.wait_for(future, self._seconds))
            except TimeoutError as error:
                raise self._timeout() from error

    def _running(self, action: Action | tuple[int, str]) -> tuple[Task, State, Action]:
        if self.task is None or self.state is None or self.done:
            raise ResetNeeded("No episode is running: reset first.")
        return self.task, self.state, as_action(action)

    @contextmanager
    def _alone(self, error: type[InvalidAction] | type[InvalidReset]) -> Iterator[None]:
        # Two steps from one state would lose the passages of one of them.
        if not self._stepping.acquire(blocking=False):
            raise error("A step of this episode is running. Wait for its result.")
        try:
            yield
        finally:
            self._stepping.release()

    def _commit(self, outcome: Outcome) -> str:
        self.state = outcome.state
        self.rewards.append(outcome.reward)
        if outcome.state.stop is not None:
            return _ENDED[outcome.state.stop]
        return information(outcome.state, self._passage_chars)

    def _timeout(self) -> SearchTimeout:
        return SearchTimeout(f"The step took longer than {self._seconds:g} s. The episode is unchanged.")


def _digits(value: int) -> str:
    # Python refuses to print numbers of thousands of digits.
    return f"{value:,}" if -(2**99) < value < 2**99 else "a number of more than 29 digits"
