"""Between chats and tokens: templates, stop texts, and control tokens that a passage must not contain."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from raggym_env.llm.hf.batching import Tokens
from raggym_env.protocols import Messages

__all__ = ["Chat", "PromptError"]

_TAIL = 8
"""Tokens decoded beyond what a stop text can span, for characters that several tokens make up."""


class PromptError(ValueError):
    """A chat that cannot be turned into a prompt. Becomes the `failure` of its completions."""


class Chat:
    """Turns chats into tokens and tokens into text, with one tokenizer.

    A tokenizer without a chat template gets a plain one: each message as `Role: text` and a blank line, then
    `Assistant:`. A template that refuses system messages gets their text at the start of the first user message.

    Args:
        tokenizer: A transformers tokenizer.
        eos: Tokens that end a completion.
    """

    def __init__(self, tokenizer: Any, eos: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.eos = frozenset(eos)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        texts = sorted(special | set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, texts))) if texts else None

    def encode(self, messages: Messages) -> Tokens:
        """The tokens of a prompt, up to where the assistant's reply begins.

        The text of a message never makes a control token: passages are untrusted, and one that contained the
        token that ends a turn could speak as somebody else.

        Raises:
            PromptError: The chat template refuses these messages.
        """
        clean = [{**message, "content": self._defused(message["content"])} for message in messages]
        if not self.tokenizer.chat_template:
            return tuple(self.tokenizer(plain_template(clean))["input_ids"])
        try:
            return self._templated(clean)
        except TemplateError:
            pass
        try:
            return self._templated(without_system(clean))
        except TemplateError as error:
            raise PromptError(f"the model's chat template refuses the prompt: {error}") from error

    def continuation(self, text: str) -> Tokens:
        """The tokens of what an assistant says, without an end."""
        return tuple(self.tokenizer(self._defused(text), add_special_tokens=False)["input_ids"])

    def text(self, tokens: Sequence[int], stop: Sequence[str]) -> str:
        """The text of a completion: up to the first stop text, without what ends it."""
        if tokens and tokens[-1] in self.eos:
            tokens = tokens[:-1]
        text = self._decoded(tokens)
        return text[: min((at for text_ in stop if (at := text.find(text_)) >= 0), default=len(text))]

    def ended(self, stop: Sequence[str]) -> Callable[[list[int]], bool]:
        """A test whether tokens are a whole completion: the last one ends it, or they contain a stop text."""
        if not stop:
            return lambda tokens: tokens[-1] in self.eos
        # A token is at least one byte, and a character at most four: more tokens than this cannot matter.
        span = _TAIL + max(len(text.encode()) for text in stop)

        def ended(tokens: list[int]) -> bool:
            return tokens[-1] in self.eos or any(text in self._decoded(tokens[-span:]) for text in stop)

        return ended

    def _templated(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        encoded = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
        return tuple(encoded["input_ids"])

    def _decoded(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _defused(self, text: str) -> str:
        if self._control is None:
            return text
        return self._control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def plain_template(messages: Messages) -> str:
    """What a model without a chat template is given.

    >>> plain_template([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    'System: Be brief.\\n\\nUser: Why?\\n\\nAssistant:'
    """
    turns = [f"{message['role'].capitalize()}: {message['content']}\n\n" for message in messages]
    return "".join(turns) + "Assistant:"


def without_system(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    said = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if not said or not others:
        return list(messages)
    return [{**others[0], "content": "\n\n".join([*said, others[0]["content"]])}, *others[1:]]
