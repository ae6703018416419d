"""Process reward from gold supporting facts."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, Search, State, Task
from raggym_env.errors import OptionError, RewardError
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.metrics import score

__all__ = ["EvidenceReward", "EvidenceValue", "evidence_recall", "title_key"]

_SPACE = re.compile(r"\s+")


def title_key(title: str) -> str:
    """What two spellings of one title share. Data sets and their corpora differ in case, escapes and spaces."""
    return _SPACE.sub(" ", html.unescape(title)).strip().casefold()


def evidence_recall(task: Task, titles: Iterable[str]) -> float | None:
    """Share in [0, 1] of the task's supporting passages among `titles`; None if the task names none."""
    gold = {title_key(title) for title in task.gold_titles}
    return len(gold & {title_key(title) for title in titles}) / len(gold) if gold else None


class EvidenceReward:
    """Rewards a search for the gold passages it newly finds, and an answer for not being premature.

    With `found(s)` the share in [0, 1] of the supporting passages in the history of `s`:

    - a search scores `found(s') - found(s) - search_cost`, where `s'` is the state it leads to;
    - an answer scores `found(s) - 1`: 0 with all the evidence at hand, -1 with none;
    - a search beyond the budget, which ends the episode, scores as an answer less the cost of a search.

    So a search that finds something beats answering, answering with everything found beats searching on, and
    searches that find nothing new only cost. Scores compare across states. It reads gold facts and runs the
    candidate searches: for training sets only.
    """

    def __init__(self, tasks: Iterable[Task], dynamics: Dynamics, *, search_cost: float = 0.05) -> None:
        self._by_id: dict[str, frozenset[str]] = {}
        # For states that were read from an observation, which names no question id.
        self._by_text: dict[str, frozenset[str]] = {}
        for task in tasks:
            gold = frozenset(title_key(title) for title in task.gold_titles)
            self._by_id[task.id] = gold
            known = self._by_text.setdefault(task.question.text, gold)
            if known != gold:
                self._by_text[task.question.text] = frozenset()  # the text alone does not say which is meant
        self._dynamics = dynamics
        self.search_cost = search_cost

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """One score in [-1 - search_cost, 1] per candidate; see `ProcessReward.score`.

        Raises:
            RewardError: A question has no supporting facts, or is not one of the tasks.
            RetrievalError: A candidate search failed.
        """
        known = [self.found(state) for state in states]
        searches = [
            (row, column, state, action)
            for row, (state, candidates) in enumerate(zip(states, actions, strict=True))
            for column, action in enumerate(candidates)
            if isinstance(action, Search)
        ]
        scores = [
            np.full(len(candidates), found - 1, np.float32) for candidates, found in zip(actions, known, strict=True)
        ]
        after = self._dynamics.transition([state for _, _, state, _ in searches], [action for *_, action in searches])
        for (row, column, _, _), state in zip(searches, after, strict=True):
            gained = self.found(state) - known[row] if state.stop is None else known[row] - 1
            scores[row][column] = gained - self.search_cost
        return scores

    @staticmethod
    def check_tasks(tasks: Sequence[Task]) -> None:
        """Raise `RewardError` where a task names no supporting facts, so that its states could not be scored."""
        if lacking := sum(not task.supporting for task in tasks):
            raise RewardError(
                f"This process reward needs supporting facts, and {lacking} of {len(tasks)} questions name none."
            )

    def found(self, state: State) -> float:
        """Share in [0, 1] of the supporting passages that a state's history holds.

        Raises:
            RewardError: Its question has no supporting facts, or is not one of the tasks.
        """
        gold = self._by_id.get(state.question.id) or self._by_text.get(state.question.text)
        if not gold:
            raise RewardError(
                "The evidence reward knows no supporting facts for "
                f"{state.question.text!r:.100}. Use it on a data set that has them, or another process reward."
            )
        titles = {passage.title for turn in state.history for passage in turn.passages}
        return len(gold & set(map(title_key, titles))) / len(gold)


class EvidenceValue:
    """What an action is worth in [0, 1], by how much evidence is at hand then and how right the answer is.

    With `found(s)` the share of the supporting passages in the history of `s`, `w` the weight of the evidence and
    `right(a)` the score of an answer by the metric:

    - an answer is worth `w * found(s) + (1 - w) * right(a)`;
    - a search is worth `w * found(s') + (1 - w) * hope(found(s'))`, where `s'` is the state it leads to and `hope`
      is how right an answer may yet become, linear between what it is with no evidence and with all of it;
    - a search beyond the budget is worth what its draft is as an answer, and without one `w * found(s)`.

    A search is thus worth more than an answer until an answer at hand is as right as can be hoped for. This is what
    the `mini` reward is trained to foresee. It reads gold facts and answers and runs the candidate searches: for
    training sets only.

    Args:
        tasks: The tasks whose states it scores.
        dynamics: The dynamics that the states belong to.
        metric: Scores answers; by default F1, or accuracy for questions with options.
        weight: `w`, in [0, 1].
        hope: `hope` with no evidence and with all of it, each in [0, 1].
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        dynamics: Dynamics,
        *,
        metric: str | None = None,
        weight: float = 0.5,
        hope: tuple[float, float] = (0.2, 1.0),
    ) -> None:
        tasks = list(tasks)
        if not all(0 <= value <= 1 for value in (weight, *hope)):
            raise OptionError(f"weight and hope must be in [0, 1], got {weight} and {hope}.")
        self._gains = EvidenceReward(tasks, dynamics, search_cost=0.0)
        self._tasks = {task.id: task for task in tasks}
        self.metric = metric
        self.weight = weight
        self.hope = hope

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """One value in [0, 1] per candidate; see `ProcessReward.score`. Raises as `EvidenceReward.score` does."""
        gains = self._gains.score(states, actions)
        return [
            np.array([self._value(state, action, gain) for action, gain in zip(row, mine, strict=True)], np.float32)
            for state, row, mine in zip(states, actions, gains, strict=True)
        ]

    check_tasks = staticmethod(EvidenceReward.check_tasks)

    def _value(self, state: State, action: Action, gain: float) -> float:
        low, high = self.hope
        if isinstance(action, Search) and state.searches_left > 0:
            found = self._gains.found(state) + gain
            return float(self.weight * found + (1 - self.weight) * (low + (high - low) * found))
        answer = action.draft if isinstance(action, Search) else action.text
        return float(self.weight * (1 + gain) + (1 - self.weight) * self._right(state, answer))

    def _right(self, state: State, answer: str | None) -> float:
        task = self._tasks.get(state.question.id)
        if task is None:
            raise RewardError(
                f"The evidence value knows no answer to {state.question.text!r:.100}: not one of its tasks."
            )
        return score(self.metric or ("accuracy" if task.question.options else "f1"), answer, task)
