"""Self-consistency: sample, and take the answer that most samples agree on (arXiv:2203.11171)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from raggym_env.core import Answer, Search, State
from raggym_env.errors import check_option
from raggym_env.mdp.metrics import normalize
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
        return [_elected(row)[:n] for row in samples]


def _elected(samples: Sequence[Proposal]) -> list[Proposal]:
    groups: dict[Hashable, list[Proposal]] = {}
    for sample in samples:
        if sample.action is not None:
            groups.setdefault(_draft_answer(sample.action), []).append(sample)
    if not groups:
        # No sample was an action: the first one's failure stands for all.
        return [replace(samples[0], usage=total_usage(samples))]
    votes = sum(len(group) for group in groups.values())
    # Stable, and a dictionary keeps insertion order: between groups of equal size, the earlier wins.
    ranked = sorted(groups.values(), key=lambda group: -len(group))
    elected = [replace(group[0], score=len(group) / votes) for group in ranked]
    return [replace(elected[0], candidates=tuple(elected), usage=total_usage(samples)), *elected[1:]]


def _draft_answer(action: Search | Answer) -> str | None:
    """Return the normalised answer that the action gives or, for a search, has as its draft."""
    answer = action.text if isinstance(action, Answer) else action.draft
    return None if answer is None else normalize(answer)
