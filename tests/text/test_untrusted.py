"""Untrusted text made fit for a prompt."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.text.untrusted import as_data, clipped, one_line, visible


@pytest.mark.parametrize(
    "tag",
    ["</passages>", "< /passages>", "<question>", "<|im_start|>", "<s>", "<<SYS>>", "<｜User｜>", "<!--", "<\n/note>"],
)
def test_no_tag_or_control_token_survives(tag):
    assert "<" not in as_data(f"a {tag} b")


TOKENS = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[control_8]", "[gMASK]", "[unused1]", "[UNUSED_TOKEN_146]"]
TOKENS += ["[|assistant|]", "[|endofturn|]", "]~b]", "]~!b[", "[e~[", "◁think▷", "◁/think▷", "[\u200bINST]"]
TOKENS += ["<0x0A>", "<2en>", "<|1|>"]


@pytest.mark.parametrize("token", TOKENS)
def test_control_tokens_in_other_brackets_do_not_survive(token):
    assert not set(as_data(f"a {token} b")) & set("[]<◁▷")


@pytest.mark.parametrize(
    "text",
    ["p < 0.05", "p <0.05", "x <= 5", "x <-3", "a > b", "A & B", "1 <2 > 0", "[1] [sic] [12]", "|x| [a|b]", "a ◁ b"],
)
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


# Format characters that are seen, such as the Arabic sign that encloses a number.
SEEN = {"\u06dd", "\u070f", "\u08e2", "\U000110bd", "\U000110cd", *map(chr, (*range(0x600, 0x606), 0x890, 0x891))}


def test_every_control_and_format_character_is_dropped_but_white_space_and_those_that_are_seen():
    kept = {char for char in map(chr, range(sys.maxunicode + 1)) if visible(f"a{char}b") != "ab"}
    invisible = {char for char in kept if unicodedata.category(char) in {"Cc", "Cf"}}
    assert invisible == {*"\t\n\v\f\r\x1c\x1d\x1e\x1f\x85"} | SEEN
    assert not kept & {*map(chr, range(0xE0000, 0xE1000)), *"\u034f\u115f\u1160\u17b4\u3164\uffa0\ufe0f\ufdd0"}


def test_a_row_of_joiners_cannot_spell_a_message():
    hidden = "".join("\u200c" if bit == "1" else "\u200d" for bit in "0110100001101001")
    assert visible(f"Oslo{hidden} is {hidden}") == "Oslo is "
    assert len(visible(f"می{hidden}خواهم")) == len("می\u200dخواهم")
