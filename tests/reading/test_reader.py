"""Pages read for a question: what the lexical policy and the mini reward build on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loose import LOOSE
from raggym_env.core import Passage, Question, State, Turn
from raggym_env.reading.answers import answers, answers_from, reading_of
from raggym_env.reading.pages import page_of, read
from raggym_env.reading.question import analyse
from raggym_env.reading.reader import Reading
from raggym_env.reading.text import key

FILM = Passage("1", "Red Harbour", "Red Harbour is a 1962 drama film directed by Ilse Brandt and starring Tom Reed.")
ILSE = Passage("2", "Ilse Brandt", "Ilse Brandt (3 May 1920 – 7 June 1991) was a German director. She died in Lisbon.")
STRAY = Passage("3", "Blue Dawn (film)", "Blue Dawn is a film. Its director Karl Voss wanted to die in Oslo.")
ASKED = "Where did the director of the film Red Harbour die?"


def reading(*found: Passage, text: str = ASKED) -> Reading:
    return Reading(analyse(text), found)


PASSAGES = st.lists(st.builds(Passage, st.just("i"), LOOSE, LOOSE | st.text(max_size=60)), max_size=4)


def test_a_title_is_known_without_what_stands_in_parentheses_behind_it() -> None:
    assert page_of(STRAY).name == " blue dawn "
    assert reading(STRAY).passage_of("Blue Dawn") is STRAY


@given(PASSAGES, LOOSE)
def test_the_pages_with_a_name_are_those_that_contain_it_or_are_called_so(passages: list[Passage], text: str) -> None:
    found, name = reading(*passages), f" {key(text)} "
    expected = [n for n, page in enumerate(found.pages) if name in page.key or name == page.name]
    assert found.pages_with(name) == expected == found.pages_with(name)


@given(st.sampled_from([ASKED, "Who is older, Red Harbour or Ilse Brandt?", "Is x of y?", "", "?"]), PASSAGES)
def test_evidence_strength_nearness_and_coverage_are_shares(text: str, passages: list[Passage]) -> None:
    found = reading(*passages, text=text)
    for sentence in found.sentences:
        evidence, strength = found.evidence(sentence), found.strength(sentence)
        assert 0 <= strength <= evidence <= 1 + 1e-9
        assert strength in (evidence, 0.5 * evidence)
        for span in sentence.spans:
            assert 0 <= found.nearness(sentence, span.start, len(span.text)) <= 1
    for page in found.pages:
        assert 0 <= found.covered(page.terms) <= 1 + 1e-9


@given(st.sampled_from([ASKED, "Who is older, Red Harbour or Ilse Brandt?", "Are x and y both films?"]), PASSAGES)
def test_there_is_always_an_answer_each_once_and_best_first(text: str, passages: list[Passage]) -> None:
    found = answers_from(reading(*passages, text=text))
    scores = [candidate.score for candidate in found]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0
    assert len({key(candidate.text) for candidate in found}) == len(found) >= 1


def test_what_the_question_leads_to_is_in_the_chain_and_counts_double() -> None:
    found = reading(FILM, ILSE, STRAY)
    assert found.chain == {"Red Harbour", "Ilse Brandt"}
    (ilse, died), (_, stray) = read(ILSE), read(STRAY)
    assert found.strength(died) == found.evidence(died) > 0
    assert found.strength(ilse) == found.evidence(ilse)
    assert found.strength(stray) == pytest.approx(0.5 * found.evidence(stray))


def test_without_a_page_that_the_question_names_no_page_is_out_of_the_chain() -> None:
    assert reading(ILSE, STRAY).chain == {"Ilse Brandt", "Blue Dawn (film)"}


def test_a_bridge_is_the_name_nearest_to_what_the_question_asks_of_a_page() -> None:
    found = reading(FILM, STRAY)
    assert found.bridge("Red Harbour") == "Ilse Brandt"
    assert found.bridged == ["Ilse Brandt"]
    assert found.bridge("Nowhere") is None
    assert reading(FILM, text="When was Red Harbour made?").bridged == []


def test_leads_are_names_that_nobody_has_searched_for_or_found() -> None:
    def leads(*found: Passage, searched: tuple[str, ...] = ()) -> list[str]:
        return [lead.text for lead in reading(*found).leads(searched)]

    assert leads(FILM)[0] == "Ilse Brandt"
    assert "Red Harbour" not in leads(FILM)  # in the question
    assert "Ilse Brandt" not in leads(FILM, ILSE)  # found
    assert "Ilse Brandt" not in leads(FILM, searched=("films of Ilse Brandt",))


def test_a_page_is_found_by_a_name_that_its_title_begins_with() -> None:
    longer = Passage("4", "Ilse Brandt Prize", "A prize.")
    assert reading(longer).passage_of("Ilse Brandt") is longer
    assert reading(longer, ILSE).passage_of("Ilse Brandt") is ILSE
    assert reading(longer).passage_of("Brandt Prize") is None


def state(text: str = ASKED, *found: Passage, name: str = "q", options: tuple[str, ...] = ()) -> State:
    return State(Question(name, text, options), (Turn("x", found),), 3)


def test_equal_states_are_read_once_whatever_their_question_is_called() -> None:
    first = reading_of(state(ASKED, FILM, ILSE))
    assert reading_of(state(ASKED, Passage(*FILM), ILSE, name="")) is first
    assert answers(state(ASKED, FILM, ILSE)) is answers(state(ASKED, FILM, ILSE))


def test_readings_of_other_questions_or_passages_are_kept_apart() -> None:
    assert answers(state(ASKED, FILM, ILSE))[0].text == "Lisbon"
    assert answers(state("When did the director of the film Red Harbour die?", FILM, ILSE))[0].text == "7 June 1991"
    assert answers(state(ASKED, FILM, ILSE._replace(text="Ilse Brandt died in Oslo.")))[0].text == "Oslo"
    assert answers(state(ASKED, ILSE, options=("Oslo", "Lisbon")))[0].text == "Lisbon"


@given(st.permutations(range(100)))
def test_many_states_in_any_order_are_read_as_each_alone(order: list[int]) -> None:
    """More states than are kept, so that some are read again."""
    for index in order:
        town = Passage("5", "Red Harbour", f"The director of Red Harbour, Ilse Brandt, did die in Town{index}.")
        assert answers(state(ASKED, town))[0].text == f"Town{index}"


PROGRAM = """
from raggym_env.core import Passage, Question, State, Turn
from raggym_env.reading.answers import answers, reading_of
words = "Where did the director of the film Red Harbour by the writer of Blue Dawn die of a broken heart?"
found = [Passage(str(i), f"Red Harbour {i}", f"Director Ilse {i} of Dawn did die in Town {i}.") for i in range(9)]
state = State(Question("q", words), (Turn("x", tuple(found)),), 3)
print(answers(state)[:9], reading_of(state).leads(()))
"""


def test_the_order_in_which_sets_are_walked_changes_nothing() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in range(3)
    }
    assert len(printed) == 1
