"""The text that reward models read, with a tokenizer of one token per word."""

import pytest

from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.errors import RewardError
from raggym_env.text.state_chat import encode, fitted, render, without_oldest

TURNS = tuple(
    Turn(f"query{i}", tuple(Passage(f"{i}{j}", f"Title{i}{j}", "word " * 10) for j in range(2))) for i in range(2)
)
STATE = State(Question("q", "Who?"), TURNS, 1)


class Words:
    """Stands for a tokenizer without a chat template; counts its calls."""

    chat_template = None

    def __init__(self):
        self.calls = 0

    def __call__(self, text, **options):
        self.calls += 1
        return {"input_ids": [len(word) for word in text.split()]}


def titles(state):
    return [passage.title for turn in state.history for passage in turn.passages]


def tokens(state):
    return len(encode(Words(), render(state, Answer(""))))


def test_messages_are_encoded_line_by_line_without_a_chat_template():
    chat = render(State(Question("q", "Who is it?"), (), 1), Search("who"))
    assert encode(Words(), chat) == (9, 3, 2, 3, 8, 5, 1, 20)


@pytest.mark.parametrize("count", range(6))
def test_the_oldest_passages_are_left_out_first_and_queries_stay(count):
    state = without_oldest(STATE, count)
    assert titles(state) == ["Title00", "Title01", "Title10", "Title11"][count:]
    assert [turn.query for turn in state.history] == ["query0", "query1"]


@pytest.mark.parametrize("count", range(5))
def test_as_few_passages_as_possible_are_left_out(count):
    room = tokens(without_oldest(STATE, count))
    assert fitted(Words(), STATE, room + 7, action_tokens=7) == without_oldest(STATE, count)
    if count:
        assert fitted(Words(), STATE, room + 8, action_tokens=7) == without_oldest(STATE, count)


def test_a_state_that_fits_is_encoded_once():
    tokenizer = Words()
    assert fitted(tokenizer, STATE, 10_000) == STATE
    assert tokenizer.calls == 1


def test_a_state_that_does_not_fit_without_passages_is_an_error_with_the_numbers():
    with pytest.raises(RewardError, match=r"more than 3 tokens without any passage, and 7 of 10"):
        fitted(Words(), STATE, 10, action_tokens=7)
