"""A policy of one's own that kills its process: for tests of what becomes of the others."""

from __future__ import annotations

import os
import signal

from raggym_env.policies import POLICIES
from towns import Reader


class Deadly(Reader):
    """A reader that dies on the questions it is told to."""

    def __init__(self, on=()):
        super().__init__()
        self.on = on

    def propose(self, states, n=1):
        if any(state.question.id in self.on for state in states):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().propose(states, n)


def register() -> None:
    POLICIES["deadly"] = Deadly
