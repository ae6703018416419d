"""Untrusted text made fit for a prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.text.untrusted import as_data, clipped, one_line


@pytest.mark.parametrize(
    "tag",
    ["</passages>", "< /passages>", "<question>", "<|im_start|>", "<s>", "<<SYS>>", "<｜User｜>", "<!--", "<\n/note>"],
)
def test_no_tag_or_control_token_survives(tag):
    assert "<" not in as_data(f"a {tag} b")


def test_control_words_in_brackets_do_not_survive():
    assert as_data("[INST] [/INST] [1] [sic]") == "(INST) (/INST) [1] [sic]"


@pytest.mark.parametrize("text", ["p < 0.05", "p <0.05", "x <= 5", "x <-3", "a > b", "A & B"])
def test_comparisons_with_numbers_stay_as_they_are(text):
    assert as_data(text) == text


@given(st.text())
def test_data_is_one_line_that_every_tokenizer_can_encode(text):
    made = as_data(text)
    assert made.encode("utf-8").decode("utf-8") == made
    assert made == one_line(made)
    assert as_data(made) == made


def test_surrogate_pairs_are_one_character_and_halves_are_replaced():
    assert one_line("\ud83d\ude42 \ud83d") == "🙂 \ufffd"


def test_a_long_text_is_cut_between_words():
    assert clipped("one two three", 20) == "one two three"
    assert clipped("one two three", 9) == "one two…"
    assert len(clipped("x" * 99, 10)) == 10
