"""How found passages speak of a text."""

from __future__ import annotations

import pytest

from raggym_env.core import Passage
from raggym_env.reading.mentions import Mention, mention_of
from raggym_env.reading.question import analyse
from raggym_env.reading.reader import Reading
from raggym_env.reading.text import key

NOISE = Passage("0", "Lisbon", "Lisbon is a port. Tom Reed likes it.")
FILM = Passage(
    "1", "Red Harbour", "It has songs by Tom Reed. The director of Red Harbour is Ilse Brandt, not Tom Reed."
)
WORDLESS = Passage("2", "?!", "...")
READING = Reading(analyse("Where did the director of the film Red Harbour die?"), (NOISE, FILM, WORDLESS))


def mention(text: str) -> Mention:
    return mention_of(READING, text, f" {key(text)} ")


def test_the_best_sentence_is_the_one_with_the_best_evidence_near_to_what_is_asked() -> None:
    found = mention("Tom Reed")
    assert (found.pages, found.first, found.page) == (2, 0, READING.pages[1])
    assert found.sentence is READING.pages[1].sentences[1]
    assert found.sentence.text[found.start :].startswith("Tom Reed")
    assert found.best == pytest.approx(found.support * (0.6 + 0.4 * found.near))
    assert found.support == READING.strength(found.sentence)


def test_the_second_best_is_that_of_another_page() -> None:
    only = Reading(READING.asked, (FILM,))
    assert mention_of(only, "Tom Reed", " tom reed ").second == 0
    assert 0 <= mention("Tom Reed").second < mention("Tom Reed").best


def test_a_page_is_spoken_of_by_its_first_sentence() -> None:
    found = mention("Red Harbour")
    assert (found.pages, found.first) == (1, 1)
    alone = mention_of(
        Reading(READING.asked, (FILM._replace(text="A film of songs."),)), "Red Harbour", " red harbour "
    )
    assert alone.sentence is not None
    assert (alone.sentence.text, alone.start, alone.near) == ("A film of songs.", -1, 0)


@pytest.mark.parametrize("text", ["Zorblax", "", "?!", "Tom Reed Brandt"])
def test_what_no_page_has_is_mentioned_nowhere(text: str) -> None:
    assert mention(text) == Mention()
