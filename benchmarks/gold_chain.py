"""The ceiling of an environment: a policy that reads the gold facts. For benchmarks only; no agent may do this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raggym_env.core import Action, Answer, Search, State, Task
from raggym_env.errors import PolicyError
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.rewards.evidence import evidence_recall

__all__ = ["GoldChain"]


class GoldChain(BasePolicy):
    """Searches for each gold title in turn, then gives the gold answer if it found all gold passages.

    So its score is what a perfect planner and reader could get from this retriever. It needs a data set that names
    its supporting facts.
    """

    name = fingerprint = "gold_chain"

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = {task.id: task for task in tasks}

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        return [[Proposal(self._action(state, self._tasks[state.question.id]))] for state in states]

    def _action(self, state: State, task: Task) -> Action:
        titles = task.gold_titles
        if len(state.history) < len(titles) and state.searches_left > 0:
            return Search(titles[len(state.history)])
        found = evidence_recall(task, (passage.title for passage in state.passages))
        if found is None:
            raise PolicyError(f"Question {task.id!r} names no supporting facts, so its gold chain is not known.")
        return Answer(task.answers[0] if found == 1.0 else "unknown")
