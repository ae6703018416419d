"""The words of a text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loose import LOOSE
from raggym_env.reading.text import STOP, Tokens, cut, entities, key, names_in, stem, terms, whole_words, words


def test_a_key_ignores_case_possession_and_a_trailing_parenthesis() -> None:
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
def test_names_are_capitalised_words_and_what_joins_them(text: str, names: list[str]) -> None:
    assert [name for _, name in entities(text)] == names


@given(LOOSE | st.text(max_size=80))
def test_the_terms_of_a_text_are_the_stems_of_its_words_but_stop_words_where_they_first_stand(text: str) -> None:
    found = terms(text)
    assert set(found) == {stem(word) for word in words(text) if word.lower() not in STOP}
    for term, start in found.items():
        assert stem(words(text[start:])[0]) == term
        assert term not in terms(text[:start])


@given(LOOSE | st.text(max_size=80))
def test_a_text_that_is_cut_has_the_same_terms_key_and_names(text: str) -> None:
    tokens = Tokens(cut(text))
    assert "".join(cut(text)) == text
    assert tokens.terms() == terms(text)
    assert tokens.key() == f" {key(text + ' .')} "
    for first, end in names_in(tokens):
        name, start = tokens.text(first, end), tokens.starts[first]
        assert text[start : start + len(name)] == name
        assert tokens.key(first, end) == f" {key(name)} "
        assert tokens.key().split()[first:end] == key(name).split()


@given(LOOSE | st.text(max_size=80))
def test_whole_words_are_found_between_boundaries(text: str) -> None:
    sought = ("two", "ten", "x", "film", "fil")
    plain = re.compile(rf"\b(?:{'|'.join(sought)})\b")
    assert [m.span() for m in re.finditer(whole_words(sought), text)] == [m.span() for m in plain.finditer(text)]
