"""Spans of a sentence. The patterns under test are written for speed; the readable ones here must agree with them."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loose import LOOSE
from raggym_env.core import Passage
from raggym_env.reading import spans
from raggym_env.reading.pages import Sentence, page_of
from raggym_env.reading.spans import role_of, word_before
from raggym_env.reading.text import MONTHS, terms

MONTH = f"(?:{'|'.join(MONTHS)})"
DATE = re.compile(rf"\d{{1,2}} {MONTH},? \d{{3,4}}|{MONTH} \d{{1,2}}, ?\d{{3,4}}|{MONTH} \d{{4}}")
YEAR = re.compile(r"\b(?:1\d{3}|20\d{2})\b(?![,.]\d)")
NUMBER = re.compile(
    r"\$?\b\d[\d,]*(?:\.\d+)?(?: (?:million|billion|thousand|percent))?%?|"
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred)\b"
)
DEFINED = re.compile(r"\b(?:is|was|are|were) (?:an?|the) ")
DATES = st.lists(st.sampled_from([*MONTHS, "1", "12", "123", "1999", "20000", " ", " ", ",", ", ", "."]), max_size=25)
TEXTS = LOOSE | DATES.map("".join) | st.text(max_size=80)


def matches(pattern: re.Pattern[str], text: str) -> list[tuple[int, str]]:
    return [(match.start(), match[0]) for match in pattern.finditer(text)]


@given(TEXTS)
def test_dates_come_before_the_years_that_are_part_of_none(text: str) -> None:
    dates = matches(DATE, text)
    inside = {at for start, date in dates for at in range(start, start + len(date))}
    years = [(at, year) for at, year in matches(YEAR, text) if inside.isdisjoint(range(at, at + 4))]
    assert [(span.start, span.text) for span in spans.dates(text)] == dates + years


@given(TEXTS)
def test_numbers_in_digits_and_in_words_are_returned_in_order(text: str) -> None:
    assert [(span.start, span.text) for span in spans.numbers(text, terms(text), [])] == matches(NUMBER, text)


@given(TEXTS)
def test_a_definition_follows_is_a_or_the_like(text: str) -> None:
    ends = {match.end() for match in DEFINED.finditer(text)}
    assert all(span.start in ends for span in spans.definitions(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red Harbour is a drama film directed by Ilse Brandt.", ["drama film directed"]),
        ("It was the best film of 1962, and Ada is a singer", ["best film", "singer"]),
        ("This a film (is an inn, they say)", ["inn"]),
    ],
)
def test_definitions_end_before_a_preposition_or_punctuation(text: str, expected: list[str]) -> None:
    assert [span.text for span in spans.definitions(text)] == expected


@given(LOOSE)
def test_only_definitions_overlap_other_spans(text: str) -> None:
    ranges = sorted((s.start, s.start + len(s.text)) for s in Sentence("", text, 0).spans if s.kind != "definition")
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))


def test_each_span_has_its_kind() -> None:
    text = 'The German Ilse Brandt made "a quiet day" of 1962 for $2.5 million, the second of two, on 3 May 1963.'
    assert [(span.text, span.kind) for span in Sentence("", text, 0).spans] == [
        ("3 May 1963", "date"), ("1962", "year"), ("a quiet day", "entity"), ("German Ilse Brandt", "entity"),
        ("$2.5 million", "number"), ("two", "number"),
    ]  # fmt: skip
    assert [span.kind for span in Sentence("", "Ada Berg is German", 0).spans] == ["entity", "nation"]


def test_the_role_of_a_date_is_birth_or_death_or_neither() -> None:
    (sentence,) = page_of(
        Passage("1", "Ada", "Ada Lovelace (10 December 1815 – 27 November 1852) wrote in 1843.")
    ).sentences
    dates = [(span.text, role_of(sentence.text, span)) for span in sentence.spans if span.kind in ("date", "year")]
    assert dates == [("10 December 1815", "birth"), ("27 November 1852", "death"), ("1843", "")]


@pytest.mark.parametrize(
    ("text", "start", "word"), [("She died in Oslo.", 12, "in"), ("Oslo is far.", 0, ""), ('at the "Inn"', 8, "the")]
)
def test_the_word_before_a_span_is_in_lower_case(text: str, start: int, word: str) -> None:
    assert word_before(text, start) == word
