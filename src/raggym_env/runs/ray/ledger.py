"""Who has which question: what is kept of a run on workers, any of which may die."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

__all__ = ["DEATHS", "Ledger"]

DEATHS = 3
"""Of a question's workers, the last with no other question, after which it is given up."""


class Ledger:
    """Which questions wait, which worker has which, and how many workers died on each.

    Args:
        ids: Questions.
        workers: How many workers there are.
        share: Most questions that a worker holds, at least 1.
    """

    def __init__(self, ids: Sequence[str], workers: int, share: int) -> None:
        self._waiting = deque(ids)
        self._suspects: deque[str] = deque()
        self._held: dict[int, set[str]] = {worker: set() for worker in range(workers)}
        self._share = share
        self._deaths: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        return not (self._waiting or self._suspects or any(self._held.values()))

    def holds(self, worker: int) -> bool:
        """Whether a worker has questions."""
        return bool(self._held[worker])

    def give(self, worker: int) -> list[str]:
        """The questions that a worker takes now, of which it may have some already; none if there is none for it.

        The fewer are left, the fewer it takes, so that the workers end together. A question that two workers died
        on is given to one that has no other.
        """
        held = self._held[worker]
        if self._waiting and not self._deadly(held):
            room = min(self._share - len(held), math.ceil(len(self._waiting) / len(self._held)))
            given = [self._waiting.popleft() for _ in range(room)]
        else:
            given = [self._suspects.popleft()] if self._suspects and not held else []
        held.update(given)
        return given

    def ended(self, worker: int, question: str) -> bool:
        """Note that a worker is done with a question. False if it was not the worker's: then it does not count."""
        if question not in self._held[worker]:
            return False
        self._held[worker].remove(question)
        return True

    def lost(self, worker: int) -> list[str]:
        """Note that a worker died. Its questions wait again, but those that are returned, which are given up."""
        held = self._held[worker]
        self._held[worker] = set()
        self._deaths.update(held)
        if len(held) == 1 and self._deaths[next(iter(held))] >= DEATHS:
            return list(held)
        for question in sorted(held):
            (self._suspects if self._deadly({question}) else self._waiting).append(question)
        return []

    def _deadly(self, questions: set[str]) -> bool:
        return any(self._deaths[question] >= DEATHS - 1 for question in questions)
