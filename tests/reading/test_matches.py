"""Passages matched with a question once, whatever else is retrieved with them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Passage
from raggym_env.reading.answers import answers_from
from raggym_env.reading.matches import matches_of
from raggym_env.reading.question import parse_question
from raggym_env.reading.reader import Reading

TITLES = ["Red Harbour", "Ilse Brandt", "Blue Dawn (film)", "Oslo", "X", "The The"]
QUESTIONS = [
    "Where did the director of the film Red Harbour die?",
    "Who directed Red Harbour, the 1962 film?",
    "Which film came out first, Red Harbour or Blue Dawn?",
    "How many people live in Oslo?",
]
TEXTS = st.lists(
    st.sampled_from(
        [*TITLES, "directed by", "died in", "1962", "3 May 1920", "is a film.", "was born", "American", "O."]
    ),
    max_size=12,
).map(" ".join)
PASSAGES = st.lists(st.builds(Passage, st.sampled_from("abc"), st.sampled_from([*TITLES, ""]), TEXTS), max_size=6)


def facts(question: str, passages: list[Passage]) -> tuple[object, ...]:
    reading = Reading(parse_question(question), passages)
    strengths = [reading.strength(sentence) for sentence in reading.sentences]
    return answers_from(reading), strengths, reading.leads([]), reading.bridged, reading.chain


@given(st.sampled_from(QUESTIONS), PASSAGES.map(lambda found: list(dict.fromkeys(found))), PASSAGES, st.data())
def test_a_reading_does_not_depend_on_what_was_matched_with_the_question_before(question, passages, others, data):
    matches_of.cache_clear()
    alone = facts(question, passages)
    matches_of.cache_clear()
    facts(question, list(dict.fromkeys(data.draw(st.permutations([*others, *passages])))))
    assert facts(question, passages) == alone


@given(st.sampled_from(QUESTIONS), PASSAGES.map(lambda found: list(dict.fromkeys(found))))
def test_the_two_best_answers_are_the_first_two_of_all(question, passages):
    reading = Reading(parse_question(question), passages)
    if reading.question.kind not in ("choice", "verdict"):
        assert reading.best_answers() == reading.answers()[:2]


def test_matches_of_very_many_passages_are_forgotten_and_read_again():
    question = parse_question(QUESTIONS[0])
    first = Passage("first", "Red Harbour", "Red Harbour is a film directed by Ilse Brandt.")
    before = matches_of(question).of([first])[0].counts
    for number in range(0, 2_500, 50):
        matches_of(question).of([Passage(str(number + i), f"Page {number + i}", "A page.") for i in range(50)])
    assert len(matches_of(question)._pages) < 2_100
    assert matches_of(question).of([first])[0].counts == before
