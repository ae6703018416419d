"""Tree search: look ahead over forked states before acting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raggym_env.core import State, Usage
from raggym_env.errors import OptionError
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.policies.best_of import score_all
from raggym_env.protocols import BasePolicy, Policy, ProcessReward, Proposal, distinct, propose, total_usage

__all__ = ["Tree"]


@dataclass(frozen=True, slots=True)
class _Path:
    """A line of play from a root: where it leads, what it is worth, and the proposal it begins with."""

    root: int
    state: State
    value: float = 0.0
    first: Proposal | None = None


class Tree(BasePolicy):
    """Beam search over the next `depth` steps; takes the first action of the best path.

    A path is worth the sum of the critic's scores of its actions, so the critic's scores must compare across
    states. Paths that end keep their worth, and so do paths that the policy has no action for. It plans anew at
    every step of the episode; the searches it looks at are run, in one batched retrieval per level for all states,
    and are found in the cache when they are then taken.

    Args:
        policy: Proposes the branches.
        critic: Scores them.
        dynamics: The transition that paths follow: that of the environment.
        width: Paths kept per state at each level, at least 1.
        depth: Steps looked ahead, at least 1; with 1 it is best-of-n.
        n: Branches asked for per path, at least 1.
    """

    def __init__(
        self,
        policy: Policy,
        critic: ProcessReward,
        dynamics: Dynamics,
        *,
        width: int = 3,
        depth: int = 2,
        n: int = 4,
    ) -> None:
        for name, value in (("width", width), ("depth", depth), ("n", n)):
            if value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}.")
        self.policy = policy
        self.critic = critic
        self.dynamics = dynamics
        self.width = width
        self.depth = depth
        self.n = n

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """The first actions of the best paths, best first, at most `n`; an outage where the critic failed.

        Raises:
            RetrievalError: A search that was looked at failed.
        """
        usage = [Usage()] * len(states)
        failed: list[Proposal | None] = [None] * len(states)
        beams = [[_Path(root, state)] for root, state in enumerate(states)]
        for level in range(self.depth):
            running = [path for beam in beams for path in beam if path.state.stop is None]
            if not running:
                break
            proposed = propose(self.policy, [path.state for path in running], self.n)
            for path, proposals in zip(running, proposed, strict=True):
                usage[path.root] += total_usage(proposals)
                if level == 0:
                    failed[path.root] = proposals[0]
            kept = [path for beam in beams for path in beam if path.state.stop is not None]
            kept += [path for path, row in zip(running, proposed, strict=True) if path.first and not distinct(row)]
            beams = self._kept([*kept, *self._branches(running, proposed, failed)], len(states))
        return [_first_actions(beam, failed[root], usage[root], n) for root, beam in enumerate(beams)]

    def _branches(
        self, running: Sequence[_Path], proposed: Sequence[Sequence[Proposal]], failed: list[Proposal | None]
    ) -> list[_Path]:
        """The paths one step on. A root of which some path cannot be scored is noted as failed."""
        states = [path.state for path in running]
        scored = score_all(self.critic, states, [distinct(proposals) for proposals in proposed])
        for path, row in zip(running, scored, strict=True):
            if row and row[0].outage:
                failed[path.root] = row[0]
        # Only what can still enter the beam is searched for.
        pairs = [
            (path, candidate)
            for path, row in zip(running, scored, strict=True)
            for candidate in row[: self.width]
            if candidate.action is not None
        ]
        after = self.dynamics.transition([path.state for path, _ in pairs], [c.chosen() for _, c in pairs])
        return [
            _Path(path.root, state, path.value + (candidate.score or 0.0), path.first or candidate)
            for (path, candidate), state in zip(pairs, after, strict=True)
        ]

    def _kept(self, paths: Sequence[_Path], roots: int) -> list[list[_Path]]:
        beams: list[list[_Path]] = [[] for _ in range(roots)]
        for path in sorted(paths, key=lambda path: -path.value):
            if len(beams[path.root]) < self.width:
                beams[path.root].append(path)
        return beams


def _first_actions(beam: Sequence[_Path], failed: Proposal | None, usage: Usage, n: int) -> list[Proposal]:
    best: dict[object, Proposal] = {}
    for path in beam:
        if path.first is not None:
            best.setdefault(path.first.action, replace(path.first, score=path.value, usage=Usage()))
    if not best or (failed is not None and failed.outage):
        return [replace(failed or Proposal(None, failure="the policy proposed nothing"), usage=usage)]
    ranked = list(best.values())
    return [replace(ranked[0], candidates=tuple(ranked), usage=usage), *ranked[1:n]]
