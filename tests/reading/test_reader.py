"""Passages read for a question, which the lexical policy and the mini reward build on."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loose import LOOSE
from raggym_env.core import Passage, Question, State, Turn
from raggym_env.reading.answers import answers, answers_from, reading_of
from raggym_env.reading.pages import page_of
from raggym_env.reading.question import parse_question
from raggym_env.reading.reader import Reading
from raggym_env.reading.text import key

FILM = Passage("1", "Red Harbour", "Red Harbour is a 1962 drama film directed by Ilse Brandt and starring Tom Reed.")
ILSE = Passage("2", "Ilse Brandt", "Ilse Brandt (3 May 1920 – 7 June 1991) was a German director. She died in Lisbon.")
STRAY = Passage("3", "Blue Dawn (film)", "Blue Dawn is a film. Its director Karl Voss wanted to die in Oslo.")
QUESTION = "Where did the director of the film Red Harbour die?"


def reading(*passages: Passage, text: str = QUESTION) -> Reading:
    return Reading(parse_question(text), passages)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_a_reading_does_not_depend_on_the_unicode_forms_of_question_and_passages(forms: tuple[str, str]) -> None:
    text = "Where did the director of the film Señal Ünica die?"
    pages = [
        Passage("1", "Señal Ünica", "Señal Ünica is a 1962 film directed by Ágnes Brandté and starring Tom Reed."),
        Passage("2", "Ágnes Brandté", "Ágnes Brandté (3 May 1920 – 7 June 1991) was a director who died in São Paulo."),
    ]
    expected = answers_from(reading(*pages, text=text))
    assert expected[0].text == "São Paulo"
    question, passages = forms
    decomposed = [Passage(page.id, *(unicodedata.normalize(passages, part) for part in page[1:])) for page in pages]
    assert answers_from(reading(*decomposed, text=unicodedata.normalize(question, text))) == expected


PASSAGES = st.lists(st.builds(Passage, st.just("i"), LOOSE, LOOSE | st.text(max_size=60)), max_size=4)


def test_a_title_matches_a_name_without_its_parenthesis() -> None:
    assert page_of(STRAY).name == " blue dawn "
    assert reading(STRAY).page_of("Blue Dawn") is page_of(STRAY)


@given(PASSAGES, LOOSE)
def test_the_pages_with_a_name_contain_it_or_have_it_as_title(passages: list[Passage], text: str) -> None:
    read, name = reading(*passages), f" {key(text)} "
    expected = [n for n, page in enumerate(read.pages) if name in page.key or name == page.name]
    assert read.pages_with(name) == expected == read.pages_with(name)


@given(st.sampled_from([QUESTION, "Who is older, Red Harbour or Ilse Brandt?", "Is x of y?", "", "?"]), PASSAGES)
def test_evidence_strength_nearness_and_coverage_are_shares(text: str, passages: list[Passage]) -> None:
    read = reading(*passages, text=text)
    for sentence in read.sentences:
        evidence, strength = read.evidence(sentence), read.strength(sentence)
        assert 0 <= strength <= evidence <= 1 + 1e-9
        assert strength in (evidence, 0.5 * evidence)
        for span in sentence.spans:
            assert 0 <= read.nearness(sentence, span.start, len(span.text)) <= 1
    for page in read.pages:
        assert 0 <= read.covered(page.terms) <= 1 + 1e-9


@given(st.sampled_from([QUESTION, "Who is older, Red Harbour or Ilse Brandt?", "Are x and y both films?"]), PASSAGES)
def test_answers_are_distinct_and_sorted_and_never_empty(text: str, passages: list[Passage]) -> None:
    candidates = answers_from(reading(*passages, text=text))
    scores = [candidate.score for candidate in candidates]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0
    assert len({key(candidate.text) for candidate in candidates}) == len(candidates) >= 1


def test_the_answer_of_last_resort_is_not_blank() -> None:
    assert answers_from(reading(text='Who said " , "?'))[0].text == "unknown"
    assert answers_from(reading(Passage("1", " ", " "), text="Who?"))[0].text == "unknown"


def test_sentences_on_pages_that_the_question_leads_to_count_double() -> None:
    read = reading(FILM, ILSE, STRAY)
    assert read.chain == {"Red Harbour", "Ilse Brandt"}
    (ilse, died), (_, stray) = page_of(ILSE).sentences, page_of(STRAY).sentences
    assert read.strength(died) == read.evidence(died) > 0
    assert read.strength(ilse) == read.evidence(ilse)
    assert read.strength(stray) == pytest.approx(0.5 * read.evidence(stray))


def test_all_pages_are_in_the_chain_if_the_question_names_none() -> None:
    assert reading(ILSE, STRAY).chain == {"Ilse Brandt", "Blue Dawn (film)"}


def test_a_bridge_is_the_name_on_a_page_nearest_to_the_agent_in_the_question() -> None:
    read = reading(FILM, STRAY)
    assert read.bridge("Red Harbour") == "Ilse Brandt"
    assert read.bridged == ["Ilse Brandt"]
    assert read.bridge("Nowhere") is None
    assert reading(FILM, text="When was Red Harbour made?").bridged == []


def test_leads_are_names_that_are_neither_searched_for_nor_retrieved() -> None:
    def leads(*passages: Passage, queries: tuple[str, ...] = ()) -> list[str]:
        return [lead.text for lead in reading(*passages).leads(queries)]

    assert leads(FILM)[0] == "Ilse Brandt"
    assert "Red Harbour" not in leads(FILM)  # in the question
    assert "Ilse Brandt" not in leads(FILM, ILSE)  # retrieved
    assert "Ilse Brandt" not in leads(FILM, queries=("films of Ilse Brandt",))


def test_a_page_is_about_a_name_that_its_title_begins_with() -> None:
    longer = Passage("4", "Ilse Brandt Prize", "A prize.")
    assert reading(longer).page_of("Ilse Brandt") is page_of(longer)
    assert reading(longer, ILSE).page_of("Ilse Brandt") is page_of(ILSE)
    assert reading(longer).page_of("Brandt Prize") is None


def state(text: str = QUESTION, *passages: Passage, name: str = "q", options: tuple[str, ...] = ()) -> State:
    return State(Question(name, text, options), (Turn("x", passages),), 3)


def test_equal_states_are_read_once_whatever_the_question_id() -> None:
    first = reading_of(state(QUESTION, FILM, ILSE))
    assert reading_of(state(QUESTION, Passage(*FILM), ILSE, name="")) is first
    assert answers(state(QUESTION, FILM, ILSE)) is answers(state(QUESTION, FILM, ILSE))


def test_different_questions_or_passages_have_different_readings() -> None:
    assert answers(state(QUESTION, FILM, ILSE))[0].text == "Lisbon"
    assert answers(state("When did the director of the film Red Harbour die?", FILM, ILSE))[0].text == "7 June 1991"
    assert answers(state(QUESTION, FILM, ILSE._replace(text="Ilse Brandt died in Oslo.")))[0].text == "Oslo"
    assert answers(state(QUESTION, ILSE, options=("Oslo", "Lisbon")))[0].text == "Lisbon"


@pytest.mark.slow
@given(st.permutations(range(100)))
def test_many_states_in_any_order_are_read_as_each_alone(order: list[int]) -> None:
    # More states than the cache holds, so that some are read again.
    for index in order:
        town = Passage("5", "Red Harbour", f"The director of Red Harbour, Ilse Brandt, did die in Town{index}.")
        assert answers(state(QUESTION, town))[0].text == f"Town{index}"


PROGRAM = """
from raggym_env.core import Passage, Question, State, Turn
from raggym_env.reading.answers import answers, reading_of
words = "Where did the director of the film Red Harbour by the writer of Blue Dawn die of a broken heart?"
passages = [Passage(str(i), f"Red Harbour {i}", f"Director Ilse {i} of Dawn did die in Town {i}.") for i in range(9)]
state = State(Question("q", words), (Turn("x", tuple(passages)),), 3)
print(answers(state)[:9], reading_of(state).leads(()))
"""


@pytest.mark.slow
def test_results_do_not_depend_on_the_iteration_order_of_sets() -> None:
    # Strings hash differently in each of the processes, so their sets iterate differently.
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in range(3)
    }
    assert len(outputs) == 1
