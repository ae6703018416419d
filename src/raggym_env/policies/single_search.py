"""Searches once for the question as it stands, then answers."""

from __future__ import annotations

from collections.abc import Sequence

from raggym_env.core import Answer, Search, State
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.reading.answers import answers

__all__ = ["SingleSearchPolicy"]


class SingleSearchPolicy(BasePolicy):
    """Searches for the question once and answers as `lexical` would answer from the passages.

    Args:
        seed: Unused, as nothing is sampled; accepted so that it can take the place of a policy that samples.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return the search, or the `n` best answers, of each state."""
        # The answers of lexical, so that the scores of the two policies differ because of their searches only.
        return [
            [Proposal(Search(state.question.text))]
            if not state.history and state.searches_left > 0
            else [Proposal(Answer(text), score=score) for text, score in answers(state)[:n]]
            for state in states
        ]
