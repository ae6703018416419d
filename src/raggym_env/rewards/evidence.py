"""Process reward from gold supporting facts."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, Passage, Search, State, Task
from raggym_env.errors import RewardError
from raggym_env.process import Process

__all__ = ["EvidenceReward", "evidence_recall", "title_key"]

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

    def __init__(self, tasks: Iterable[Task], process: Process, *, search_cost: float = 0.05) -> None:
        self._by_id: dict[str, frozenset[str]] = {}
        # For states that were read from an observation, which names no question id.
        self._by_text: dict[str, frozenset[str]] = {}
        for task in tasks:
            gold = frozenset(title_key(title) for title in task.gold_titles)
            self._by_id[task.id] = gold
            known = self._by_text.setdefault(task.question.text, gold)
            if known != gold:
                self._by_text[task.question.text] = frozenset()  # the text alone does not say which is meant
        self._process = process
        self.search_cost = search_cost

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """One score in [-1 - search_cost, 1] per candidate; see `ProcessReward.score`.

        Raises:
            RewardError: A question has no supporting facts, or is not one of the tasks.
            RetrievalError: A candidate search failed.
        """
        known = [self._found(state, (p for turn in state.history for p in turn.passages)) for state in states]
        searches = [
            (row, column, state, action)
            for row, (state, candidates) in enumerate(zip(states, actions, strict=True))
            for column, action in enumerate(candidates)
            if isinstance(action, Search)
        ]
        scores = [
            np.full(len(candidates), found - 1, np.float32) for candidates, found in zip(actions, known, strict=True)
        ]
        after = self._process.transition([state for _, _, state, _ in searches], [action for *_, action in searches])
        for (row, column, _, _), state in zip(searches, after, strict=True):
            gained = self._found(state, state.passages) - known[row] if state.stop is None else known[row] - 1
            scores[row][column] = gained - self.search_cost
        return scores

    def _found(self, state: State, passages: Iterable[Passage]) -> float:
        gold = self._by_id.get(state.question.id) or self._by_text.get(state.question.text)
        if not gold:
            raise RewardError(
                "The evidence reward knows no supporting facts for "
                f"{state.question.text!r:.100}. Use it on a data set that has them, or another process reward."
            )
        return len(gold & {title_key(passage.title) for passage in passages}) / len(gold)
