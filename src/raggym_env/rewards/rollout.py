"""Process reward by Monte-Carlo completions of the episode (Math-Shepherd, arXiv 2312.08935)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, State, Task, Usage, state_rng
from raggym_env.errors import OptionError, RewardError
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.metrics import METRICS, score
from raggym_env.mdp.records import Episode
from raggym_env.mdp.rollout import complete
from raggym_env.protocols import BasePolicy, Policy, Proposal, propose

__all__ = ["RolloutReward"]


class RolloutReward:
    """Rewards an action for what it adds to the expected score of the answer.

    The value `V(s)` in [0, 1] of a running state is the mean score of the answers of `m` completions of the episode
    by a policy; that of a state that has ended is the score of its answer, 0 without one. An action that leads from
    `s` to `s'` scores `V(s') - V(s)` in [-1, 1], or `V(s')` with `advantage=False`.

    `V` depends on the seed and the state alone, so the scores of an episode's steps add up to the score of its answer
    less the value of its start, however many steps it took: repeating a search or padding an episode earns nothing.
    (The plain `V(s')` adds up with every step; it is for choosing within a state, and for comparing with the paper.)

    A step of a completion takes the policy's own choice, or, with probability `explore`, another of `width`
    proposals. Proposals without scores are samples, of which each is as good: one is drawn. An output that is no
    action ends a completion without an answer, as it would end an episode. Scores compare across states. It grades
    with gold answers, so it is for training splits only; actions and completions see none.

    Args:
        policy: Completes the episodes.
        dynamics: The dynamics that the states belong to.
        tasks: The tasks whose states are scored. A state without a question id is known by its question's text.
        m: Completions per state, at least 1.
        metric: How answers are graded; None is "f1", or "accuracy" for a question with options.
        max_searches: Searches that a completion may make; None is as many as the state has left.
        explore: Probability in [0, 1].
        width: Proposals asked for per state, at least 1.
        advantage: Whether the value of the state itself is subtracted.
        seed: Of what the completions draw.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        policy: Policy,
        dynamics: Dynamics,
        tasks: Sequence[Task],
        *,
        m: int = 4,
        metric: str | None = None,
        max_searches: int | None = None,
        explore: float = 0.25,
        width: int = 4,
        advantage: bool = True,
        seed: int = 0,
    ) -> None:
        if m < 1 or width < 1:
            raise OptionError(f"m and width must be at least 1, got m={m} and width={width}.")
        if not 0 <= explore <= 1:
            raise OptionError(f"explore must be in [0, 1], got {explore}.")
        if metric is not None and metric not in METRICS:
            raise OptionError(f"metric must be one of {sorted(METRICS)}, got {metric!r}.")
        if max_searches is not None and max_searches < 0:
            raise OptionError(f"max_searches must be 0 or more, got {max_searches}.")
        self.m = m
        self.metric = metric
        self.max_searches = max_searches
        self.advantage = advantage
        self._dynamics = dynamics
        self._sampler = _Sampler(policy, width, explore, seed)
        self._by_id = {task.id: task for task in tasks}
        self._by_text: dict[str, list[Task]] = {}
        for task in tasks:
            self._by_text.setdefault(task.question.text, []).append(task)

    @property
    def usage(self) -> Usage:
        """What the policy's proposals cost so far."""
        return self._sampler.usage

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """One score per candidate; see `ProcessReward.score`. All completions run side by side.

        Raises:
            RewardError: A completion failed, or a question is not one of the tasks.
            RetrievalError: A candidate search failed.
            LLMError: The policy's model cannot be used at all.
        """
        before = [state for state, row in zip(states, actions, strict=True) for _ in row]
        after = self._dynamics.transition(before, [action for row in actions for action in row])
        values = self._values([*after, *before] if self.advantage else after)
        gains = [values[new] - (values[old] if self.advantage else 0.0) for old, new in zip(before, after, strict=True)]
        cuts = np.cumsum([len(row) for row in actions])[:-1]
        return np.split(np.array(gains, np.float32), cuts) if actions else []

    def _values(self, states: Sequence[State]) -> dict[State, float]:
        """The value of each distinct state."""
        tasks = {state: self._task(state) for state in states}
        starts = [(state, number) for state in tasks for number in range(self.m if state.stop is None else 1)]
        episodes = complete(
            self._sampler,
            [tasks[state] for state, _ in starts],
            [self._start(state, number) for state, number in starts],
            self._dynamics,
        )
        grades: dict[State, list[float]] = {state: [] for state in tasks}
        for (state, _), episode in zip(starts, episodes, strict=True):
            grades[state].append(self._grade(tasks[state], episode))
        return {state: sum(row) / len(row) for state, row in grades.items()}

    def _start(self, state: State, number: int) -> State:
        left = state.searches_left if self.max_searches is None else min(state.searches_left, self.max_searches)
        return replace(state, searches_left=left, episode=number)

    def _grade(self, task: Task, episode: Episode) -> float:
        if episode.error is not None:
            raise RewardError(f"A completion of {task.question.text!r:.100} failed: {episode.error}")
        return score(self.metric or ("f1" if task.correct is None else "accuracy"), episode.answer, task)

    def _task(self, state: State) -> Task:
        asked = state.question
        if (known := self._by_id.get(asked.id)) is not None and known.question.text == asked.text:
            return known
        named = [task for task in self._by_text.get(asked.text, ()) if task.question.options == asked.options]
        if len(named) != 1:
            raise RewardError(
                f"The rollout reward knows {len(named) or 'no'} tasks that ask {asked.text!r:.100}, and needs one to "
                "grade completions. Score states of the questions it was made with."
            )
        return named[0]


class _Sampler(BasePolicy):
    """Acts as a policy, but draws differently in each completion."""

    def __init__(self, policy: Policy, width: int, explore: float, seed: int) -> None:
        self.policy = policy
        self.width = width
        self.explore = explore
        self.seed = seed
        self.usage = Usage()

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """What each completion does next. Completions that are in the same state share the policy's proposals."""
        plain = [replace(state, episode=0) for state in states]
        distinct = list(dict.fromkeys(plain))
        proposed = dict(zip(distinct, propose(self.policy, distinct, self.width), strict=True))
        self.usage = sum((proposal.usage for row in proposed.values() for proposal in row), self.usage)
        rows = [(state, proposed[seen]) for state, seen in zip(states, plain, strict=True)]
        return [[self._pick(state, row)] if row else [] for state, row in rows]

    def _pick(self, state: State, proposals: Sequence[Proposal]) -> Proposal:
        rng = state_rng(self.seed, state, "rollout", state.episode)
        sampled = any(proposal.score is None for proposal in proposals)
        if sampled or (len(proposals) > 1 and rng.random() < self.explore):
            return rng.choice(proposals if sampled else proposals[1:])
        return proposals[0]
