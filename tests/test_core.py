import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Answer, Passage, Question, Search, State, Turn, Usage, as_action, state_rng
from raggym_env.envs.spaces import observe
from raggym_env.errors import InvalidAction
from raggym_env.mdp.metrics import read_option
from worlds import FILM

TURN = Turn("q", (Passage("1", "t", "text"), Passage("2", "u", "text")))


@pytest.mark.parametrize(
    ("value", "action"),
    [
        (Search("q"), Search("q")),
        (Search("q", draft="d"), Search("q", draft="d")),
        (Answer("a"), Answer("a")),
        ((0, "q"), Search("q")),
        ((1, "a"), Answer("a")),
    ],
)
def test_actions_are_read_in_every_documented_form(value, action):
    assert as_action(value) == action


@pytest.mark.parametrize(
    "value",
    [
        None,
        "q",
        (2, "q"),
        (0, 1),
        (0,),
        (0, "q", 1),
        (0, ""),
        (1, " \n"),
        Search(""),
        Search(None),
        Answer(3),
        Search("q", 5),
        Search("q", " "),
    ],
)
def test_anything_else_is_an_invalid_action_and_the_error_shows_it(value):
    with pytest.raises(InvalidAction, match="Not an action"):
        as_action(value)


def test_states_hash_and_compare_by_content():
    state = State(Question("1", "q?"), (TURN,), 3)
    assert state == State(Question("1", "q?"), (Turn(*TURN),), 3)
    assert len({state, pickle.loads(pickle.dumps(state))}) == 1  # noqa: S301


def test_a_state_is_read_back_from_its_observation_except_for_the_question_id():
    state = State(Question("1", "q?", ("a", "b")), (TURN,), 3)
    assert State.from_obs(observe(state)) == State(Question("", "q?", ("a", "b")), (TURN,), 3)


def test_an_observation_made_of_plain_tuples_is_read_too():
    obs = {"question": "q?", "options": (), "history": (("q", (("1", "t", "text"),)),), "searches_left": 1}
    state = State.from_obs(obs)
    assert state.history[0].passages[0].title == "t"


def test_passages_lists_each_passage_once_in_the_order_of_the_searches():
    again = Turn("r", (TURN.passages[1], Passage("3", "v", "text")))
    assert [p.id for p in State(Question("1", "q?"), (TURN, again)).passages] == ["1", "2", "3"]


def test_sampling_depends_on_seed_and_state_but_not_on_the_question_id():
    state = State(Question("1", "q?"), (TURN,), 3)
    same = State.from_obs(observe(state))
    draws = [
        state_rng(seed, s, *extra).random()
        for seed, s, extra in [
            (0, state, ()),
            (0, same, ()),
            (1, state, ()),
            (0, State(state.question), ()),
            (0, state, (1,)),
        ]
    ]
    assert draws[0] == draws[1]
    assert len(set(draws[1:])) == 4


def test_lone_surrogates_in_a_query_do_not_break_sampling():
    odd, plain = State(Question("1", "q?"), (Turn("\ud800", ()),)), State(Question("1", "q?"), (Turn("x", ()),))
    assert state_rng(0, odd).random() != state_rng(0, plain).random()


def test_gold_titles_are_unique_and_in_order():
    assert FILM.gold_titles == ("Dawn", "Ada Berg")


def test_usages_add_up():
    assert Usage(1, 10, 2, 3, 0.5) + Usage(1, 5, 1, 2, 0.25) == Usage(2, 15, 3, 5, 0.75)


@given(
    st.lists(
        st.sampled_from(["B", "c", "(A)", "D.", "[e]", "5", "AB", "é", "Aspirin", "+"]),
        min_size=2,
        max_size=5,
        unique=True,
    )
)
def test_the_answer_of_every_option_is_read_as_that_option(options):
    question = Question("q", "?", tuple(options))
    assert [read_option(answer, options) for answer in question.option_answers] == list(range(len(options)))
    assert Question("q", "?", ("Aspirin", "5")).option_answers == ("Aspirin", "5")
