"""Best-of-n: sample candidate actions and let a critic choose (arXiv:2502.13957, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raggym_env.core import State, Usage
from raggym_env.errors import LLMError, RAGGymError, check_option
from raggym_env.protocols import (
    BasePolicy,
    Policy,
    ProcessReward,
    Proposal,
    ReplyCritic,
    distinct,
    propose,
    score,
    score_replies,
    total_usage,
)

__all__ = ["BestOf", "ranked", "score_all"]


class BestOf(BasePolicy):
    """Takes the candidate that the critic scores highest; among equals, the one that the policy proposed first.

    The chosen proposal carries all distinct candidates with their scores, and the usage of all samples.

    Args:
        policy: Proposes the candidates.
        critic: Scores them. Equal actions of one state are scored once, but by a `ReplyCritic`, which scores every
            reply: an action then has the score of its best one.
        n: Samples per state, at least 1.
    """

    def __init__(self, policy: Policy, critic: ProcessReward, n: int = 10) -> None:
        check_option("n", n, n >= 1, "at least 1")
        self.policy = policy
        self.critic = critic
        self.n = n

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return the `n` best candidates of each state, best first; an outage where the critic failed."""
        samples = propose(self.policy, states, max(n, self.n)) if states else []
        scored = score_all(self.critic, states, samples)
        return [ranked(best, row, total_usage(row), n) for best, row in zip(scored, samples, strict=True)]


def score_all(
    critic: ProcessReward, states: Sequence[State], samples: Sequence[Sequence[Proposal]]
) -> list[list[Proposal]]:
    """Return every state's distinct candidates with the critic's scores, best first, from one call of the critic.

    If the call fails, each state is scored alone, so that the others keep their sampled candidates. A state that
    cannot be scored gets one proposal, an outage. An `LLMError` is raised: no state can be scored then.
    """
    if not states:
        return []
    candidates = [distinct(row) for row in samples]
    try:
        if isinstance(critic, ReplyCritic):
            candidates = [[sample for sample in row if sample.action is not None] for row in samples]
            scores = score_replies(critic, states, candidates)
        else:
            scores = score(critic, states, [[candidate.chosen() for candidate in row] for row in candidates])
    except LLMError:
        raise  # the critic's model cannot be used at all, for any state
    except RAGGymError as error:
        if len(states) == 1:
            return [[Proposal(None, failure=f"{type(error).__name__}: {error}", outage=True)]]
        pairs = zip(states, candidates, strict=True)
        return [best for state, row in pairs for best in score_all(critic, [state], [row])]
    rows = []
    for row, values in zip(candidates, scores, strict=True):
        scored = [replace(candidate, score=float(value)) for candidate, value in zip(row, values, strict=True)]
        # Stable: among equals the policy's order decides.
        rows.append(distinct(sorted(scored, key=lambda candidate: -(candidate.score or 0.0))))
    return rows


def ranked(candidates: Sequence[Proposal], samples: Sequence[Proposal], usage: Usage, n: int) -> list[Proposal]:
    """Return a state's `n` best candidates, given best first. The first one carries them all and the `usage`.

    Without candidates, or if the first is an outage of the critic, there is one proposal: that failure, or else the
    first of the policy's `samples`, whose failure stands for all.
    """
    if not candidates or candidates[0].action is None:
        nothing = Proposal(None, failure="the policy proposed nothing")
        return [replace([*candidates, *samples, nothing][0], usage=usage)]
    best = replace(candidates[0], candidates=tuple(candidates), usage=usage)
    # The cost of the others is part of the first one's, and must not count twice.
    return [best, *(replace(candidate, usage=Usage()) for candidate in candidates[1:n])]
