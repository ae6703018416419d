"""The lower bound that any policy should beat: random queries and random answers."""

from __future__ import annotations

import random
from collections.abc import Sequence

from raggym_env.core import Action, Answer, Search, State, state_rng
from raggym_env.protocols import BasePolicy, Proposal

__all__ = ["RandomPolicy"]


class RandomPolicy(BasePolicy):
    """Searches for random words of the question, or answers with a random option or a random phrase of a passage.

    Searching and answering are equally likely; with no search left it answers. Proposals are drawn independently,
    so with `n > 1` some may be the same.

    Args:
        seed: Seed of the draws, which depend on it and on the state, not on the order of the states.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return `n` random actions per state."""
        return [
            [Proposal(_action(state, state_rng(self.seed, state, "random", index))) for index in range(n)]
            for state in states
        ]


def _action(state: State, rng: random.Random) -> Action:
    # The answer is drawn first even for a search, which has it as its draft.
    answer = _answer(state, rng)
    if state.searches_left == 0 or rng.random() >= 0.5:
        return Answer(answer)
    words = state.question.text.split() or ["?"]  # a blank query would not be an action
    return Search(" ".join(rng.sample(words, min(len(words), rng.randint(1, 6)))), draft=answer)


def _answer(state: State, rng: random.Random) -> str:
    if state.question.options:
        return rng.choice(state.question.option_answers)
    texts = [passage.text for passage in state.passages if passage.text.strip()]
    words = rng.choice(texts or [state.question.text]).split() or ["?"]
    start = rng.randrange(len(words))
    return " ".join(words[start : start + rng.randint(1, 4)])
