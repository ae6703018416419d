"""The ceiling of an environment: the teacher, also on test splits. For benchmarks only; no agent may do this."""

from __future__ import annotations

from raggym_env.policies.gold import GoldPolicy

__all__ = ["GoldChain"]


class GoldChain(GoldPolicy):
    """The policy `gold`, made with the tasks of any split: names and cards cannot do this, only its class.

    So its score is what a perfect planner and reader could get from this retriever. It needs a data set that names
    its supporting facts.
    """

    name = "gold_chain"
    fingerprint = "gold_chain 2"
