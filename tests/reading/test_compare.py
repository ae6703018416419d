"""Answers to comparison questions."""

from __future__ import annotations

from raggym_env.core import Passage
from raggym_env.reading.compare import as_number
from raggym_env.reading.pages import page_of


def test_dates_compare_by_day_and_numbers_by_size() -> None:
    (sentence,) = page_of(
        Passage("1", "X", "On 3 May 1920 and on May 4, 1920 it had 2.5 million, then 900,000.")
    ).sentences
    first, second, million, thousands = (as_number(s) for s in sentence.spans if s.kind in ("date", "number"))
    assert first < second
    assert (million, thousands) == (2.5e6, 9e5)
