"""Self-consistency: sample, and go with the answer that most samples have in mind (arXiv:2203.11171)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from raggym_env.core import Answer, Search, State
from raggym_env.errors import OptionError
from raggym_env.mdp.metrics import normalize
from raggym_env.protocols import BasePolicy, Policy, Proposal, propose, total_usage

__all__ = ["Vote"]


class Vote(BasePolicy):
    """Takes the first proposal of the largest group of samples with the same answer in mind.

    A sample's answer in mind is what it answers, or the draft of its search; answers are compared after the
    official normalisation. Searches without a draft form one group. Between groups of a size, the earlier wins.
    The chosen proposal's score is its group's share of the samples that are actions.

    Args:
        policy: Proposes the samples.
        n: Samples per state, at least 1.
    """

    def __init__(self, policy: Policy, n: int = 10) -> None:
        if n < 1:
            raise OptionError(f"n must be at least 1, got {n}.")
        self.policy = policy
        self.n = n

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """One proposal per group, the largest first, at most `n`."""
        proposed = propose(self.policy, states, max(n, self.n)) if states else []
        return [self._elected(proposals)[:n] for proposals in proposed]

    @staticmethod
    def _elected(proposals: Sequence[Proposal]) -> list[Proposal]:
        groups: dict[Hashable, list[Proposal]] = {}
        for proposal in proposals:
            if proposal.action is not None:
                groups.setdefault(_in_mind(proposal.action), []).append(proposal)
        if not groups:
            return [replace(proposals[0], usage=total_usage(proposals))]
        votes = sum(len(group) for group in groups.values())
        ranked = sorted(groups.values(), key=lambda group: -len(group))
        elected = [replace(group[0], score=len(group) / votes) for group in ranked]
        return [replace(elected[0], candidates=tuple(elected), usage=total_usage(proposals)), *elected[1:]]


def _in_mind(action: Search | Answer) -> str | None:
    answer = action.text if isinstance(action, Answer) else action.draft
    return None if answer is None else normalize(answer)
