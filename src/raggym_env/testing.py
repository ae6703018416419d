"""Fakes and contract checks for tests of your own plug-ins.

The fakes answer from a script and record their calls. The checks raise `AssertionError` with the rule that was broken;
the library's own implementations pass them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from raggym_env.core import Action, Passage, State
from raggym_env.errors import RetrievalError
from raggym_env.llm.scripted import ScriptedLLM
from raggym_env.policies.scripted import ScriptedPolicy
from raggym_env.protocols import LLM, Hit, Messages, Policy, ProcessReward, Retriever, Sampling, propose

__all__ = [
    "ScriptedLLM",
    "ScriptedPolicy",
    "ScriptedRetriever",
    "check_llm",
    "check_policy",
    "check_process_reward",
    "check_retriever",
]


class ScriptedRetriever:
    """A retriever that answers searches from a table and records them.

    >>> retriever = ScriptedRetriever({"capital of France": ["Paris", "France"]})
    >>> [hit.passage.title for hit in retriever.search(["capital of France"], k=1)[0]]
    ['Paris']
    """

    fingerprint = "scripted"

    def __init__(
        self, results: Mapping[str, Iterable[str | Passage]], *, fails: Iterable[str] = (), default: Iterable[str] = ()
    ) -> None:
        """Make a retriever.

        Args:
            results: Query to passages, best first; a string stands for a passage with that title and id.
            fails: Queries that raise `RetrievalError`, and with them their whole batch.
            default: Results of any other query.
        """
        self._results = {query: [_passage(item) for item in items] for query, items in results.items()}
        self._default = [_passage(item) for item in default]
        # Failing by query, not by call, makes a test independent of how searches are batched.
        self._fails = frozenset(fails)
        self.calls: list[list[str]] = []
        """The queries of each call."""

    @property
    def queries(self) -> list[str]:
        """All queries so far, in order."""
        return [query for call in self.calls for query in call]

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`."""
        self.calls.append(list(queries))
        if failed := self._fails.intersection(queries):
            raise RetrievalError(f"Scripted to fail on {sorted(failed)}.")
        rows = [self._results.get(query, self._default)[:k] for query in queries]
        return [[Hit(passage, 1.0 / rank) for rank, passage in enumerate(row, 1)] for row in rows]


def _passage(item: str | Passage) -> Passage:
    return item if isinstance(item, Passage) else Passage(item, item, f"Text of {item}.")


def check_llm(llm: LLM, prompts: Sequence[Messages]) -> None:
    """Check the contract of `LLM` on at least two different prompts that the model can complete."""
    assert llm.generate([], Sampling()) == [], "no prompts give an empty list"
    for n in (1, 2):
        completions = llm.generate(prompts, Sampling(n=n, temperature=0.0 if n == 1 else 1.0, max_tokens=8))
        assert len(completions) == len(prompts), "one list per prompt, in order"
        for row in completions:
            assert len(row) == n, "`n` completions per prompt"
            for completion in row:
                assert completion.failure is None, completion.failure
                assert isinstance(completion.text, str), "a completion is text"


def check_retriever(retriever: Retriever, queries: Sequence[str], k: int = 5) -> None:
    """Check the contract of `Retriever` on at least two different queries.

    Args:
        retriever: The retriever.
        queries: Queries that the corpus can answer.
        k: Passages per query.
    """
    results = retriever.search(queries, k)
    assert len(results) == len(queries), "one result list per query, in query order"
    for hits in results:
        scores = [hit.score for hit in hits]
        assert len(hits) <= k, "at most k passages per query"
        assert scores == sorted(scores, reverse=True), "best first"
        assert len({hit.passage for hit in hits}) == len(hits), "no passage twice"
    assert retriever.search([], k) == [], "no queries give an empty list"
    for query, hits in zip(queries, results, strict=True):
        (alone,) = retriever.search([query], k)
        # By id, not by score: floating-point sums may differ in the last bit between batch sizes.
        same = [hit.passage.id for hit in alone] == [hit.passage.id for hit in hits]
        assert same, "what a query finds does not depend on its batch"
        np.testing.assert_allclose([hit.score for hit in alone], [hit.score for hit in hits], rtol=1e-4, atol=1e-5)


def check_policy(policy: Policy, states: Sequence[State], n: int = 3) -> None:
    """Check the contract of `Policy` on running states."""
    assert list(policy.propose([], 1)) == [], "no states give an empty list, not one row"
    for count in (1, n):
        # As the library calls it: bare actions count as proposals, and another number of rows is a `PolicyError`.
        for proposals in propose(policy, states, count):
            assert 1 <= len(proposals) <= count, "at least one and at most n proposals"
            for proposal in proposals:
                assert (proposal.action is None) == (proposal.failure is not None), "an action, or why not"


def check_process_reward(reward: ProcessReward, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> None:
    """Check the contract of `ProcessReward` on running states and candidates for each."""
    scores = reward.score(states, actions)
    assert len(scores) == len(states), "one array per state"
    for row, candidates in zip(scores, actions, strict=True):
        assert row.dtype == np.float32, "scores are float32"
        assert row.shape == (len(candidates),), "one score per candidate"
        # A NaN would win or lose every comparison, depending on the order of the candidates.
        assert np.isfinite(row).all(), "scores are finite"
    again = [reward.score([state], [row])[0] for state, row in zip(states, actions, strict=True)]
    for alone, row in zip(again, scores, strict=True):
        np.testing.assert_allclose(alone, row, rtol=1e-4, atol=1e-5)
    assert reward.score([], []) == [], "no states give an empty list"
