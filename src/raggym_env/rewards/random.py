"""Random process reward: the baseline that any other must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, State, state_rng

__all__ = ["RandomReward"]


class RandomReward:
    """Scores every candidate uniformly in [0, 1).

    A score depends on the seed, the state and the action alone, so it is the same in every run and batch.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Return one score in [0, 1) per candidate; see `ProcessReward.score`."""
        return [
            np.array([state_rng(self.seed, state, action).random() for action in candidates], np.float32)
            for state, candidates in zip(states, actions, strict=True)
        ]
