"""What facts are made of: things, literals, and the draws and words that they come from."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

__all__ = ["PRONOUNS", "Dice", "Literal", "Page", "Ref", "Value", "date", "date_text", "with_article"]

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


class Ref(NamedTuple):
    """One thing of the world, by its kind and its number among them."""

    kind: str
    number: int


class Literal(NamedTuple):
    """A value that is no thing: its text as its passage has it, and what it is ordered by."""

    text: str
    order: int | tuple[int, int, int]


Value = Ref | Literal


class Page(NamedTuple):
    """A passage in sentences, with the sentence that states each relation."""

    title: str
    sentences: list[str]
    stated: dict[str, int]


class Dice:
    """Draws from 64 hashed bytes: several times faster than seeding a `random.Random` for each thing."""

    __slots__ = ("_bits",)

    def __init__(self, key: bytes) -> None:
        self._bits = int.from_bytes(hashlib.blake2b(key).digest(), "big")

    def roll(self, sides: int) -> int:
        """The next number in `range(sides)`. All rolls of one thing together must stay well below 2 ** 512."""
        self._bits, number = divmod(self._bits, sides)
        return number


PRONOUNS = tuple(
    {
        "he": he,
        "He": he.capitalize(),
        "him": him,
        "his": his,
        "His": his.capitalize(),
        "child": child,
        "partner": wed,
    }
    for he, him, his, child, wed in (
        ("he", "him", "his", "son", "wife"),
        ("she", "her", "her", "daughter", "husband"),
    )
)


def with_article(noun: str) -> str:
    """The noun after "a" or "an"."""
    # Of the nouns in u only "uprising" sounds like a vowel; "university" does not.
    return f"an {noun}" if noun[0] in "aeio" or noun == "uprising" else f"a {noun}"


def date(year: int, style: int, dice: Dice) -> Literal:
    """A random day of a year, written in a style of `date_text`; never later than the 28th."""
    month, day = dice.roll(12), 1 + dice.roll(28)
    return Literal(date_text(year, month, day, style), (year, month, day))


def date_text(year: int, month: int, day: int, style: int) -> str:
    """A date as "4 March 1871" (style 0) or "March 4, 1871" (style 1); months count from 0."""
    return f"{_MONTHS[month]} {day}, {year}" if style else f"{day} {_MONTHS[month]} {year}"
