"""The policy seam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from raggym_env.core import Action, Obs, State, Usage, as_action
from raggym_env.errors import PolicyError

__all__ = ["BasePolicy", "Policy", "Proposal"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """One action that a policy proposes, and where it came from."""

    action: Action | None
    """None if the policy's output could not be read as an action; then `failure` says why."""
    text: str = ""
    """The raw output the action was parsed from; empty for policies that write none."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The prompt that produced it, as chat messages; empty for policies that use none."""
    usage: Usage = field(default_factory=Usage)
    score: float | None = None
    """What ranked it, where something did: the policy's own preference or a critic's score."""
    candidates: tuple[Proposal, ...] = ()
    """What it was chosen from, best first, where it was chosen from several."""
    failure: str | None = None
    outage: bool = False
    """True if what failed was not the policy's output but something it depends on, such as a server. An episode
    that ends so has no score and may be run again; one that ends by an unreadable output has answered nothing."""

    def chosen(self) -> Action:
        """The action, checked.

        Raises:
            PolicyError: There is none.
            InvalidAction: It is blank, or no action at all.
        """
        if self.action is None:
            output = f"; the policy's output was {self.text!r:.500}" if self.text else ""
            raise PolicyError(f"{self.failure or 'no action'}{output}")
        return as_action(self.action)


@runtime_checkable
class Policy(Protocol):
    """Maps states to proposed actions. Never sees a gold answer."""

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Propose `n` actions per state, best guess first.

        Args:
            states: Running states; an empty sequence gives an empty list.
            n: Proposals per state, at least 1. With `n=1` the policy's own choice. Fewer come back, but at least
                one, where it has no more distinct ideas; sampled duplicates are allowed.

        Returns:
            One list per state, in order. What concerns one state alone (an output that cannot be read, a request
            that failed) is a proposal with `action=None` and a `failure`; an exception concerns them all.
        """
        ...

    def act(self, obs: Obs | State) -> Action:
        """The policy's own choice in one state or observation.

        Raises:
            PolicyError: The policy's output could not be read as an action.
        """
        ...


class BasePolicy:
    """Gives a class that has `propose` the rest of the `Policy` protocol. Inheriting it is optional."""

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        raise NotImplementedError

    def act(self, obs: Obs | State | Mapping[str, Any]) -> Action:
        state = obs if isinstance(obs, State) else State.from_obs(obs)
        return self.propose([state])[0][0].chosen()
