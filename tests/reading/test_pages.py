"""Passages cut into sentences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loose import LOOSE
from raggym_env.core import Passage
from raggym_env.reading.pages import Sentence, page_of
from raggym_env.reading.text import key, terms


def test_sentences_do_not_end_at_initials() -> None:
    sentences = page_of(Passage("1", "X", "J. R. R. Tolkien met Dr. Smith in St. Louis. They spoke.")).sentences
    assert [sentence.text for sentence in sentences] == ["J. R. R. Tolkien met Dr. Smith in St. Louis.", "They spoke."]


@given(LOOSE | st.text(max_size=80), LOOSE)
def test_spans_lie_in_their_sentence_and_are_computed_once(text: str, title: str) -> None:
    sentence = Sentence(title, text, 0)
    for span in sentence.spans:
        assert text[span.start : span.start + len(span.text)] == span.text
        assert span.key == key(span.text)
    assert sentence.spans is sentence.spans


def test_two_threads_that_compute_the_names_at_once_get_equal_names() -> None:
    sentence = Sentence("", "Ilse Brandt met Tom Reed.", 0)
    names = sentence.names
    sentence._names = None  # what the slower thread read before the faster one was done
    assert sentence.names == names != []


@given(st.builds(Passage, st.just("i"), LOOSE, LOOSE), LOOSE)
def test_a_page_contains_a_name_if_and_only_if_one_of_its_sentences_does(passage: Passage, name: str) -> None:
    page, padded = page_of(passage), f" {key(name)} "
    if padded.strip():
        assert (padded in page.key) == any(padded in sentence.key for sentence in page.sentences)


@given(st.builds(Passage, st.just("i"), LOOSE, LOOSE | st.text(max_size=80)))
def test_a_page_has_the_terms_of_its_title_and_sentences(passage: Passage) -> None:
    page = page_of(passage)
    assert page.terms == set(terms(passage.title)).union(*(sentence.terms for sentence in page.sentences))
    assert page.name == f" {key(passage.title)} "
    assert [sentence.number for sentence in page.sentences] == list(range(len(page.sentences)))
    assert page_of(passage).sentences is page.sentences
