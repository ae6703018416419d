"""Process rewards from gold supporting facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, Search, State, Task, title_key
from raggym_env.errors import RewardError, check_option
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.metrics import score

__all__ = ["EvidenceReward", "EvidenceValue", "evidence_recall", "title_key"]


def evidence_recall(task: Task, titles: Iterable[str]) -> float | None:
    """Return the share in [0, 1] of the task's supporting passages among `titles`; None if the task names none."""
    gold = {title_key(title) for title in task.gold_titles}
    return len(gold & {title_key(title) for title in titles}) / len(gold) if gold else None


class EvidenceReward:
    """Rewards a search for the gold passages it adds, and penalizes an answer for those still missing.

    With `recall(s)` the share in [0, 1] of the supporting passages in the history of `s`:

    - a search scores `recall(s') - recall(s) - search_cost - redundancy * repeated(s, s')`, where `s'` is the state it
      leads to and `repeated` the share in [0, 1] of its passages that are in the history of `s` already;
    - an answer scores `recall(s) - 1`: 0 with all the evidence, -1 with none;
    - a search beyond the budget, which ends the episode, scores as an answer less the cost of a search.

    So a search that adds evidence beats answering, answering with all the evidence beats searching, and searches that
    add nothing only cost. The penalty of redundancy, none by default, is that of StepSearch (arXiv 2505.15107): it
    tells searches that add no evidence apart. Scores are comparable across states. It reads gold facts and runs the
    candidate searches, so it is for training sets only.

    Args:
        tasks: The tasks whose states it scores.
        dynamics: The dynamics that the states belong to.
        search_cost: Subtracted for every search.
        redundancy: Subtracted for a search of which all passages are known, and in proportion; at least 0.

    Raises:
        OptionError: `redundancy` is out of range.
    """

    def __init__(
        self, tasks: Iterable[Task], dynamics: Dynamics, *, search_cost: float = 0.05, redundancy: float = 0.0
    ) -> None:
        check_option("redundancy", redundancy, 0 <= redundancy < math.inf, "at least 0 and finite")
        self._by_id: dict[str, frozenset[str]] = {}
        # For states read from an observation, which has no question id.
        self._by_text: dict[str, frozenset[str]] = {}
        for task in tasks:
            gold = frozenset(title_key(title) for title in task.gold_titles)
            self._by_id[task.id] = gold
            if self._by_text.setdefault(task.question.text, gold) != gold:
                self._by_text[task.question.text] = frozenset()  # ambiguous: two tasks share the text
        self._dynamics = dynamics
        self.search_cost = search_cost
        self.redundancy = redundancy

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Return one score in [-1 - search_cost - redundancy, 1] per candidate; see `ProcessReward.score`.

        Raises:
            RewardError: A question has no supporting facts, or is not one of the tasks.
            RetrievalError: A candidate search failed.
        """
        recalls = [self.recall(state) for state in states]
        searches = [
            (row, column, state, action)
            for row, (state, candidates) in enumerate(zip(states, actions, strict=True))
            for column, action in enumerate(candidates)
            if isinstance(action, Search)
        ]
        scores = [
            np.full(len(candidates), recall - 1, np.float32)
            for candidates, recall in zip(actions, recalls, strict=True)
        ]
        # All candidate searches of all states in one call of the retriever.
        next_states = self._dynamics.transition(
            [state for _, _, state, _ in searches], [action for *_, action in searches]
        )
        for (row, column, before, _), state in zip(searches, next_states, strict=True):
            gain = self.recall(state) - recalls[row] if state.stop is None else recalls[row] - 1
            passages = [passage for turn in state.history[len(before.history) :] for passage in turn.passages]
            earlier = set(before.passages)
            repeated = sum(passage in earlier for passage in passages) / (len(passages) or 1)
            scores[row][column] = gain - self.search_cost - self.redundancy * repeated
        return scores

    @staticmethod
    def check_tasks(tasks: Sequence[Task]) -> None:
        """Raise `RewardError` if a task names no supporting facts, since its states cannot be scored."""
        if missing := sum(not task.supporting for task in tasks):
            raise RewardError(
                f"This process reward needs supporting facts, and {missing} of {len(tasks)} questions name none."
            )

    def recall(self, state: State) -> float:
        """Return the share in [0, 1] of the supporting passages that are in a state's history.

        Raises:
            RewardError: Its question has no supporting facts, or is not one of the tasks.
        """
        gold = self._by_id.get(state.question.id) or self._by_text.get(state.question.text)
        if not gold:
            raise RewardError(
                f"The evidence reward has no supporting facts for {state.question.text!r:.100}. Use it on a data set "
                "that has them, or use another process reward."
            )
        titles = {passage.title for turn in state.history for passage in turn.passages}
        return len(gold & set(map(title_key, titles))) / len(gold)


class EvidenceValue:
    """The value of an action in [0, 1]: the evidence retrieved by then, and the score of the answer.

    With `recall(s)` the share of the supporting passages in the history of `s`, `w` the weight of the evidence and
    `answer_score(a)` the score of an answer by the metric:

    - an answer has the value `w * recall(s) + (1 - w) * answer_score(a)`;
    - a search has the value `w * recall(s') + (1 - w) * expected_score(recall(s'))`, where `s'` is the state it leads
      to and `expected_score` is the score that a later answer is expected to have, linear in the recall;
    - a search beyond the budget has the value of its draft as an answer, and without one `w * recall(s)`.

    A search is thus worth more than an answer until an answer scores as high as can be expected. The `mini` reward is
    trained to predict this value. It reads gold facts and answers and runs the candidate searches, so it is for
    training sets only.

    Args:
        tasks: The tasks whose states it scores.
        dynamics: The dynamics that the states belong to.
        metric: Scores answers; by default F1, or accuracy for questions with options.
        weight: `w`, in [0, 1].
        expected_score: The expected score of a later answer with no evidence and with all of it, each in [0, 1].

    Raises:
        OptionError: `weight` or `expected_score` is out of range.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        dynamics: Dynamics,
        *,
        metric: str | None = None,
        weight: float = 0.5,
        expected_score: tuple[float, float] = (0.2, 1.0),
    ) -> None:
        check_option("weight", weight, 0 <= weight <= 1, "in [0, 1]")
        in_range = len(expected_score) == 2 and all(0 <= value <= 1 for value in expected_score)
        check_option("expected_score", expected_score, in_range, "two numbers in [0, 1]")
        tasks = list(tasks)
        self._gains = EvidenceReward(tasks, dynamics, search_cost=0.0)
        self._tasks = {task.id: task for task in tasks}
        self.metric = metric
        self.weight = weight
        self.expected_score = expected_score

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Return one value in [0, 1] per candidate; see `ProcessReward.score`. Raises as `EvidenceReward.score`."""
        gains = self._gains.score(states, actions)
        return [
            np.array([self._value(state, action, gain) for action, gain in zip(row, gain_row, strict=True)], np.float32)
            for state, row, gain_row in zip(states, actions, gains, strict=True)
        ]

    check_tasks = staticmethod(EvidenceReward.check_tasks)

    def _value(self, state: State, action: Action, gain: float) -> float:
        """Return the value of an action that `EvidenceReward` scores with `gain`."""
        if isinstance(action, Search) and state.searches_left > 0:
            recall = self._gains.recall(state) + gain
            low, high = self.expected_score
            return float(self.weight * recall + (1 - self.weight) * (low + (high - low) * recall))
        task = self._tasks.get(state.question.id)
        if task is None:
            raise RewardError(f"The evidence value has no task, and so no answer, for {state.question.text!r:.100}.")
        answer = action.draft if isinstance(action, Search) else action.text
        answer_score = score(self.metric or ("accuracy" if task.question.options else "f1"), answer, task)
        # The gain of what ends an episode is its recall less 1.
        return float(self.weight * (1 + gain) + (1 - self.weight) * answer_score)
