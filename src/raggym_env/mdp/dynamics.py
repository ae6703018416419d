"""The decision process (arXiv:2502.13957, section 2.1): one pure, batched transition over states.

Environments, rollouts, rewards that look ahead and tree search are all thin shells around `Dynamics.transition`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
            if state.searches_left > 0 and isinstance(action, Search):
                queries.append(action.query)
        # Everything is checked before the one call that costs anything, and that may fail: no state is left changed.
        results = iter(search(self.retriever, queries, self.k) if queries else ())
        next_states = []
        for state, action in zip(states, actions, strict=True):
            if state.searches_left > 0 and isinstance(action, Search):
                draft = (action.draft or state.draft) if self.answer_with_last_draft else None
                turn = Turn(action.query, tuple([hit.passage for hit in next(results)]))
                history, left = (*state.history, turn), state.searches_left - 1
                # By position, and not by `replace`, which takes three times as long: every search comes here.
                next_states.append(State(state.question, history, left, None, None, state.episode, draft))
            else:
                next_states.append(self._end(state, action))
        return next_states

    def _end(self, state: State, action: Action) -> State:
        """Return the state in which an answer, or a search beyond the budget, ends an episode."""
        answer: str | None = action.text if isinstance(action, Answer) else None
        stop = StopReason.ANSWER
        if isinstance(action, Search):
            draft = (action.draft or state.draft) if self.answer_with_last_draft else None
            answer, stop = draft or action.draft, StopReason.SEARCH_BUDGET
        return State(state.question, state.history, state.searches_left, answer, stop, state.episode, state.draft)
