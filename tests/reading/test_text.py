"""Tokens, terms, keys and names of texts."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loose import LOOSE
from raggym_env.reading.text import STOP, Tokens, entities, key, names_in, split_words, stem, terms, whole_words, words


def test_a_key_ignores_case_possessives_and_a_final_parenthesis() -> None:
    assert key("Ed Wood's (film)") == key("ed wood") == "ed wood"
    assert key("(500) Days") == "500 days"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("He met Vincent van Gogh at the University of Delft.", ["Vincent van Gogh", "University of Delft"]),
        ("The Who of J. R. Brandt-Reed", ["Who of J. R. Brandt-Reed"]),
        ("12 Monkeys ran in 1962 Chile and on 3 May.", ["12 Monkeys", "Chile"]),
        ("Mr. Reed saw it. Ada did too", ["Mr. Reed", "Ada"]),
        ("Who was she?", []),
    ],
)
def test_names_are_capitalized_words_and_their_joiners(text: str, names: list[str]) -> None:
    assert [name for _, name in entities(text)] == names


@given(LOOSE | st.text(max_size=80))
def test_terms_are_stems_of_content_words_with_the_offset_of_the_first_occurrence(text: str) -> None:
    offsets = terms(text)
    assert set(offsets) == {stem(word) for word in words(text) if word.lower() not in STOP}
    for term, start in offsets.items():
        assert stem(words(text[start:])[0]) == term
        assert term not in terms(text[:start])


@given(LOOSE | st.text(max_size=80))
def test_tokens_have_the_terms_key_and_names_of_the_text(text: str) -> None:
    tokens = Tokens(split_words(text))
    assert "".join(split_words(text)) == text
    assert tokens.terms() == terms(text)
    assert tokens.key() == f" {key(text + ' .')} "
    for first, end in names_in(tokens):
        name, start = tokens.text(first, end), tokens.starts[first]
        assert text[start : start + len(name)] == name
        assert tokens.key(first, end) == f" {key(name)} "
        assert tokens.key().split()[first:end] == key(name).split()


@given(LOOSE | st.text(max_size=80))
def test_whole_words_match_between_word_boundaries(text: str) -> None:
    alternatives = ("two", "ten", "x", "film", "fil")
    plain = re.compile(rf"\b(?:{'|'.join(alternatives)})\b")
    assert [m.span() for m in re.finditer(whole_words(alternatives), text)] == [m.span() for m in plain.finditer(text)]


@given(st.text(alphabet="aeouéñçüÉŞ -()'.", max_size=20), st.sampled_from(["NFC", "NFD"]))
def test_a_key_does_not_depend_on_the_unicode_form(text: str, form: str) -> None:
    assert key(unicodedata.normalize(form, text)) == key(text)
