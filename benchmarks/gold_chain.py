"""The ceiling of an environment: a policy that reads the gold facts. For benchmarks only; no agent may do this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raggym_env.core import Action, Answer, Search, State, Task, option_letter
from raggym_env.policies.base import BasePolicy, Proposal
from raggym_env.rewards.evidence import evidence_recall
from raggym_env.rewards.metrics import cover_em

__all__ = ["GoldChain"]


class GoldChain(BasePolicy):
    """Searches for each gold title in turn, then gives the gold answer if what it found supports it.

    Supported means that all gold passages were found; where the data set names none, that some passage contains
    the answer. So its score is what a perfect reader of the search results could get. Without named passages its
    queries are the question alone and the question with the answer.
    """

    name = "gold_chain"

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = {task.id: task for task in tasks}

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        return [[Proposal(self._action(state, self._tasks[state.question.id]))] for state in states]

    def _action(self, state: State, task: Task) -> Action:
        question, answer = state.question.text, task.answers[0]
        queries = task.gold_titles or (question, f"{question} {answer}")
        if len(state.history) < len(queries) and state.searches_left > 0:
            return Search(queries[len(state.history)])
        if not _supported(state, task):
            return Answer("unknown")
        return Answer(option_letter(task.correct) if task.correct is not None else answer)


def _supported(state: State, task: Task) -> bool:
    recall = evidence_recall(task, (passage.title for passage in state.passages))
    if recall is not None:
        return recall == 1.0
    return any(cover_em(f"{p.title} {p.text}", task.answers) for p in state.passages)
