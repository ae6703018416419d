"""Process reward by Monte-Carlo completions of the episode (Math-Shepherd, arXiv 2312.08935)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, State, Task, Usage, state_rng
from raggym_env.errors import RewardError, check_option
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.rollout import complete
from raggym_env.protocols import BasePolicy, Policy, Proposal, propose
from raggym_env.rewards.tasks import GradedTasks

__all__ = ["RolloutReward"]


class RolloutReward:
    """Rewards an action for the increase in the expected score of the answer.

    The value `V(s)` in [0, 1] of a running state is the mean score of the answers of `m` completions of the episode by
    a policy. The value of a state that has ended is the score of its answer, 0 without one. An action that leads from
    `s` to `s'` scores `V(s') - V(s)` in [-1, 1], or `V(s')` with `advantage=False`.

    `V` depends on the seed and the state alone, so the scores of an episode's steps add up to the score of its answer
    less the value of its start, however many steps it took: repeating a search or padding an episode earns nothing.
    (The plain `V(s')` grows with every step. Use it to rank candidates within a state and to compare with the paper.)

    With a `discount` below 1 an answer after `t` searches, counted from the start of the episode, is worth its score
    times `discount ** t`, so that of two ways to an answer the shorter is worth more (ReasonRAG, arXiv 2505.14069). The
    scores of an episode then add up to the discounted score of its answer less the value of its start.

    In each step a completion takes the policy's first proposal or, with probability `explore`, another of `width`
    proposals. Proposals without scores are samples and equally good, so one of them is drawn. An output that is not an
    action ends a completion without an answer, as it ends an episode. Scores are comparable across states. It grades
    with gold answers, so it is for training splits only; actions and completions see none.

    Args:
        policy: Completes the episodes.
        dynamics: The dynamics that the states belong to.
        tasks: The tasks whose states are scored. A state without a question id is matched by its question's text.
        m: Completions per state, at least 1.
        metric: Metric that grades answers; None is "f1", or "accuracy" for a question with options.
        max_searches: Searches that a completion may make; None is as many as the state has left.
        explore: Probability in [0, 1].
        width: Proposals requested per state, at least 1.
        advantage: Whether to subtract the value of the state itself.
        discount: Factor in (0, 1] per search before the answer.
        seed: Seed of the draws in the completions.

    Raises:
        OptionError: An option is out of range.
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
        discount: float = 1.0,
        seed: int = 0,
    ) -> None:
        check_option("m", m, m >= 1, "at least 1")
        check_option("width", width, width >= 1, "at least 1")
        check_option("explore", explore, 0 <= explore <= 1, "in [0, 1]")
        check_option("discount", discount, 0 < discount <= 1, "in (0, 1]")
        check_option("max_searches", max_searches, max_searches is None or max_searches >= 0, "at least 0")
        self.m = m
        self.max_searches = max_searches
        self.advantage = advantage
        self.discount = discount
        self._dynamics = dynamics
        self._sampler = _Sampler(policy, width, explore, seed)
        self._tasks = GradedTasks(tasks, metric, "rollout")

    @property
    def usage(self) -> Usage:
        """Total usage of the policy's proposals so far."""
        return self._sampler.usage

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Return one score per candidate; see `ProcessReward.score`. All completions run side by side.

        Raises:
            RewardError: A completion failed, or a question is not one of the tasks.
            RetrievalError: A candidate search failed.
            LLMError: The policy's model cannot be used at all.
        """
        sources = [state for state, row in zip(states, actions, strict=True) for _ in row]
        targets = self._dynamics.transition(sources, [action for row in actions for action in row])
        values = self._values([*targets, *sources] if self.advantage else targets)
        gains = [
            values[target] - (values[source] if self.advantage else 0.0)
            for source, target in zip(sources, targets, strict=True)
        ]
        cuts = np.cumsum([len(row) for row in actions])[:-1]
        return np.split(np.array(gains, np.float32), cuts) if actions else []

    def _values(self, states: Sequence[State]) -> dict[State, float]:
        """Return the value of each distinct state."""
        tasks = {state: self._tasks.of(state) for state in states}
        limit = sys.maxsize if self.max_searches is None else self.max_searches
        # An ended state needs no completions, only the grade of its answer.
        starts = [
            (state, replace(state, searches_left=min(state.searches_left, limit), episode=number))
            for state in tasks
            for number in range(self.m if state.stop is None else 1)
        ]
        episodes = complete(
            self._sampler, [tasks[state] for state, _ in starts], [start for _, start in starts], self._dynamics
        )
        grades: dict[State, list[float]] = {state: [] for state in tasks}
        for (state, _), episode in zip(starts, episodes, strict=True):
            task = tasks[state]
            if episode.error is not None:
                raise RewardError(f"A completion of {task.question.text!r:.100} failed: {episode.error}")
            # A completion's last step, an answer or a search beyond the budget, is no search before the answer.
            searches = len(state.history) + max(0, len(episode.steps) - 1)
            grades[state].append(self.discount**searches * self._tasks.grade(episode.answer, task))
        return {state: sum(row) / len(row) for state, row in grades.items()}


class _Sampler(BasePolicy):
    """A policy that draws differently in each completion of a state."""

    def __init__(self, policy: Policy, width: int, explore: float, seed: int) -> None:
        self.policy = policy
        self.width = width
        self.explore = explore
        self.seed = seed
        self.usage = Usage()

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return one proposal per completion, none if the policy had none."""
        # Completions in the same state share the policy's proposals: it is asked once, which is most of the cost.
        plain = [replace(state, episode=0) for state in states]
        distinct = list(dict.fromkeys(plain))
        proposals = dict(zip(distinct, propose(self.policy, distinct, self.width), strict=True))
        self.usage = sum((proposal.usage for row in proposals.values() for proposal in row), self.usage)
        return [
            [self._pick(state, proposals[shared])] if proposals[shared] else []
            for state, shared in zip(states, plain, strict=True)
        ]

    def _pick(self, state: State, proposals: Sequence[Proposal]) -> Proposal:
        rng = state_rng(self.seed, state, "rollout", state.episode)
        sampled = any(proposal.score is None for proposal in proposals)
        if sampled or (len(proposals) > 1 and rng.random() < self.explore):
            return rng.choice(proposals if sampled else proposals[1:])
        return proposals[0]
