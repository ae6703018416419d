"""Self-consistency: sample, and take the answer that most samples agree on (arXiv:2203.11171)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raggym_env.core import Answer, State
from raggym_env.errors import check_option
from raggym_env.mdp.metrics import comparable
from raggym_env.policies.best_of import ranked
from raggym_env.protocols import BasePolicy, Policy, Proposal, propose, total_usage

__all__ = ["Vote"]


class Vote(BasePolicy):
    """Takes the first proposal of the largest group of samples that agree on the answer.

    A sample's answer is the text of its `Answer`, or the draft of its `Search`; answers are compared after the
    official normalisation. Searches without a draft form one group. Between groups of equal size, the earlier wins.
    The chosen proposal's score is its group's share of the samples that are actions.

    Args:
        policy: Proposes the samples.
        n: Samples per state, at least 1.
    """

    def __init__(self, policy: Policy, n: int = 10) -> None:
        check_option("n", n, n >= 1, "at least 1")
        self.policy = policy
        self.n = n

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return one proposal per group, the largest first, at most `n` per state."""
        samples = propose(self.policy, states, max(n, self.n)) if states else []
        return [ranked(_elected(row), row, total_usage(row), n) for row in samples]


def _elected(samples: Sequence[Proposal]) -> list[Proposal]:
    """Return the first sample of each group, the largest group first; empty if no sample is an action."""
    groups: dict[str | None, list[Proposal]] = {}
    for sample in samples:
        if sample.action is not None:
            answer = sample.action.text if isinstance(sample.action, Answer) else sample.action.draft
            groups.setdefault(None if answer is None else comparable(answer), []).append(sample)
    votes = sum(len(group) for group in groups.values())
    # Stable, and a dictionary keeps insertion order: between groups of equal size, the earlier wins.
    largest_first = sorted(groups.values(), key=lambda group: -len(group))
    return [replace(group[0], score=len(group) / votes) for group in largest_first]
