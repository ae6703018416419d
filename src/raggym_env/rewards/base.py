"""The process-reward seam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, State

__all__ = ["ProcessReward"]


@runtime_checkable
class ProcessReward(Protocol):
    """Scores candidate actions in a state (a process reward model, or critic); proposes nothing."""

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Score every candidate of every state; higher is better.

        Args:
            states: `n` running states.
            actions: `n` sequences of candidates, one per state; their lengths may differ and may be 0.

        Returns:
            `n` float32 arrays, the i-th of shape `(len(actions[i]),)`. Scores compare within one state; whether
            they compare across states is for the implementation to say.

        Raises:
            RewardError: Some score could not be computed. A failure is never a zero.
        """
        ...
