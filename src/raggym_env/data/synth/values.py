"""The parts that facts consist of: entities, literals, and the random draws and wordings that they come from."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

__all__ = ["PRONOUNS", "Dice", "Literal", "Page", "Ref", "Value", "date", "date_text", "with_article"]

# Not `calendar.month_name`, which depends on the user's locale.
_MONTH_NAMES = "January February March April May June July August September October November December"
_MONTHS = _MONTH_NAMES.split()


class Ref(NamedTuple):
    """An entity of the world, by its kind and its number within the kind, from 0."""

    kind: str
    number: int


class Literal(NamedTuple):
    """A value that is not an entity: an occupation, a date or a number."""

    text: str
    """Its text in the passage that states it."""
    order: int | tuple[int, int, int]
    """What it is compared by: a number, or year, month (from 0) and day."""


Value = Ref | Literal


class Page(NamedTuple):
    """A passage in sentences."""

    title: str
    sentences: list[str]
    stated: dict[str, int]
    """For each relation that the passage states, the number of the sentence, from 0."""


class Dice:
    """Random draws from 64 hashed bytes. Several times faster than seeding a `random.Random` for each entity."""

    __slots__ = ("_bits",)

    def __init__(self, key: bytes) -> None:
        self._bits = int.from_bytes(hashlib.blake2b(key).digest(), "big")

    def roll(self, sides: int) -> int:
        """Return the next number in `range(sides)`.

        The product of all `sides` rolled for one entity must stay well below 2 ** 512, or the draws become biased.
        """
        self._bits, number = divmod(self._bits, sides)
        return number


# Indexed by `number & 1` of a person: even numbers are men, odd numbers women.
PRONOUNS = tuple(
    {"he": he, "He": he.capitalize(), "him": him, "his": his, "His": his.capitalize(), "child": child, "partner": wed}
    for he, him, his, child, wed in (("he", "him", "his", "son", "wife"), ("she", "her", "her", "daughter", "husband"))
)


def with_article(noun: str) -> str:
    """Return the noun after "a" or "an"."""
    # Of the world's nouns in "u" only "uprising" begins with a vowel sound; "university" does not.
    return f"an {noun}" if noun[0] in "aeio" or noun == "uprising" else f"a {noun}"


def date(year: int, style: int, dice: Dice) -> Literal:
    """Return a random day of a year, written in a style of `date_text`."""
    month, day = dice.roll(12), 1 + dice.roll(28)  # up to the 28th, so that every month has the day
    return Literal(date_text(year, month, day, style), (year, month, day))


def date_text(year: int, month: int, day: int, style: int) -> str:
    """Return a date as "4 March 1871" (style 0) or "March 4, 1871" (style 1). Months count from 0."""
    return f"{_MONTHS[month]} {day}, {year}" if style else f"{day} {_MONTHS[month]} {year}"
