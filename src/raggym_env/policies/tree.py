"""Tree search: look ahead over forked states before acting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raggym_env.core import State, Usage
from raggym_env.errors import check_option
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.policies.best_of import ranked, score_all
from raggym_env.protocols import BasePolicy, Policy, ProcessReward, Proposal, distinct, propose, total_usage

__all__ = ["Tree"]


@dataclass(frozen=True, slots=True)
class _Path:
    """A sequence of actions from a root state."""

    root: int
    """Index of the state that it starts from."""
    state: State
    """The state that it leads to."""
    value: float = 0.0
    """Sum of the critic's scores of its actions."""
    first: Proposal | None = None
    """The proposal of its first action; None before the first level."""


class Tree(BasePolicy):
    """Beam search over the next `depth` steps; takes the first action of the best path.

    A path is worth the sum of the critic's scores of its actions, so the critic's scores must be comparable across
    states. A path that has ended, or that the policy proposes no action for, keeps its value and stays in the beam.
    The policy plans anew at every step of the episode. The searches on the paths are run, in one batched retrieval per
    level for all states; a retriever's cache has the results when one of these searches is then taken.

    Args:
        policy: Proposes the branches.
        critic: Scores them.
        dynamics: The transition that paths follow: that of the environment.
        width: Paths kept per state at each level, at least 1.
        depth: Steps looked ahead, at least 1; with 1 it is best-of-n.
        n: Branches sampled per path, at least 1.
    """

    def __init__(
        self, policy: Policy, critic: ProcessReward, dynamics: Dynamics, *, width: int = 3, depth: int = 2, n: int = 4
    ) -> None:
        for name, value in (("width", width), ("depth", depth), ("n", n)):
            check_option(name, value, value >= 1, "at least 1")
        self.policy = policy
        self.critic = critic
        self.dynamics = dynamics
        self.width = width
        self.depth = depth
        self.n = n

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return the first actions of the best paths, best first, at most `n`; an outage where the critic failed.

        Raises:
            RetrievalError: A search on a path failed.
        """
        usage = [Usage()] * len(states)
        failures: list[Proposal | None] = [None] * len(states)
        beams = [[_Path(root, state)] for root, state in enumerate(states)]
        for level in range(self.depth):
            running = [path for beam in beams for path in beam if path.state.stop is None]
            if not running:
                break
            # One call per level for all paths of all states.
            rows = propose(self.policy, [path.state for path in running], self.n)
            for path, row in zip(running, rows, strict=True):
                usage[path.root] += total_usage(row)
                if level == 0:
                    # Stands for the state if no sample turns out to be an action.
                    failures[path.root] = next(iter(row), None)
            # Paths that cannot be extended compete with the extended ones.
            paths = [path for beam in beams for path in beam if path.state.stop is not None]
            paths += [path for path, row in zip(running, rows, strict=True) if path.first and not distinct(row)]
            paths += self._branches(running, rows, failures)
            beams = [[] for _ in states]
            for path in sorted(paths, key=lambda path: -path.value):
                if len(beams[path.root]) < self.width:
                    beams[path.root].append(path)
        return [_first_actions(beam, failures[root], usage[root], n) for root, beam in enumerate(beams)]

    def _branches(
        self, running: Sequence[_Path], rows: Sequence[Sequence[Proposal]], failures: list[Proposal | None]
    ) -> list[_Path]:
        """Return the paths one step on. Sets the failure of a root if one of its paths cannot be scored."""
        states = [path.state for path in running]
        scored = score_all(self.critic, states, rows)
        for path, candidates in zip(running, scored, strict=True):
            if candidates and candidates[0].outage:
                failures[path.root] = candidates[0]
        # At most `width` branches of a path can enter the beam, so no search is run for the others.
        pairs = [
            (path, candidate)
            for path, candidates in zip(running, scored, strict=True)
            for candidate in candidates[: self.width]
            if candidate.action is not None
        ]
        actions = [candidate.chosen() for _, candidate in pairs]
        after = self.dynamics.transition([path.state for path, _ in pairs], actions)
        return [
            _Path(path.root, state, path.value + (candidate.score or 0.0), path.first or candidate)
            for (path, candidate), state in zip(pairs, after, strict=True)
        ]


def _first_actions(beam: Sequence[_Path], failure: Proposal | None, usage: Usage, n: int) -> list[Proposal]:
    """Return the distinct first proposals of a state's paths, each with its best path's value as its score."""
    best: dict[object, Proposal] = {}
    for path in beam:
        # After an outage of the critic the beam lacks some paths: acting on the others would be a silent bias.
        if path.first is not None and not (failure and failure.outage):
            best.setdefault(path.first.action, replace(path.first, score=path.value, usage=Usage()))
    return ranked(list(best.values()), [failure] if failure else [], usage, n)
