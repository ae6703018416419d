"""The random policy."""

from __future__ import annotations

from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.policies.random import RandomPolicy
from raggym_env.testing import check_policy

QUESTION = Question("q", "Who directed the film Alpha Beta?")
SEARCHED = State(QUESTION, (Turn("x", (Passage("1", "Alpha", "One two three four five."),)),), 3)
STATES = [State(Question(str(i), f"Question number {i} about things?"), (), 4) for i in range(60)]


def test_it_keeps_the_contract() -> None:
    check_policy(RandomPolicy(), [*STATES, SEARCHED])


def test_it_both_searches_and_answers() -> None:
    kinds = {type(proposals[0].action) for proposals in RandomPolicy().propose(STATES)}
    assert kinds == {Search, Answer}


def test_with_no_search_left_it_answers() -> None:
    states = [State(state.question, (), 0) for state in STATES]
    assert all(isinstance(p[0].action, Answer) for p in RandomPolicy().propose(states))


def test_the_same_state_draws_the_same_whatever_the_batch() -> None:
    policy = RandomPolicy(seed=5)
    together = policy.propose(STATES, 3)
    assert [policy.propose([state], 3)[0] for state in reversed(STATES)] == together[::-1]
    assert RandomPolicy(seed=6).propose(STATES, 3) != together


def test_an_observation_draws_what_its_state_draws() -> None:
    obs = {"question": QUESTION.text, "options": (), "history": SEARCHED.history, "searches_left": 3}
    assert RandomPolicy().act(obs) == RandomPolicy().act(SEARCHED)


def test_its_answers_are_phrases_of_a_passage() -> None:
    for (proposal,) in RandomPolicy().propose([State(QUESTION, SEARCHED.history, 0)]):
        assert proposal.action.text in "One two three four five."


def test_its_answer_to_a_question_with_options_is_one_of_them() -> None:
    options = ("Aspirin", "Heparin")
    states = [State(Question(str(i), f"Which drug {i}?", options), (), 0) for i in range(20)]
    assert {p[0].action.text for p in RandomPolicy().propose(states)} == set(options)


def test_blank_texts_still_give_an_action() -> None:
    blank = State(Question("", " "), (Turn("", (Passage("1", "", " "),)),), 1)
    check_policy(RandomPolicy(), [blank], n=20)
