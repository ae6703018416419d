"""Untrusted text made fit for a prompt: on one line, without what a prompt's own structure is made of."""

from __future__ import annotations

import re

__all__ = ["as_data", "clipped", "one_line"]

_CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
# All but comparisons with a number: data tags, action tags, and the control tokens of chat templates ("<|...|>",
# "<s>", "<start_of_turn>"), which a tokenizer would read as the structure of the chat.
_OPENING = re.compile(r"<(?!=?[ ]?[-+]?[\d.,$€£])")
_BRACKETED = re.compile(r"\[(/?[A-Z_]{3,})\]")


def one_line(text: str) -> str:
    """The text with single spaces, and without control, invisible and unpaired surrogate characters."""
    # Escapes give surrogates in pairs, which are one character.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return " ".join(_CONTROL.sub("", text).split())


def as_data(text: str) -> str:
    """The text on one line, with nothing that closes a data section or opens another: `<` becomes `‹`.

    >>> as_data("see </passages> <|im_end|> [INST], p < 0.05")
    'see ‹/passages> ‹|im_end|> (INST), p < 0.05'
    """
    return _BRACKETED.sub(r"(\1)", _OPENING.sub("‹", one_line(text)))


def clipped(text: str, length: int) -> str:
    """The text, cut between words to at most `length` characters with an ellipsis."""
    if len(text) <= length:
        return text
    head, _, _ = text[:length].rpartition(" ")
    return f"{head if len(head) > length // 2 else text[: length - 1]}…"
