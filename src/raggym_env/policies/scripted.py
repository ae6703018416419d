"""A policy that does what it is told: for tests and for replaying recorded actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from raggym_env.core import Action, State, as_action
from raggym_env.errors import PolicyError
from raggym_env.protocols import BasePolicy, Proposal

__all__ = ["Script", "ScriptedPolicy"]

Script = Mapping[str, Sequence[Action]] | Callable[[State], Action]
"""Actions in order by question id or text, or a function that looks at the state."""


class ScriptedPolicy(BasePolicy):
    """Plays a script. The step is the number of past searches, so a state always gets the same action.

    Args:
        script: For each question, by its id or its text, the actions in order; or a function from a state to an
            action. An action may be anything that `core.as_action` reads.

    Raises:
        PolicyError: From `propose`, if the script does not know the question or has run out.
        InvalidAction: From `propose`, if what the script says is no action.
    """

    def __init__(self, script: Script) -> None:
        self.script = script

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """One proposal per state, whatever `n` is: a script has no second idea."""
        return [[Proposal(as_action(self._line(state)))] for state in states]

    def _line(self, state: State) -> Action:
        if callable(self.script):
            return self.script(state)
        lines = self.script.get(state.question.id, self.script.get(state.question.text))
        if lines is None:
            raise PolicyError(
                f"The script does not know question {state.question.id!r}, {state.question.text!r:.200}. "
                "Give its actions under its id or its text."
            )
        if len(state.history) >= len(lines):
            raise PolicyError(
                f"The script for question {state.question.text!r:.200} has {len(lines)} actions, and action "
                f"{len(state.history) + 1} was asked for. End it with an Answer."
            )
        return lines[len(state.history)]
