"""The spans of a sentence that can be an answer or a next query: dates, names, numbers, definitions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from raggym_env.reading.text import MONTHS, NATIONS, YEAR, Tokens, key, names_in, stem, whole_words

__all__ = ["Span", "dates", "definitions", "names", "numbers", "role_of", "word_before"]

_NUMERALS = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty", "thirty",
    "forty", "fifty", "hundred",
)  # fmt: skip
_NUMERAL_TERMS = frozenset(map(stem, _NUMERALS))
_NUMERAL = re.compile(whole_words(_NUMERALS))
_NUMBER = re.compile(r"[$\d](?:(?<=\$)\d|(?<=\b\d))[\d,]*(?:\.\d+)?(?: (?:million|billion|thousand|percent))?%?")
_DIGIT = re.compile(r"\d")
_MONTH = "(?:" + "|".join(MONTHS) + ")"
# Begins with a character of its own, for the reason that `whole_words` does: a digit, or the initial of a month.
_MONTH_TAIL = "(?:" + "|".join(f"(?<={month[0]}){month[1:]}" for month in MONTHS) + ")"
_DATE = re.compile(
    rf"[\dJFMASOND](?:(?<=\d)\d? {_MONTH},? \d{{3,4}}|{_MONTH_TAIL} \d{{1,2}}, ?\d{{3,4}}|{_MONTH_TAIL} \d{{4}})"
)
_DEFINITION = re.compile(
    whole_words(("is", "was", "are", "were")) + r" (?:an?|the) ([^,.;()]{3,60}?)"
    r"(?= (?:of|in|from|by|for|at|on|that|who|which|and|based|known|located|released|published)\b|[,.;(]|$)"
)
_QUOTED = re.compile(r"[\"“]([^\"”]{2,60})[\"”]")
_CUE = re.compile(r"\b(born|birth|died|death|dies|killed|assassinated)\b|(?<=\()(b|d)\.", re.IGNORECASE)
_LIFE = re.compile(r"\(([^()]*?\d{3,4}[^()]*?)\s*[–—-]+\s*([^()]*?\d{3,4}[^()]*?)\)")
_BEFORE = re.compile(r"([^\W_]+)[\s\"“(]*$")


class Span(NamedTuple):
    """A piece of a sentence that could be an answer or a query."""

    text: str
    kind: str
    """"date", "year", "number", "entity", "nation" or "definition"."""
    start: int
    """Character offset in the sentence."""
    key: str


def dates(text: str) -> list[Span]:
    """The dates of a sentence, then the years that are part of none."""
    if not _DIGIT.search(text):
        return []
    found = _found("date", _DATE, text)
    return found + _free(_found("year", YEAR, text), found)


def names(text: str, parts: list[str], words: list[str], taken: Iterable[Span]) -> list[Span]:
    """What is quoted in a sentence, then its names, outside of other spans.

    The sentence is given as text, as `cut` gives it, and as the words of its key.
    """
    quotes = [(match[1].strip(" ,."), match.start(1)) for match in _QUOTED.finditer(text)]
    quoted = _free([Span(name, "entity", start, key(name)) for name, start in quotes if name], taken)
    tokens = Tokens(parts)
    named = [
        Span(name, "nation" if name in NATIONS else "entity", tokens.starts[first], " ".join(words[first:end]))
        for first, end in names_in(tokens)
        for name in [tokens.text(first, end)]
    ]
    return quoted + _free(named, [*taken, *quoted])


def numbers(text: str, terms: Iterable[str], taken: Iterable[Span]) -> list[Span]:
    """The numbers in a sentence, given with its terms, outside of other spans."""
    found = _found("number", _NUMBER, text)
    # An apostrophe may join a numeral to a longer word.
    if not _NUMERAL_TERMS.isdisjoint(terms) or "'" in text or "’" in text:
        found = sorted(found + _found("number", _NUMERAL, text), key=lambda span: span.start)
    return _free(found, taken)


def definitions(text: str) -> list[Span]:
    """What a sentence says that something is. Other spans may be part of it."""
    return _found("definition", _DEFINITION, text, 1)


def _free(spans: list[Span], others: Iterable[Span]) -> list[Span]:
    """Those that overlap no other."""
    taken = [(other.start, other.start + len(other.text)) for other in others] if spans else []
    return [span for span in spans if not _overlaps(span.start, span.start + len(span.text), taken)] if taken else spans


def _overlaps(start: int, end: int, taken: Iterable[tuple[int, int]]) -> bool:
    for first, last in taken:  # noqa: SIM110 - several times as fast as any()
        if first < end and start < last:
            return True
    return False


def _found(kind: str, pattern: re.Pattern[str], text: str, group: int = 0) -> list[Span]:
    return [Span(match[group], kind, match.start(group), key(match[group])) for match in pattern.finditer(text)]


def word_before(text: str, start: int) -> str:
    """The lower-case word before a character: "in", "by"; "" at the start of the text."""
    match = _BEFORE.search(text[max(0, start - 20) : start])
    return match[1].lower() if match else ""


def role_of(text: str, span: Span) -> str:
    """ "birth" or "death" if a sentence says that a span of it is when or where somebody was born or died, else ""."""
    life, cues = _cues(text)
    if span.kind in ("date", "year"):
        for role, (start, end) in life.items():
            if start <= span.start < end:
                return role
    before = [role for at, role in cues if 0 < span.start - at <= 60]
    return before[-1] if before and span.kind in ("date", "year", "entity") else ""


@lru_cache(maxsize=4_096)
def _cues(text: str) -> tuple[dict[str, tuple[int, int]], list[tuple[int, str]]]:
    """Where a sentence has the two dates of a life, and the words for birth and death."""
    life = _LIFE.search(text)
    cues = [(match.start(), "birth" if match[0].lower().startswith("b") else "death") for match in _CUE.finditer(text)]
    return {"birth": life.span(1), "death": life.span(2)} if life else {}, cues
