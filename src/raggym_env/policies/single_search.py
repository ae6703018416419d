"""One search for the question as it stands, then an answer."""

from __future__ import annotations

from collections.abc import Sequence

from raggym_env.core import Answer, Search, State
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.reading.answers import answers

__all__ = ["SingleSearchPolicy"]


class SingleSearchPolicy(BasePolicy):
    """Searches for the question once and answers with what `lexical` would answer from that.

    Args:
        seed: Unused, as nothing is sampled; accepted because every policy takes one.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        return [_proposals(state, n) for state in states]


def _proposals(state: State, n: int) -> list[Proposal]:
    if not state.history and state.searches_left > 0:
        return [Proposal(Search(state.question.text))]
    return [Proposal(Answer(text), score=score) for text, score in answers(state)[:n]]
