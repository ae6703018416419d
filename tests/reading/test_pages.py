"""Passages cut into sentences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loose import LOOSE
from raggym_env.core import Passage
from raggym_env.reading.pages import Sentence, page_of, read
from raggym_env.reading.text import key, terms


def test_sentences_do_not_end_at_initials() -> None:
    sentences = read(Passage("1", "X", "J. R. R. Tolkien met Dr. Smith in St. Louis. They spoke."))
    assert [sentence.text for sentence in sentences] == [
        "J. R. R. Tolkien met Dr. Smith in St. Louis.",
        "They spoke.",
    ]


@given(LOOSE | st.text(max_size=80), LOOSE)
def test_spans_found_when_asked_for_are_those_of_the_sentence_and_found_once(text: str, title: str) -> None:
    sentence = Sentence(title, text, 0)
    for span in sentence.spans:
        assert text[span.start : span.start + len(span.text)] == span.text
        assert span.key == key(span.text)
    assert sentence.spans is sentence.spans


def test_a_thread_that_another_overtakes_finds_the_same_names() -> None:
    sentence = Sentence("", "Ilse Brandt met Tom Reed.", 0)
    names = sentence.names
    sentence._names = None  # what the slower thread saw
    assert sentence.names == names != []


@given(st.builds(Passage, st.just("i"), LOOSE, LOOSE), LOOSE)
def test_a_page_contains_a_name_exactly_if_one_of_its_sentences_does(passage: Passage, name: str) -> None:
    page, padded = page_of(passage), f" {key(name)} "
    if padded.strip():
        assert (padded in page.key) == any(padded in sentence.key for sentence in page.sentences)


@given(st.builds(Passage, st.just("i"), LOOSE, LOOSE | st.text(max_size=80)))
def test_the_terms_of_a_page_are_those_of_its_title_and_sentences(passage: Passage) -> None:
    page = page_of(passage)
    assert page.terms == set(terms(passage.title)).union(*(sentence.terms for sentence in page.sentences))
    assert page.name == f" {key(passage.title)} "
    assert [sentence.number for sentence in page.sentences] == list(range(len(page.sentences)))
    assert read(passage) is page.sentences
