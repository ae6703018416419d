"""Spans of a sentence that can be an answer or the next query: dates, names, numbers and definitions."""

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
# Patterns start with a literal character (a digit, the initial of a month) for the reason given in `whole_words`.
_MONTH_TAIL = "(?:" + "|".join(f"(?<={month[0]}){month[1:]}" for month in MONTHS) + ")"
_DATE = re.compile(
    rf"[\dJFMASOND](?:(?<=\d)\d? {_MONTH},? \d{{3,4}}|{_MONTH_TAIL} \d{{1,2}}, ?\d{{3,4}}|{_MONTH_TAIL} \d{{4}})"
)
# "is a", "was the" and the like, then 3 to 60 characters up to a preposition, a relative clause or punctuation.
_DEFINITION = re.compile(
    whole_words(("is", "was", "are", "were")) + r" (?:an?|the) ([^,.;()]{3,60}?)"
    r"(?= (?:of|in|from|by|for|at|on|that|who|which|and|based|known|located|released|published)\b|[,.;(]|$)"
)
_QUOTED = re.compile(r"[\"“]([^\"”]{2,60})[\"”]")
# Words for birth and death, and "b." or "d." after an opening parenthesis.
_CUE = re.compile(r"\b(born|birth|died|death|dies|killed|assassinated)\b|(?<=\()(b|d)\.", re.IGNORECASE)
# The dates of a life in parentheses: "(3 May 1920 – 7 June 1991)".
_LIFE = re.compile(r"\(([^()]*?\d{3,4}[^()]*?)\s*[–—-]+\s*([^()]*?\d{3,4}[^()]*?)\)")
_LAST_WORD = re.compile(r"([^\W_]+)[\s\"“(]*$")


class Span(NamedTuple):
    """Part of a sentence that could be an answer or a query."""

    text: str
    kind: str
    """"date", "year", "number", "entity", "nation" or "definition"."""
    start: int
    """Character offset in the sentence."""
    key: str


def dates(text: str) -> list[Span]:
    """Return the dates in a sentence, then the years that are not part of a date."""
    if not _DIGIT.search(text):
        return []
    full_dates = _matches("date", _DATE, text)
    return full_dates + _outside(_matches("year", YEAR, text), full_dates)


def names(text: str, parts: list[str], words: list[str], taken: Iterable[Span]) -> list[Span]:
    """Return the quotations in a sentence, then its names, without those that overlap `taken`.

    `parts` is what `split_words` returns for the sentence, and `words` are the words of its key.
    """
    quotes = [(match[1].strip(" ,."), match.start(1)) for match in _QUOTED.finditer(text)]
    quoted = _outside([Span(name, "entity", start, key(name)) for name, start in quotes if name], taken)
    tokens = Tokens(parts)
    capitalized = [
        Span(name, "nation" if name in NATIONS else "entity", tokens.starts[first], " ".join(words[first:end]))
        for first, end in names_in(tokens)
        for name in [tokens.text(first, end)]
    ]
    return quoted + _outside(capitalized, [*taken, *quoted])


def numbers(text: str, terms: Iterable[str], taken: Iterable[Span]) -> list[Span]:
    """Return the numbers in a sentence, in digits or words, without those that overlap `taken`."""
    spans = _matches("number", _NUMBER, text)
    # Few sentences have a numeral, and their terms show it. But an apostrophe may join one to a longer word.
    if not _NUMERAL_TERMS.isdisjoint(terms) or "'" in text or "’" in text:
        spans = sorted(spans + _matches("number", _NUMERAL, text), key=lambda span: span.start)
    return _outside(spans, taken)


def definitions(text: str) -> list[Span]:
    """Return what follows "is a", "was the" and the like in a sentence. May overlap other spans."""
    return _matches("definition", _DEFINITION, text, 1)


def _outside(spans: list[Span], taken: Iterable[Span]) -> list[Span]:
    """Return the spans that overlap none of `taken`."""
    ranges = [(span.start, span.start + len(span.text)) for span in taken] if spans else []
    if not ranges:
        return spans
    outside = []
    for span in spans:
        end = span.start + len(span.text)
        # A loop, as `any` over a generator takes several times as long for so few ranges.
        for first, last in ranges:
            if first < end and span.start < last:
                break
        else:
            outside.append(span)
    return outside


def _matches(kind: str, pattern: re.Pattern[str], text: str, group: int = 0) -> list[Span]:
    return [Span(match[group], kind, match.start(group), key(match[group])) for match in pattern.finditer(text)]


def word_before(text: str, start: int) -> str:
    """Return the lower-case word before a character offset ("in", "by"), "" at the start of the text."""
    match = _LAST_WORD.search(text[max(0, start - 20) : start])
    return match[1].lower() if match else ""


def role_of(text: str, span: Span) -> str:
    """Return "birth" or "death" if the sentence gives the span as a date or place of that event, else ""."""
    life, cues = _life_events(text)
    if span.kind in ("date", "year"):
        for role, (start, end) in life.items():
            if start <= span.start < end:
                return role
    # Otherwise the nearest such word within the 60 characters before the span decides.
    before = [role for at, role in cues if 0 < span.start - at <= 60]
    return before[-1] if before and span.kind in ("date", "year", "entity") else ""


# Cached, as it is called for every span of a sentence.
@lru_cache(maxsize=4_096)
def _life_events(text: str) -> tuple[dict[str, tuple[int, int]], list[tuple[int, str]]]:
    """Return the ranges of the two dates in "(1920 – 1991)", and the offsets of words for birth and death."""
    life = _LIFE.search(text)
    cues = [(match.start(), "birth" if match[0].lower().startswith("b") else "death") for match in _CUE.finditer(text)]
    return {"birth": life.span(1), "death": life.span(2)} if life else {}, cues
