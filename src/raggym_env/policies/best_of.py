"""Best-of-n: sample candidate actions, let a critic choose (arXiv:2502.13957, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raggym_env.core import State, Usage
from raggym_env.errors import OptionError, RAGGymError
from raggym_env.protocols import BasePolicy, Policy, ProcessReward, Proposal, distinct, propose, score, total_usage

__all__ = ["BestOf", "score_all"]


class BestOf(BasePolicy):
    """Takes the candidate that the critic scores highest; between equals, the policy's earlier one.

    The chosen proposal carries all distinct candidates with their scores, and the usage of all of them.

    Args:
        policy: Proposes the candidates.
        critic: Scores them. Equal actions of one state are scored once.
        n: Candidates asked for per state, at least 1.
    """

    def __init__(self, policy: Policy, critic: ProcessReward, n: int = 10) -> None:
        if n < 1:
            raise OptionError(f"n must be at least 1, got {n}.")
        self.policy = policy
        self.critic = critic
        self.n = n

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """The `n` best candidates of each state, best first; an outage where the critic failed."""
        proposed = propose(self.policy, states, max(n, self.n)) if states else []
        scored = score_all(self.critic, states, [distinct(proposals) for proposals in proposed])
        return [_best(row, proposals, n) for row, proposals in zip(scored, proposed, strict=True)]


def score_all(
    critic: ProcessReward, states: Sequence[State], candidates: Sequence[Sequence[Proposal]]
) -> list[list[Proposal]]:
    """The candidates of every state with the critic's scores, from one call of it, best first.

    If the call fails, each state is scored alone, so that no candidate is sampled again for another's sake. A
    state that cannot be scored has one proposal, an outage.
    """
    try:
        return _scored(critic, states, candidates) if states else []
    except RAGGymError as error:
        if len(states) == 1:
            return [[Proposal(None, failure=f"{type(error).__name__}: {error}", outage=True)]]
        alone = zip(states, candidates, strict=True)
        return [row for state, mine in alone for row in score_all(critic, [state], [mine])]


def _scored(
    critic: ProcessReward, states: Sequence[State], candidates: Sequence[Sequence[Proposal]]
) -> list[list[Proposal]]:
    scores = score(critic, states, [[candidate.chosen() for candidate in row] for row in candidates])
    scored = [
        [replace(candidate, score=float(value)) for candidate, value in zip(row, values, strict=True)]
        for row, values in zip(candidates, scores, strict=True)
    ]
    return [sorted(row, key=lambda candidate: -(candidate.score or 0.0)) for row in scored]


def _best(scored: list[Proposal], proposed: Sequence[Proposal], n: int) -> list[Proposal]:
    if scored and scored[0].action is None:
        return [replace(scored[0], usage=total_usage(proposed))]
    if not scored:
        # No candidate was an action: the first one's failure stands for all.
        return [replace(proposed[0], usage=total_usage(proposed))]
    first = replace(scored[0], candidates=tuple(scored), usage=total_usage(proposed))
    return [first, *(replace(proposal, usage=Usage()) for proposal in scored[1:n])]
