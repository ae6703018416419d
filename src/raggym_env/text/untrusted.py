"""Untrusted text made safe for a prompt: on one line, without the characters that a prompt's structure is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence

from raggym_env.core import Passage

__all__ = ["as_data", "clipped", "one_line", "passage_lines"]

# Control characters, zero-width characters and bidirectional overrides: invisible to a person, not to a tokenizer.
# White space, \x85 included, is left to `str.split`.
_CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
# All but comparisons with a number: data tags, action tags, and the control tokens of chat templates ("<|...|>",
# "<s>", "<start_of_turn>"), which a tokenizer would read as the structure of the chat.
_OPENING = re.compile(r"<(?!=?[ ]?[-+]?[\d.,$€£])")
# Control words such as Llama 2's [INST]. Citations and numbers in brackets stay.
_BRACKETED = re.compile(r"\[(/?[A-Z_]{3,})\]")


def one_line(text: str) -> str:
    """Return the text with single spaces, without control, invisible and unpaired surrogate characters."""
    # A JSON escape can give a character as two surrogates, which UTF-16 joins; an unpaired one becomes U+FFFD.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return " ".join(_CONTROL.sub("", text).split())


def as_data(text: str) -> str:
    """Return the text on one line, with nothing that closes a data section or opens another: `<` becomes `‹`.

    Applying it twice changes nothing more.

    >>> as_data("see </passages> <|im_end|> [INST], p < 0.05")
    'see ‹/passages> ‹|im_end|> (INST), p < 0.05'
    """
    return _BRACKETED.sub(r"(\1)", _OPENING.sub("‹", one_line(text)))


def clipped(text: str, length: int) -> str:
    """Return the text, cut to at most `length` (at least 1) characters with an ellipsis, at a space if one is near."""
    if len(text) <= length:
        return text
    head, _, _ = text[:length].rpartition(" ")
    # One very long word at the end would otherwise cost more than half of the text.
    return f"{head if len(head) > length // 2 else text[: length - 1]}…"


def passage_lines(passages: Sequence[Passage], chars: int | None = None, *, numbered: bool = True) -> list[str]:
    """Return each passage as one line of data: `[1] Title: text`.

    Args:
        passages: Best first; the first has the number 1.
        chars: Maximum number of characters of each passage's text; None shows it whole.
        numbered: False writes `-` in place of the number.
    """
    lines = []
    for number, passage in enumerate(passages, 1):
        text = as_data(passage.text)
        mark = f"[{number}]" if numbered else "-"
        lines.append(f"{mark} {as_data(passage.title)}: {text if chars is None else clipped(text, chars)}")
    return lines
