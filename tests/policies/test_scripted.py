"""The scripted policy."""

from __future__ import annotations

import pytest

from raggym_env.core import Answer, Question, Search, State, Turn
from raggym_env.errors import InvalidAction, PolicyError
from raggym_env.policies.scripted import ScriptedPolicy
from raggym_env.testing import check_policy

QUESTION = Question("q1", "Who wrote Hamlet?")
START = State(QUESTION, (), 3)
LATER = State(QUESTION, (Turn("Hamlet", ()),), 2)
SCRIPT = [Search("Hamlet"), Answer("Shakespeare")]


@pytest.mark.parametrize("name", ["q1", "Who wrote Hamlet?"])
def test_a_question_is_found_by_its_id_or_its_text(name: str) -> None:
    policy = ScriptedPolicy({name: SCRIPT})
    check_policy(policy, [START, LATER])
    assert [policy.act(START), policy.act(LATER)] == SCRIPT


def test_a_function_may_look_at_the_state() -> None:
    policy = ScriptedPolicy(lambda state: Answer(str(state.searches_left)))
    assert policy.act(LATER) == Answer("2")


def test_a_state_gets_the_same_action_every_time() -> None:
    policy = ScriptedPolicy({"q1": SCRIPT})
    assert [policy.act(LATER), policy.act(START), policy.act(START)] == [SCRIPT[1], SCRIPT[0], SCRIPT[0]]


def test_a_script_that_ran_out_is_an_error() -> None:
    with pytest.raises(PolicyError, match="has 1 actions, and action 2"):
        ScriptedPolicy({"q1": SCRIPT[:1]}).act(LATER)


def test_an_empty_script_has_run_out_and_is_not_unknown() -> None:
    with pytest.raises(PolicyError, match="has 0 actions"):
        ScriptedPolicy({"q1": []}).act(START)


def test_an_unknown_question_is_an_error() -> None:
    with pytest.raises(PolicyError, match="does not know question 'q1'"):
        ScriptedPolicy({"q2": SCRIPT}).act(START)


def test_a_script_of_something_else_is_an_error() -> None:
    with pytest.raises(InvalidAction):
        ScriptedPolicy({"q1": ["Hamlet"]}).act(START)
