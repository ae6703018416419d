"""What the classical policies read out of a question and a sentence."""

from __future__ import annotations

import pytest

from raggym_env.core import Passage
from raggym_env.reading.compare import as_number
from raggym_env.reading.pages import read
from raggym_env.reading.question import analyse
from raggym_env.reading.spans import role_of
from raggym_env.reading.text import entities, key


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("When did the director of Jaws die?", "date"),
        ("In which year was Oxfam founded?", "year"),
        ("How many people live in Delft?", "number"),
        ("What is the population of the town where Rembrandt lived?", "number"),
        ("Where was the man who wrote Dracula born?", "place"),
        ("Who was the mother of Alan Turing?", "person"),
        ("Delft is the birthplace of which famous singer?", "person"),
        ("What nationality is the author of Dracula?", "nation"),
        ("What kind of dog is the Leonberger?", "definition"),
        ("Are Delft and Leiden in the same country?", "verdict"),
        ("Who is older, Bram Stoker or Oscar Wilde?", "choice"),
    ],
)
def test_the_type_of_the_answer(question: str, kind: str) -> None:
    assert analyse(question).kind == kind


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        ("Who is older, Bram Stoker or Oscar Wilde?", ("Bram Stoker", "Oscar Wilde")),
        ("Which is newer, the novel Dracula or the film Nosferatu?", ("Dracula", "Nosferatu")),
        (
            "Which was first: Sacred Planet or Oz the Great and Powerful?",
            ("Sacred Planet", "Oz the Great and Powerful"),
        ),
        ("Bram Stoker or Oscar Wilde, who died first?", ("Bram Stoker", "Oscar Wilde")),
        ("Between Delft and Leiden, which is larger?", ("Delft", "Leiden")),
        ("Are Neil Jordan and Jim McBride American?", ("Neil Jordan", "Jim McBride")),
        ("Who wrote Dracula?", ()),
        ("Is it one or two?", ()),
    ],
)
def test_the_two_things_compared(question: str, choices: tuple[str, ...]) -> None:
    assert analyse(question).choices == choices


def test_the_last_word_of_order_outside_the_names_decides() -> None:
    assert analyse("Which has the first mayor who died later, Delft or Leiden?").order == 1
    assert analyse("Which film came out first, The Last Days or Later On?").order == -1


def test_a_name_keeps_its_parenthesis_and_its_small_words() -> None:
    assert analyse("Who directed Maya (1999 Film)?").names == ("Maya (1999 Film)",)
    assert [name for _, name in entities("He met Vincent van Gogh at the University of Delft.")] == [
        "Vincent van Gogh",
        "University of Delft",
    ]


def test_dates_know_whether_they_are_of_birth_or_death() -> None:
    (sentence,) = read(Passage("1", "Ada", "Ada Lovelace (10 December 1815 – 27 November 1852) wrote in 1843."))
    dates = [(span.text, role_of(sentence.text, span)) for span in sentence.spans if span.kind in ("date", "year")]
    assert dates == [("10 December 1815", "birth"), ("27 November 1852", "death"), ("1843", "")]


def test_sentences_do_not_end_at_initials() -> None:
    sentences = read(Passage("1", "X", "J. R. R. Tolkien met Dr. Smith in St. Louis. They spoke."))
    assert [sentence.text for sentence in sentences] == [
        "J. R. R. Tolkien met Dr. Smith in St. Louis.",
        "They spoke.",
    ]


def test_a_key_ignores_case_possession_and_a_trailing_parenthesis() -> None:
    assert key("Ed Wood's (film)") == key("ed wood") == "ed wood"
    assert key("(500) Days") == "500 days"


def test_dates_compare_by_day_and_numbers_by_size() -> None:
    (sentence,) = read(Passage("1", "X", "On 3 May 1920 and on May 4, 1920 it had 2.5 million, then 900,000."))
    first, second, million, rest = (as_number(s) for s in sentence.spans if s.kind in ("date", "number"))
    assert first < second
    assert (million, rest) == (2.5e6, 9e5)
