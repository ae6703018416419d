"""JSON as models write it: trailing commas, single quotes, comments, Python's constants, bare keys.

Reads one object from the start of a text. What it accepts has one reading only; all else is refused. Depth and
length are bounded, so its cost is too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["LONGEST", "Number", "Refused", "Value", "read_object"]

LONGEST = 8_000
"""Characters of the longest object that is read."""
_DEEPEST = 6


class Number(NamedTuple):
    """A number as it was written: `1.50` stays `1.50`."""

    text: str


Value = str | Number | bool | None | list["Value"] | dict[str, "Value"]


class Refused(ValueError):
    """The text does not begin with an object that has exactly one reading."""


_SKIP = re.compile(r"(?:\s++|//[^\n]*+|#[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/)*+")
_WORD = re.compile(r"[^\W\d]\w*+")
_NUMBER = re.compile(r"[+-]?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?(?![\w.])")
_STRINGS = {
    opening: re.compile(rf"{opening}((?:[^{closing}\\]|\\.)*+){closing}", re.DOTALL)
    for opening, closing in ('""', "''", "“”")
}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {
    '"': '"',
    "'": "'",
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "\n": "",
}
_CONSTANTS = {"null": None, "None": None, "true": True, "True": True, "false": False, "False": False}


def read_object(text: str) -> tuple[dict[str, Value], int]:
    """The object that a text begins with, and the offset behind it.

    Only the first `LONGEST` characters are looked at.

    Raises:
        Refused: There is none, it is not finished, it has a key twice, or it is nested too deeply.

    >>> read_object("{'answer': \\"Oslo\\",} and more")
    ({'answer': 'Oslo'}, 19)
    """
    reader = _Reader(text[:LONGEST])
    found = reader.object(_DEEPEST)
    return found, reader.at


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def object(self, depth: int) -> dict[str, Value]:
        if not self._take("{"):
            raise Refused("no object begins here")
        found: dict[str, Value] = {}
        while not self._take("}"):
            key = self._key()
            if key in found:
                raise Refused(f"the key {key!r:.40} stands twice in one object")
            if not self._take(":"):
                raise Refused(f"the key {key!r:.40} is not followed by a colon")
            found[key] = self._value(depth - 1)
            self._separator("}")
        return found

    def _array(self, depth: int) -> list[Value]:
        self._take("[")
        found: list[Value] = []
        while not self._take("]"):
            found.append(self._value(depth - 1))
            self._separator("]")
        return found

    def _separator(self, closing: str) -> None:
        if not self._take(",") and self._peek() != closing:
            raise Refused(f"a comma or {closing!r} is missing at {self._rest()}")

    def _key(self) -> str:
        key = self._string() if self._peek() in _STRINGS else self._word()
        return key.strip().lower()

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
        found = _STRINGS[self._peek()].match(self.text, self.at)
        if not found:
            raise Refused(f"a text is not closed, from {self._rest()}")
        self.at = found.end()
        return _ESCAPE.sub(_unescaped, found[1])

    def _peek(self) -> str:
        skipped = _SKIP.match(self.text, self.at)
        self.at = skipped.end() if skipped else self.at
        return self.text[self.at : self.at + 1]

    def _take(self, character: str) -> bool:
        found = self._peek() == character
        self.at += found
        return found

    def _rest(self) -> str:
        return repr(self.text[self.at : self.at + 20]) if self.at < len(self.text) else "the end"


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) == 5:
        return chr(int(code[1:], 16))
    if code not in _ESCAPED:
        raise Refused(f"\\{code} is no escape")
    return _ESCAPED[code]
