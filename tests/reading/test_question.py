"""Questions parsed by rules."""

from __future__ import annotations

import time

import pytest

from raggym_env.reading.question import parse_question


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
def test_the_question_words_decide_the_answer_type(question: str, kind: str) -> None:
    assert parse_question(question).kind == kind


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
def test_the_two_names_compared_are_recognized(question: str, choices: tuple[str, ...]) -> None:
    assert parse_question(question).choices == choices


def test_the_last_comparative_outside_the_names_decides_the_order() -> None:
    assert parse_question("Which has the first mayor who died later, Delft or Leiden?").order == 1
    assert parse_question("Which film came out first, The Last Days or Later On?").order == -1


def test_a_name_keeps_its_parenthesis_and_its_small_words() -> None:
    assert parse_question("Who directed Maya (1999 Film) by Vincent van Gogh?").names == (
        "Maya (1999 Film)",
        "Vincent van Gogh",
    )


def test_a_name_that_is_part_of_another_is_dropped_and_each_is_listed_once() -> None:
    assert parse_question('Did Ada of Delft, or Ada, know Ada of Delft and "Bea"?').names == ("Bea", "Ada of Delft")


def test_which_without_a_noun_has_no_head() -> None:
    assert parse_question("I know which 's?").head == ""


@pytest.mark.parametrize("words", ["Ab, ", 'Ab "Cd" ', "x or ", "Aa? ", "between A and ", "Ab and Cd: "])
def test_a_question_of_a_megabyte_is_parsed_within_seconds(words: str) -> None:
    text = words * (1_000_000 // len(words))
    start = time.process_time()
    assert parse_question(text).text == text
    assert time.process_time() - start < 10  # measured: 0.3 s at most
