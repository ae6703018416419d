"""States and actions as the text that reward models read. Training and scoring share it, so they agree to the byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raggym_env.core import Action, Answer, State, Turn
from raggym_env.errors import RewardError
from raggym_env.text.sections import with_snippets
from raggym_env.text.tagged import tagged_action, tagged_text

__all__ = ["ACTION_TOKENS", "Chat", "encode", "fitted", "render", "shortened", "without_oldest"]

ACTION_TOKENS = 128
"""Tokens that `fitted` reserves for the action."""

Chat = list[dict[str, str]]
"""Chat messages, `{"role": ..., "content": ...}`, oldest first."""


def render(state: State, action: Action) -> Chat:
    """Return a state and an action as a chat of two messages: the user shows the state, the assistant acts.

    The state is written by `tagged.tagged_text`, the action by `tagged.tagged_action`: made safe, and without the
    draft of a search.

    >>> from raggym_env.core import Question, Search
    >>> render(State(Question("", "Who?"), (), 2), Search("who"))[1]
    {'role': 'assistant', 'content': '<search>who</search>'}
    """
    return [{"role": "user", "content": tagged_text(state)}, {"role": "assistant", "content": tagged_action(action)}]


def encode(tokenizer: Any, chat: Chat) -> tuple[int, ...]:
    """Return the token ids of a rendered chat, by a transformers tokenizer.

    Its chat template is used; without one, the messages are encoded line by line.
    """
    if tokenizer.chat_template:
        return tuple(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"])
    text = "\n".join(message["content"] for message in chat)
    # The caller refuses a text that is too long, with a better message; truncation would cut off the action.
    return tuple(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def fitted(tokenizer: Any, state: State, max_tokens: int, action_tokens: int = ACTION_TOKENS) -> State:
    """Return the state without its oldest passages, as few of them as possible, so that it fits `max_tokens`.

    The queries and the question stay. The tokens of the action are reserved, whatever the action is, so that all
    candidates of a state are scored on the same text.

    Raises:
        RewardError: Even without any passage it does not fit.
    """
    room = max_tokens - action_tokens
    passages = sum(len(turn.passages) for turn in state.history)
    # Binary search for the fewest passages to leave out, since encoding is the expensive part. The first try leaves out
    # none, since most states fit whole.
    fewest, most, count = 0, passages + 1, 0
    while fewest < most:
        if len(encode(tokenizer, render(without_oldest(state, count), Answer("")))) <= room:
            most = count
        else:
            fewest = count + 1
        count = (fewest + most) // 2
    if most > passages:
        raise RewardError(
            f"The state of {state.question.text!r:.100} has more than {room:,} tokens without any passage, and "
            f"{action_tokens:,} of {max_tokens:,} are for the action. Use a model with a longer context."
        )
    return without_oldest(state, most)


def shortened(state: State, history_chars: int | None) -> State:
    """Return the state with the sentences of its passages that matter, in at most about `history_chars` characters.

    One passage gets at most half of them; see `sections.with_snippets`. None returns the state itself.
    """
    if history_chars is None:
        return state
    limits = {"passage_chars": max(1, history_chars // 2), "history_chars": history_chars}
    return replace(state, history=with_snippets(state.question.text, state.history, **limits))


def without_oldest(state: State, count: int) -> State:
    """Return the state without the first `count` of all its passages, oldest search first."""
    history = []
    for turn in state.history:
        history.append(Turn(turn.query, turn.passages[count:]))
        count = max(0, count - len(turn.passages))
    return replace(state, history=tuple(history))
