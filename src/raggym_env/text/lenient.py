"""Reads JSON as models write it: trailing commas, single quotes, comments, Python's constants, bare keys.

Reads one object from the start of a text. Only text with exactly one reading is accepted. Depth and length are
bounded, and so is the cost.

No library does this: json-repair completes truncated objects, which would turn a cut-off reply into an answer, and
json5 takes 4.1 ms where this takes 30 microseconds.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["LONGEST", "Number", "Refused", "Value", "read_object"]

LONGEST = 8_000
"""Most characters of an object."""
_DEEPEST = 6
"""Most levels of nesting. The reader recurses, so the bound must be far below Python's recursion limit."""


class Number(NamedTuple):
    """A number as it was written: `1.50` stays `1.50`."""

    text: str


Value = str | Number | bool | None | list["Value"] | dict[str, "Value"]


class Refused(ValueError):
    """The text does not begin with an object that has exactly one reading."""

    # The messages are shown to the model when it is asked again: a change of words is a change of prompts.


# White space and comments. All quantifiers are possessive: no input makes the engine backtrack.
_SKIP = re.compile(r"(?:\s++|//[^\n]*+|#[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/)*+")
_WORD = re.compile(r"[^\W\d]\w*+")
# Not "1.2.3" or "1,000": digits after a complete number would leave two readings.
_NUMBER = re.compile(r"[+-]?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?(?![\w.])")
# A string ends before NUL and \x01, which `replies.reply_text` writes where it took out reasoning or a turn's end.
_STRINGS = {
    opening: re.compile(rf"{opening}((?:[^{closing}\\\x00\x01]|\\[^\x00\x01])*+){closing}")
    for opening, closing in ('""', "''", "“”")
}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {'"': '"', "'": "'", "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "\n": ""}
_CONSTANTS = {"null": None, "None": None, "true": True, "True": True, "false": False, "False": False}


def read_object(text: str) -> tuple[dict[str, Value], int]:
    """Return the object that a text begins with, and the offset after it.

    Keys are stripped and in lower case. Only the first `LONGEST` characters are read.

    Raises:
        Refused: The text does not begin with a finished object that can be read in one way only.

    >>> read_object("{'answer': \\"Oslo\\",} and more")
    ({'answer': 'Oslo'}, 19)
    """
    reader = _Reader(text[:LONGEST])
    return reader.object(_DEEPEST), reader.at


class _Reader:
    """A recursive-descent parser; `at` is the offset of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def object(self, depth: int) -> dict[str, Value]:
        if not self._take("{"):
            raise Refused("no object begins here")
        members: dict[str, Value] = {}
        while not self._take("}"):
            # Models vary the case of keys ("Answer"), and may leave out their quotes.
            key = (self._string() if self._peek() in _STRINGS else self._word()).strip().lower()
            if key in members:
                raise Refused(f"the key {key!r:.40} stands twice in one object")
            if not self._take(":"):
                raise Refused(f"the key {key!r:.40} is not followed by a colon")
            members[key] = self._value(depth - 1)
            self._separator("}")
        return members

    def _array(self, depth: int) -> list[Value]:
        self._take("[")
        items: list[Value] = []
        while not self._take("]"):
            items.append(self._value(depth - 1))
            self._separator("]")
        return items

    def _separator(self, closing: str) -> None:
        if not self._take(",") and self._peek() != closing:
            raise Refused(f"a comma or {closing!r} is missing at {self._rest()}")

    def _value(self, depth: int) -> Value:
        if depth < 0:
            raise Refused("the object is nested too deeply")
        match self._peek():
            case "{":
                return self.object(depth)
            case "[":
                return self._array(depth)
            case quote if quote in _STRINGS:
                return self._string()
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            return Number(number[0])
        word = self._word()
        # {"answer": yes} could mean the text or the constant.
        if word not in _CONSTANTS:
            raise Refused(f"a text without quotes, {word!r:.40}, is no value")
        return _CONSTANTS[word]

    def _word(self) -> str:
        self._peek()
        word = _WORD.match(self.text, self.at)
        if not word:
            raise Refused(f"a key or value is missing at {self._rest()}")
        self.at = word.end()
        return word[0]

    def _string(self) -> str:
        string = _STRINGS[self._peek()].match(self.text, self.at)
        if not string:
            raise Refused(f"a text is not closed, from {self._rest()}")
        self.at = string.end()
        return _ESCAPE.sub(_unescaped, string[1])

    def _peek(self) -> str:
        """Return the next character that is neither white space nor in a comment; "" at the end."""
        skipped = _SKIP.match(self.text, self.at)
        self.at = skipped.end() if skipped else self.at
        return self.text[self.at : self.at + 1]

    def _take(self, character: str) -> bool:
        """Step over the next character if it is this one, and return whether it is."""
        matches = self._peek() == character
        self.at += matches
        return matches

    def _rest(self) -> str:
        """Return the next few characters, for a message."""
        return repr(self.text[self.at : self.at + 20]) if self.at < len(self.text) else "the end"


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) == 5:
        return chr(int(code[1:], 16))
    if code not in _ESCAPED:
        raise Refused(f"\\{code} is no escape")
    return _ESCAPED[code]
