"""A policy of one's own that kills its process: for tests of what becomes of the others."""

from __future__ import annotations

import os
import signal

from raggym_env.policies import POLICIES
from towns import Reader


class Deadly(Reader):
    """A reader that dies on the questions it is told to. In a process that did not register it, an error instead."""

    registered = False

    def __init__(self, on=()):
        super().__init__()
        self.on = on

    def propose(self, states, n=1):
        if any(state.question.id in self.on for state in states):
            assert self.registered, "this process is no worker: the tests would end with it"
            os.kill(os.getpid(), signal.SIGKILL)
        return super().propose(states, n)


def register() -> None:
    """Make this process, a Ray worker, one that may die."""
    Deadly.registered = True
    POLICIES["deadly"] = Deadly
