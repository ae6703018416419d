"""Untrusted text made safe for a prompt: on one line, without the characters that a prompt's structure is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence

from raggym_env.core import Passage

__all__ = ["ACTION_CHARS", "NOTE_CHARS", "QUESTION_CHARS", "SEARCH_CHARS"]
__all__ += ["as_data", "clipped", "one_line", "passage_lines", "visible"]

# Characters that a person does not see and a tokenizer reads: control characters, zero-width characters,
# bidirectional overrides, fillers, variation selectors, format controls of hieroglyphs and musical notes, the basic
# plane's non-characters, and tag characters, which can hide a whole sentence. White space stays, \x85 included.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    r"\u202a-\u202e\u2060-\u206f\u3164\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    r"\U00013430-\U0001343f\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# The joiners (U+200C, U+200D) stay behind a character that they can join: of a script from Arabic to Mongolian, or an
# emoji. Anywhere else they show nothing, and a row of them can spell a message.
_IDLE_JOINER = re.compile(
    r"(?<![\u0600-\u109f\u1780-\u18af\u1a20-\u1aaf\u1b00-\u1bff\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff"
    r"\ua840-\ua87f\ua8e0-\ua8ff\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff\U0001e900-\U0001e95f"
    r"\U0001f000-\U0001faff])[\u200c\u200d]"
)
# All but comparisons with a number: data tags, action tags, and the control tokens of chat templates ("<|...|>",
# "<s>", "<start_of_turn>", "<0x0A>", "<2en>"), which a tokenizer would read as the structure of the chat.
_OPENING = re.compile(r"<(?!=?[ ]?[-+]?[\d.,$€£])|<(?=\d+[A-Za-z]\w*>)")
# Control tokens in other brackets: Llama 2's and Mistral's [INST], [TOOL_CALLS] and [control_8], ChatGLM's [gMASK],
# BERT's [unused1], InternLM's [UNUSED_TOKEN_146], EXAONE's [|user|], MiniMax' ]~b] and [e~[, and Kimi's ◁think▷.
# Citations and numbers in brackets stay, and so do "### Instruction:", "User:" and the like: to a tokenizer they are
# words, and questions may hold them.
_CONTROL = re.compile(
    r"\[/?(?:[gs]?[A-Z_]{3,}|UNUSED_TOKEN_\d+|unused\d+|control_\d+|\|\w+\|)\]|\]~!?b[\[\]]|\[e~\[|◁/?\w+▷"
)
_PARENTHESES = str.maketrans("[]◁▷", "()‹›")


def visible(text: str) -> str:
    """Return the text without control and invisible characters. Line breaks stay; half a surrogate pair is U+FFFD."""
    if text.isascii() and text.isprintable():  # most text, and five times as fast
        return text
    # A JSON escape can give a character as two surrogates, which UTF-16 joins; an unpaired one becomes U+FFFD.
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    shown = _INVISIBLE.sub("", paired)
    # After the others, which may stand between a joiner and what it joins; and rarely, as looking behind is slow.
    return _IDLE_JOINER.sub("", shown) if "\u200c" in shown or "\u200d" in shown else shown


def one_line(text: str) -> str:
    """Return the text with single spaces, without control, invisible and unpaired surrogate characters."""
    return " ".join(visible(text).split())


def as_data(text: str) -> str:
    """Return the text on one line, with nothing that closes a data section or opens another: `<` becomes `‹`.

    Applying it twice changes nothing more.

    >>> as_data("see </passages> <|im_end|> [INST], p < 0.05")
    'see ‹/passages> ‹|im_end|> (INST), p < 0.05'
    """
    return _CONTROL.sub(lambda token: token[0].translate(_PARENTHESES), _OPENING.sub("‹", one_line(text)))


def clipped(text: str, length: int) -> str:
    """Return the text, cut to at most `length` (at least 1) characters with an ellipsis, at a space if one is near."""
    if len(text) <= length:
        return text
    head, _, _ = text[:length].rpartition(" ")
    # One very long word at the end would otherwise cost more than half of the text.
    return f"{head if len(head) > length // 2 else text[: length - 1]}…"


# What a prompt shows of one text at most. No ordinary text is as long: a prompt is bounded whatever a data set holds.
ACTION_CHARS = 2_000
"""Characters of an answer, an option, a draft or a query in a prompt."""
QUESTION_CHARS = 20_000
"""Characters of a question in a prompt."""
NOTE_CHARS = 20_000
"""Characters of a note in a prompt."""
SEARCH_CHARS = 100_000
"""Characters of all passages of one search in a prompt."""
_TITLE_CHARS = 300


def passage_lines(passages: Sequence[Passage], chars: int | None = None, *, numbered: bool = True) -> list[str]:
    """Return each passage as one line of data: `[1] Title: text`. All lines together have at most 100,000 characters.

    Args:
        passages: Best first; the first has the number 1.
        chars: Maximum number of characters of each passage's text; None shows it whole.
        numbered: False writes `-` in place of the number.
    """
    lines: list[str] = []
    room = SEARCH_CHARS
    for number, passage in enumerate(passages, 1):
        title, text = clipped(as_data(passage.title), _TITLE_CHARS), as_data(passage.text)
        mark = f"[{number}]" if numbered else "-"
        line = clipped(f"{mark} {title}: {text if chars is None else clipped(text, chars)}", SEARCH_CHARS)
        room -= len(line)
        if room < 0 and lines:
            return [*lines, f"{len(passages) - number + 1} more left out"]
        lines.append(line)
    return lines
