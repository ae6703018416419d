"""The decision process (arXiv:2502.13957, section 2.1): one pure, batched transition over states.

Environments, rollouts, rewards that look ahead and tree search are all thin shells around `Dynamics.transition`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from raggym_env.core import Action, Answer, Question, Search, State, StopReason, Turn
from raggym_env.errors import InvalidAction, check_option
from raggym_env.protocols import Retriever, search

__all__ = ["Dynamics"]


@dataclass(frozen=True, slots=True)
class Dynamics:
    """The transition of the decision process. Retrieval settings are fixed for an episode."""

    retriever: Retriever
    """Runs the searches."""
    k: int = 5
    """Passages per search, at least 1."""
    max_searches: int = 8
    """Searches per episode, 0 or more. One more than this truncates the episode."""
    answer_with_last_draft: bool = False
    """Whether the last draft of an episode is its answer where it ends without one: at a search beyond the budget that
    carries no draft, and, in rollouts, at an output that is no action."""

    def __post_init__(self) -> None:
        check_option("k", self.k, self.k >= 1, "at least 1")
        check_option("max_searches", self.max_searches, self.max_searches >= 0, "0 or more")

    def start(self, question: Question) -> State:
        """Return the state in which an episode on this question begins."""
        return State(question, (), self.max_searches)

    def transition(self, states: Sequence[State], actions: Sequence[Action]) -> list[State]:
        """Apply one action to each state, with one retriever call for all searches.

        An `Answer` ends the episode. A `Search` appends its passages, unless no search is left: then it is not
        run, and the episode ends with the search's draft as the answer, or without one. The given states are
        unchanged, so any of them can be continued by any number of actions; passages are shared, never copied.

        Args:
            states: `n` running states.
            actions: `n` actions, in the same order.

        Returns:
            `n` states, in the same order.

        Raises:
            InvalidAction: A state has ended, or the numbers differ.
            RetrievalError: The search failed.
        """
        if len(states) != len(actions):
            raise InvalidAction(f"{len(states)} states need as many actions, got {len(actions)}.")
        queries = []
        for state, action in zip(states, actions, strict=True):
            if state.stop is not None:
                raise InvalidAction(f"The episode on {state.question.text!r:.100} has ended ({state.stop}).")
            if isinstance(action, Search) and state.searches_left > 0:
                queries.append(action.query)
        # Everything is checked before the one call that costs anything, and that may fail: no state is left changed.
        results = search(self.retriever, queries, self.k) if queries else []
        retrieved = zip(queries, results, strict=True)
        turns = iter([Turn(query, tuple([hit.passage for hit in hits])) for query, hits in retrieved])
        return [self._next(state, action, turns) for state, action in zip(states, actions, strict=True)]

    def _next(self, state: State, action: Action, turns: Iterator[Turn]) -> State:
        """Return the state after `action`. Takes the next of the `turns` if the action is a search that was run."""
        if isinstance(action, Answer):
            return replace(state, answer=action.text, stop=StopReason.ANSWER)
        draft = (action.draft or state.draft) if self.answer_with_last_draft else None
        if state.searches_left == 0:
            return replace(state, answer=draft or action.draft, stop=StopReason.SEARCH_BUDGET)
        # Not `replace`: it takes three times as long, and every search comes through here.
        history = (*state.history, next(turns))
        return State(state.question, history, state.searches_left - 1, episode=state.episode, draft=draft)
