"""Answers to comparison questions: "which of A and B ...?" and "are A and B both ...?"."""

from __future__ import annotations

import re
from datetime import date

from raggym_env.reading.pages import Page
from raggym_env.reading.reader import Candidate, Reading
from raggym_env.reading.spans import Span, role_of
from raggym_env.reading.text import MONTHS, countries_in, key, terms

__all__ = ["choose", "judge"]

_NATION = re.compile(r"\b(?:country|countries|nationality|nationalities|nation|nations)\b", re.IGNORECASE)
_SAME = re.compile(r"\bsame\b", re.IGNORECASE)
_DIFFERENT = re.compile(r"\bdifferent\b", re.IGNORECASE)
# Stems of "located", "used" and "considered", which a page need not say in so many words.
_COMMON = frozenset(("locat", "used", "consi"))


def choose(reading: Reading) -> list[Candidate]:
    """Return the two names that a question compares, the likelier answer first. Scores say how reliable that is."""
    question = reading.question
    left, right = question.choices or ("", "")
    values = _values(reading) if question.order else None
    # Dates and numbers settle such a question. Without them, the answer is the name with the better evidence.
    if values and values[0] != values[1]:
        left_first = (values[0] < values[1]) == (question.order < 0)
        high, low = 1.2, 0.3
    else:
        left_first = _best_evidence(reading, left) >= _best_evidence(reading, right)
        high, low = 0.6, 0.4
    first, second = (left, right) if left_first else (right, left)
    return [Candidate(first, high), Candidate(second, low)]


def judge(reading: Reading) -> list[Candidate]:
    """Return "yes" and "no", the likelier first. The scores, which add up to 1.2, say how reliable that is."""
    verdict, confidence = _verdict(reading)
    verdict ^= bool(_DIFFERENT.search(reading.question.text))
    first, second = ("yes", "no") if verdict else ("no", "yes")
    return [Candidate(first, confidence), Candidate(second, 1.2 - confidence)]


def _verdict(reading: Reading) -> tuple[bool, float]:
    """Return whether the two names share what the question asks about, and the confidence in [0.6, 1]."""
    question = reading.question
    pages = [page for name in question.choices if (page := _page(reading, name))]
    if len(pages) < 2:
        return False, 0.6
    if _NATION.search(question.text):
        return bool(_nations(pages[0]) & _nations(pages[1])), 1.0
    if _SAME.search(question.text):
        return bool(_first_names(pages[0]) & _first_names(pages[1])), 0.8
    # "Are A and B both singers?": each page has to say at least half of the words outside of the names.
    in_names = {term for name in question.choices for term in terms(name)}
    predicate = question.terms - in_names - _COMMON
    openings = [{term for sentence in page.sentences[:3] for term in sentence.terms} for page in pages]
    return all(2 * len(predicate & opening) >= len(predicate) for opening in openings), 0.8


def _first_names(page: Page) -> set[str]:
    """Return the keys of the names in the first sentence of a page."""
    return {span.key for sentence in page.sentences[:1] for span in sentence.names}


def _nations(page: Page) -> set[str]:
    sentences = page.sentences
    for sentence in sentences[:3]:
        if countries := countries_in(sentence.text):
            return countries
    # Places are listed from small to large, the country last: "a village in Borujen County, Iran".
    return {sentences[0].spans[-1].key} if sentences and sentences[0].spans else set()


def _page(reading: Reading, name: str) -> Page | None:
    """Return the page to compare by: that of the name's bridge (the film's director), if retrieved, or its own."""
    bridge = reading.bridge(name)
    match = reading.titles.get(f" {key(bridge)} ") if bridge else None
    return match.page if match else reading.page_of(name)


def _values(reading: Reading) -> tuple[float, float] | None:
    """Return what is compared of the two names as numbers, dates in years; None if one has no such value."""
    pages = [(reading.page_of(name), _page(reading, name)) for name in reading.question.choices]
    # Both by the same rule: a date of birth is not compared with a date of release.
    for role in dict.fromkeys((reading.question.role, "")):
        left, right = (
            next((value for page in pair if page and (value := _value(reading, page, role)) is not None), None)
            for pair in pages
        )
        if left is not None and right is not None:
            return left, right
    return None


def _value(reading: Reading, page: Page, role: str) -> float | None:
    """Return the first date of a page, or the number nearest to the terms of the question's relation."""
    timed = reading.question.timed or bool(reading.question.role)
    kinds = ("date", "year") if timed else ("number",)
    # The count breaks ties: of equally near spans the first.
    values: list[tuple[float, int, float]] = []
    for sentence in page.sentences:
        for span in sentence.dates if timed else sentence.spans:
            if span.kind in kinds and (not role or role_of(sentence.text, span) == role):
                near = 0.0 if timed else reading.nearness(sentence, span.start, len(span.text))
                values.append((-near, len(values), as_number(span)))
    return min(values)[2] if values else None


def _best_evidence(reading: Reading, name: str) -> float:
    page = _page(reading, name)
    return max((reading.evidence(sentence) for sentence in page.sentences), default=0.0) if page else 0.0


def as_number(span: Span) -> float:
    """Return a date or year in years, a number as it is; 0.0 for a number in words."""
    if span.kind in ("date", "year"):
        year = int(re.findall(r"\d{3,4}", span.text)[-1])
        month = next((number for name, number in MONTHS.items() if name in span.text), 1)
        days = re.findall(r"\b\d{1,2}\b", span.text)
        # A day of the year is at most 336 + 31, so that divided by 400 it never reaches the next year.
        return year + (date(2000, month, 1).timetuple().tm_yday + int(days[0] if days else 0)) / 400
    digits = re.sub(r"[^\d.]", "", span.text).strip(".")
    scale = 1e6 if "million" in span.text else 1e9 if "billion" in span.text else 1.0
    return float(digits) * scale if digits and digits.count(".") < 2 else 0.0
