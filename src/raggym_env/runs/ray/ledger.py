"""The bookkeeping of a run on workers, any of which may die: which worker has which question."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

__all__ = ["DEATHS", "Ledger"]

DEATHS = 3
"""Workers that may die on a question, the last with no other question, before it is given up."""


class Ledger:
    """Tracks which questions wait, which worker has which, and how many workers died on each.

    Args:
        ids: Ids of the questions.
        workers: Number of workers.
        share: Maximum number of questions that a worker holds, at least 1.
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
        """True if the worker has questions."""
        return bool(self._held[worker])

    def give(self, worker: int) -> list[str]:
        """Assign questions to a worker, which may have some already, and return them; none if there is none for it.

        The fewer are left, the fewer a worker takes, so that the workers finish together. A question that two workers
        died on goes to a worker that has no other.
        """
        held = self._held[worker]
        if self._waiting and not self._deadly(held):
            room = min(self._share - len(held), math.ceil(len(self._waiting) / len(self._held)))
            assigned = [self._waiting.popleft() for _ in range(room)]
        else:
            assigned = [self._suspects.popleft()] if self._suspects and not held else []
        held.update(assigned)
        return assigned

    def ended(self, worker: int, question: str) -> bool:
        """Record that a worker finished a question. False if the worker did not have it: the result must not count."""
        if question not in self._held[worker]:
            return False
        self._held[worker].remove(question)
        return True

    def lost(self, worker: int) -> list[str]:
        """Record that a worker died. Its questions wait again, except for those returned, which are given up."""
        held = self._held[worker]
        self._held[worker] = set()
        self._deaths.update(held)
        if len(held) == 1 and self._deaths[next(iter(held))] >= DEATHS:
            return list(held)
        for question in sorted(held):  # in a fixed order, so that a run can be repeated
            (self._suspects if self._deadly({question}) else self._waiting).append(question)
        return []

    def _deadly(self, questions: set[str]) -> bool:
        return any(self._deaths[question] >= DEATHS - 1 for question in questions)
