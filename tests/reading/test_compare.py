from raggym_env.core import Passage
from raggym_env.reading.compare import as_number
from raggym_env.reading.pages import read


def test_dates_compare_by_day_and_numbers_by_size() -> None:
    (sentence,) = read(Passage("1", "X", "On 3 May 1920 and on May 4, 1920 it had 2.5 million, then 900,000."))
    first, second, million, rest = (as_number(s) for s in sentence.spans if s.kind in ("date", "number"))
    assert first < second
    assert (million, rest) == (2.5e6, 9e5)
