"""Plays scripted actions: for tests, and for replaying recorded episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from raggym_env.core import Action, State, as_action
from raggym_env.errors import PolicyError
from raggym_env.protocols import BasePolicy, Proposal

__all__ = ["Script", "ScriptedPolicy"]

Script = Mapping[str, Sequence[Action]] | Callable[[State], Action]
"""Actions in order by question id or text, or a function from a state to an action."""


class ScriptedPolicy(BasePolicy):
    """Plays a script. The next action depends on the number of past searches, so a state always gets the same one.

    Args:
        script: For each question, by its id or its text, the actions in order; or a function from a state to an
            action. An action may be anything that `core.as_action` reads.

    Raises:
        PolicyError: From `propose`, if the script has no actions for the question, or has run out of them.
        InvalidAction: From `propose`, if an item of the script is not an action.
    """

    def __init__(self, script: Script) -> None:
        self.script = script

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return one proposal per state, whatever `n` is."""
        return [[Proposal(as_action(self._action(state)))] for state in states]

    def _action(self, state: State) -> Action:
        if callable(self.script):
            return self.script(state)
        # An observation does not hold its question's id, so the text works too.
        actions = self.script.get(state.question.id, self.script.get(state.question.text))
        if actions is None:
            raise PolicyError(
                f"The script does not know question {state.question.id!r}, {state.question.text!r:.200}. "
                "Give its actions under its id or its text."
            )
        step = len(state.history)
        if step >= len(actions):
            raise PolicyError(
                f"The script for question {state.question.text!r:.200} has {len(actions)} actions, and action "
                f"{step + 1} was requested. End it with an Answer."
            )
        return actions[step]
