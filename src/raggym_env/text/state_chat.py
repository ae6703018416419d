"""States and actions as the text that reward models read. Training and scoring share it, so they agree to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raggym_env.core import Action, Answer, Passage, Question, Search, State, Turn
from raggym_env.errors import RewardError
from raggym_env.text.tagged import tagged_text
from raggym_env.text.untrusted import as_data

__all__ = ["ACTION_TOKENS", "Chat", "encode", "fitted", "render", "without_oldest"]

ACTION_TOKENS = 128
"""Tokens that `fitted` leaves for the action."""

Chat = list[dict[str, str]]


def render(state: State, action: Action) -> Chat:
    """A state and an action as a chat of two messages: the user shows the state, the assistant acts.

    The state is written as by `tagged.tagged_text`, the action as `<search>query</search>` or
    `<answer>text</answer>`; the draft of a search is not shown. Texts are made safe first, so that nothing retrieved
    looks like a tag or a control token of a chat.

    >>> render(State(Question("", "Who?"), (), 2), Search("who"))[1]
    {'role': 'assistant', 'content': '<search>who</search>'}
    """
    return [
        {"role": "user", "content": tagged_text(_safe(state))},
        {"role": "assistant", "content": _action_text(action)},
    ]


def encode(tokenizer: Any, chat: Chat) -> tuple[int, ...]:
    """The tokens of a rendered chat: by the tokenizer's chat template, or, without one, its messages line by line.

    Args:
        tokenizer: A transformers tokenizer.
        chat: From `render`.
    """
    if tokenizer.chat_template:
        return tuple(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"])
    text = "\n".join(message["content"] for message in chat)
    return tuple(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def fitted(tokenizer: Any, state: State, max_tokens: int, action_tokens: int = ACTION_TOKENS) -> State:
    """The state without as many of its oldest passages as it takes to fit, with an action, into `max_tokens`.

    Queries stay, and so does the question. How many passages go does not depend on the action.

    Raises:
        RewardError: It does not fit without any passage either.
    """
    room = max_tokens - action_tokens
    passages = sum(len(turn.passages) for turn in state.history)
    fewest, most = 0, passages + 1
    middle = 0  # most states fit as they are
    while fewest < most:
        if len(encode(tokenizer, render(without_oldest(state, middle), Answer("")))) <= room:
            most = middle
        else:
            fewest = middle + 1
        middle = (fewest + most) // 2
    if most > passages:
        raise RewardError(
            f"The state of {state.question.text!r:.100} has more than {room:,} tokens without any passage, and "
            f"{action_tokens:,} of {max_tokens:,} are for the action. Use a model with a longer context."
        )
    return without_oldest(state, most)


def without_oldest(state: State, count: int) -> State:
    """The state without the first `count` of all the passages that its searches found, one search after the other."""
    history = []
    for turn in state.history:
        history.append(Turn(turn.query, turn.passages[count:]))
        count = max(0, count - len(turn.passages))
    return replace(state, history=tuple(history))


def _action_text(action: Action) -> str:
    if isinstance(action, Search):
        return f"<search>{as_data(action.query)}</search>"
    return f"<answer>{as_data(action.text)}</answer>"


def _safe(state: State) -> State:
    question = Question("", as_data(state.question.text), tuple(map(as_data, state.question.options)))
    history = tuple(Turn(as_data(turn.query), _safe_passages(turn.passages)) for turn in state.history)
    return State(question, history, state.searches_left)


def _safe_passages(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    return tuple(Passage(passage.id, as_data(passage.title), as_data(passage.text)) for passage in passages)
