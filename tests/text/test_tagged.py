import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.errors import InvalidAction
from raggym_env.text.tagged import parse_tagged, tagged_action, tagged_text
from raggym_env.text.untrusted import as_data


@given(st.text().filter(lambda text: as_data(text)), st.sampled_from([Search, Answer]))
def test_a_written_action_is_read_back_whatever_its_text(text, kind):
    assert parse_tagged(f"Some reasoning. {tagged_action(kind(text))}") == kind(as_data(text))


def test_the_draft_of_a_search_is_not_written():
    assert tagged_action(Search("who", draft="Oslo")) == "<search>who</search>"


def test_a_state_is_written_search_by_search():
    turn = Turn("who", (Passage("1", "Dawn", "A film."), Passage("2", "Dusk", "p < 0.05")))
    assert tagged_text(State(Question("", "Which?", ("a", "b")), (turn, Turn("why", ())), 1)).splitlines() == [
        "Question: Which?",
        "A. a",
        "B. b",
        "<search>who</search>",
        "<information>",
        "[1] Dawn: A film.",
        "[2] Dusk: p < 0.05",
        "</information>",
        "<search>why</search>",
        "<information>",
        "",
        "</information>",
        "Searches left: 1",
    ]


@pytest.mark.parametrize("text", ["<search>" * 20_000, "<search>a" * 20_000 + "</search>"])
def test_reading_repeated_tags_takes_linear_time(text):
    with contextlib.suppress(InvalidAction):
        parse_tagged(text)
