"""The best mention of a string in the retrieved passages."""

from __future__ import annotations

import pytest

from raggym_env.core import Passage
from raggym_env.reading.mentions import Mention, mention_of
from raggym_env.reading.question import parse_question
from raggym_env.reading.reader import Reading
from raggym_env.reading.text import key

NOISE = Passage("0", "Lisbon", "Lisbon is a port. Tom Reed likes it.")
FILM = Passage(
    "1", "Red Harbour", "It has songs by Tom Reed. The director of Red Harbour is Ilse Brandt, not Tom Reed."
)
WORDLESS = Passage("2", "?!", "...")
READING = Reading(parse_question("Where did the director of the film Red Harbour die?"), (NOISE, FILM, WORDLESS))


def mention(text: str) -> Mention:
    return mention_of(READING, text, f" {key(text)} ")


def test_the_best_sentence_is_strong_evidence_with_the_string_near_the_question_terms() -> None:
    best = mention("Tom Reed")
    assert (best.pages, best.first, best.page) == (2, 0, READING.pages[1])
    assert best.sentence is READING.pages[1].sentences[1]
    assert best.sentence.text[best.start :].startswith("Tom Reed")
    assert best.best == pytest.approx(best.support * (0.6 + 0.4 * best.near))
    assert best.support == READING.strength(best.sentence)


def test_the_second_best_value_is_of_another_page() -> None:
    one_page = Reading(READING.question, (FILM,))
    assert mention_of(one_page, "Tom Reed", " tom reed ").second == 0
    assert 0 <= mention("Tom Reed").second < mention("Tom Reed").best


def test_a_page_title_is_mentioned_in_its_first_sentence_even_if_not_repeated_there() -> None:
    title = mention("Red Harbour")
    assert (title.pages, title.first) == (1, 1)
    alone = mention_of(
        Reading(READING.question, (FILM._replace(text="A film of songs."),)), "Red Harbour", " red harbour "
    )
    assert alone.sentence is not None
    assert (alone.sentence.text, alone.start, alone.near) == ("A film of songs.", -1, 0)


@pytest.mark.parametrize("text", ["Zorblax", "", "?!", "Tom Reed Brandt"])
def test_a_string_that_no_page_contains_has_no_mention(text: str) -> None:
    assert mention(text) == Mention()
