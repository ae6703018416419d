"""The single-search policy."""

from __future__ import annotations

from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.policies.single_search import SingleSearchPolicy
from raggym_env.testing import check_policy

QUESTION = Question("q", "When was Ada Lovelace born?")
ADA = Passage("1", "Ada Lovelace", "Ada Lovelace (10 December 1815 – 27 November 1852) was an English mathematician.")


def test_it_searches_once_for_the_question_and_then_answers() -> None:
    policy = SingleSearchPolicy()
    assert policy.act(State(QUESTION, (), 5)) == Search(QUESTION.text)
    assert policy.act(State(QUESTION, (Turn(QUESTION.text, (ADA,)),), 4)) == Answer("10 December 1815")


def test_it_answers_without_a_search_or_a_passage() -> None:
    for state in (State(QUESTION, (), 0), State(QUESTION, (Turn("x", ()),), 3)):
        assert isinstance(SingleSearchPolicy().act(state), Answer)


def test_it_keeps_the_contract() -> None:
    check_policy(SingleSearchPolicy(), [State(QUESTION, (), 1), State(QUESTION, (Turn("x", (ADA,)),), 0)])
