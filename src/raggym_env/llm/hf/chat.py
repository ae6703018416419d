"""Turns chats into tokens and back: templates, stop texts, and control tokens that passages must not contain."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from raggym_env.llm.hf.batching import Tokens
from raggym_env.protocols import Messages

__all__ = ["Chat", "PromptError"]

# Tokens decoded beyond those that a stop text can span, for characters that consist of several tokens.
_TAIL = 8


class PromptError(ValueError):
    """A chat that cannot be turned into a prompt. Becomes the `failure` of its completions."""


class Chat:
    """Turns chats into tokens and tokens into text, with one transformers tokenizer.

    Without a chat template, a prompt is each message as `Role: text` and a blank line, then `Assistant:`. If a template
    refuses system messages, their text goes to the start of the first other message. `eos` lists the tokens that end a
    completion.
    """

    def __init__(self, tokenizer: Any, eos: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.eos = frozenset(eos)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        # Longest first: a regular expression takes the first alternative that matches, and one may start another.
        texts = sorted(special | set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, texts))) if texts else None

    def encode(self, messages: Messages) -> Tokens:
        """Return the tokens of a prompt, up to where the assistant's reply begins. No text becomes a control token.

        Raises:
            PromptError: The chat template refuses these messages.
        """
        clean = [{**message, "content": self.defused(message["content"])} for message in messages]
        if not self.tokenizer.chat_template:
            return tuple(self.tokenizer(plain_template(clean))["input_ids"])
        try:
            return self._templated(clean)
        except TemplateError:
            pass  # templates word their refusals differently, so the most frequent reason is tried
        try:
            return self._templated(without_system(clean))
        except TemplateError as error:
            raise PromptError(f"the model's chat template refuses the prompt: {error}") from error

    def continuation(self, text: str) -> Tokens:
        """Return the tokens of a reply, without an end token."""
        return tuple(self.tokenizer(self.defused(text), add_special_tokens=False)["input_ids"])

    def defused(self, text: str) -> str:
        """Return the text with a space in each control token's text, so that it does not become that token."""
        # Passages are untrusted: one that contained the token that ends a turn could speak as the assistant.
        if self._control is None:
            return text
        return self._control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def text(self, tokens: Sequence[int], stop: Sequence[str]) -> str:
        """Return the text of a completion up to the first stop text, without the end token."""
        if tokens and tokens[-1] in self.eos:
            tokens = tokens[:-1]
        text = self._decoded(tokens)
        return text[: min((text.index(end) for end in stop if end in text), default=len(text))]

    def ended(self, stop: Sequence[str]) -> Callable[[list[int]], bool]:
        """Return a test for complete completions: the last token ends it, or the text contains a stop text."""
        if not stop:
            return lambda tokens: tokens[-1] in self.eos
        # Decoding the whole completion at every token would take quadratic time. A token is at least one byte, so a
        # stop text that the last token completes lies within this many tokens.
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


def plain_template(messages: Messages) -> str:
    """Return the prompt for a model without a chat template.

    >>> plain_template([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    'System: Be brief.\\n\\nUser: Why?\\n\\nAssistant:'
    """
    turns = [f"{message['role'].capitalize()}: {message['content']}\n\n" for message in messages]
    return "".join(turns) + "Assistant:"


def without_system(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Return the chat with the text of its system messages at the start of the first other message."""
    instructions = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if not instructions or not others:
        return list(messages)
    return [{**others[0], "content": "\n\n".join([*instructions, others[0]["content"]])}, *others[1:]]
