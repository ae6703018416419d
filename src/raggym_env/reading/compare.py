"""Comparison questions: "which of A and B ...?" and "are A and B both ...?"."""

from __future__ import annotations

import re
from datetime import date

from raggym_env.core import Passage
from raggym_env.reading.pages import read
from raggym_env.reading.reader import Candidate, Reading
from raggym_env.reading.spans import Span, role_of
from raggym_env.reading.text import MONTHS, countries_in, key, terms

__all__ = ["choose", "judge"]

_NATION = re.compile(r"\b(?:country|countries|nationality|nationalities|nation|nations)\b", re.IGNORECASE)
_SAME = re.compile(r"\bsame\b", re.IGNORECASE)
_DIFFERENT = re.compile(r"\bdifferent\b", re.IGNORECASE)


def choose(reading: Reading) -> list[Candidate]:
    """The two things compared, the better one first, with how sure the comparison is."""
    asked = reading.asked
    left, right = asked.choices or ("", "")
    values = _values(reading) if asked.order else None
    if values and values[0] != values[1]:
        first = (values[0] < values[1]) == (asked.order < 0)
        sure, unsure = 1.2, 0.3
    else:
        first = _support(reading, left) >= _support(reading, right)
        sure, unsure = 0.6, 0.4
    ranked = (left, right) if first else (right, left)
    return [Candidate(ranked[0], sure), Candidate(ranked[1], unsure)]


def judge(reading: Reading) -> list[Candidate]:
    """ "yes" and "no", the likelier first, with how sure it is."""
    verdict, sure = _verdict(reading)
    verdict ^= bool(_DIFFERENT.search(reading.asked.text))
    ranked = ("yes", "no") if verdict else ("no", "yes")
    return [Candidate(ranked[0], sure), Candidate(ranked[1], 1.2 - sure)]


def _verdict(reading: Reading) -> tuple[bool, float]:
    pages = [page for name in reading.asked.choices if (page := _page(reading, name))]
    if len(pages) < 2:
        return False, 0.6
    if _NATION.search(reading.asked.text):
        return bool(_nations(pages[0]) & _nations(pages[1])), 1.0
    if _SAME.search(reading.asked.text):
        return bool(_named_first(pages[0]) & _named_first(pages[1])), 0.8
    told = [_told(reading, page) for page in pages]
    return min(told) >= 0.5, 0.8


def _told(reading: Reading, page: Passage) -> float:
    """Share of what is asked, beyond the names, that a page says of itself."""
    named = {term for name in reading.asked.choices for term in terms(name)}
    asked = reading.asked.terms - named - {"locat", "used", "consi"}
    if not asked:
        return 1.0
    held = {term for sentence in read(page)[:3] for term in sentence.terms}
    return len(asked & held) / len(asked)


def _named_first(page: Passage) -> set[str]:
    """Names in the first sentence of a page."""
    return {span.key for sentence in read(page)[:1] for span in sentence.names}


def _nations(page: Passage) -> set[str]:
    sentences = read(page)
    for sentence in sentences[:3]:
        if found := countries_in(sentence.text):
            return found
    # A place is often told by the last part of the list it stands in: "a village in Borujen County, Iran".
    return {sentences[0].spans[-1].key} if sentences and sentences[0].spans else set()


def _page(reading: Reading, name: str) -> Passage | None:
    """The page to compare by: that which the question reaches through the name, if found, else the name's own."""
    other = reading.bridge(name)
    page = reading.titles.get(f" {key(other)} ") if other else None
    return page or reading.passage_of(name)


def _values(reading: Reading) -> tuple[float, float] | None:
    """What is compared of the two, both by the same rule: dates as years, or numbers; None if one is missing."""
    for role in dict.fromkeys((reading.asked.role, "")):
        left, right = (_value(reading, name, role) for name in reading.asked.choices)
        if left is not None and right is not None:
            return left, right
    return None


def _value(reading: Reading, name: str, role: str) -> float | None:
    for page in (reading.passage_of(name), _page(reading, name)):
        if page is not None and (value := _value_in(reading, page, role)) is not None:
            return value
    return None


def _value_in(reading: Reading, page: Passage, role: str) -> float | None:
    """The first date of a page, or the number nearest to what is asked."""
    timed = reading.asked.timed or bool(reading.asked.role)
    kinds = ("date", "year") if timed else ("number",)
    found: list[tuple[float, int, float]] = []
    for sentence in read(page):
        for span in sentence.dates if timed else sentence.spans:
            if span.kind in kinds and (not role or role_of(sentence.text, span) == role):
                near = 0.0 if timed else reading.nearness(sentence, span.start, len(span.text))
                found.append((-near, len(found), as_number(span)))
    return min(found)[2] if found else None


def _support(reading: Reading, name: str) -> float:
    page = _page(reading, name)
    return max((reading.evidence(sentence) for sentence in read(page)), default=0.0) if page else 0.0


def as_number(span: Span) -> float:
    """A date or a year as a fraction of years, a number as it is; words for numbers count as 0."""
    if span.kind in ("date", "year"):
        year = int(re.findall(r"\d{3,4}", span.text)[-1])
        month = next((number for name, number in MONTHS.items() if name in span.text), 1)
        days = re.findall(r"\b\d{1,2}\b", span.text)
        return year + (date(2000, month, 1).timetuple().tm_yday + int(days[0] if days else 0)) / 400
    digits = re.sub(r"[^\d.]", "", span.text).strip(".")
    scale = 1e6 if "million" in span.text else 1e9 if "billion" in span.text else 1.0
    return float(digits) * scale if digits and digits.count(".") < 2 else 0.0
