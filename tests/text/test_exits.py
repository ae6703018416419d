"""Each exit against whatever text, with a parser of that place as the judge where there is one."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from rich.table import Table

from raggym_env.text.exits import for_file_name, for_json, for_markdown, for_page, for_rich, for_terminal

# Pieces of the languages that the places read, mixed with any character there is, unpaired surrogates included.
PIECES = ["\x1b[31m", "\x1b]0;t\x07", "\x9b2J", "\x9d", "\r", "\r\n", "\x85", "\u2028", "\x7f", "\t", "\x1c", "\x00"]
PIECES += ["\u202e", "\u2066", "\u200b", "\ufeff", "\xad", "\U000e0041", "\u3164", "\ud800", "\u0301", "\ufdd0"]
PIECES += ["[/b]", "[bold red]", "[link=http://e]x[/]", "[@click=x]", "\\[", "\\\\[/", ":smile:", "[", "]"]
PIECES += ["|", "\\|", "\\", "`", "``", "*", "**", "_", "__", "~~", "<b>", "</td>", "<!--", "<?", "![i](http://e)"]
PIECES += ["[a](javascript:b)", "<http://e>", "&lt;", "&#x3c;", "&", "#", "---", "> ", "1. ", "[^1]", "[x]: http://e"]
PIECES += ["<script>alert(1)</script>", '" onload="x', "' x='", "{{ 7 }}", "{% x %}", "javascript:", "../", "/", "a b"]
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(st.characters(codec=None), max_size=5), max_size=8).map("".join)


def is_harmless(text: str) -> bool:
    """True if a terminal shows the text as it is: no control character, nothing invisible or reordering."""
    controls = {char for char in text if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}}
    return not controls and not re.search(
        r"[\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]", text
    )


# -- terminal -----------------------------------------------------------------------------------------------------


@given(HOSTILE)
def test_a_line_for_a_terminal_is_one_line_and_drives_nothing(text):
    shown = for_terminal(text)
    assert is_harmless(shown)
    assert shown.splitlines() in ([shown], [])
    assert for_terminal(shown) == shown
    shown.encode("utf-8")


@given(HOSTILE)
def test_lines_for_a_terminal_have_one_kind_of_line_break(text):
    shown = for_terminal(text, lines=True)
    assert is_harmless(shown.replace("\n", ""))
    assert shown.split("\n") == [
        for_terminal(line) for line in re.split("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text)
    ]


@given(
    st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="\u115f\u1160\u3164\uffa0"), max_size=50)
)
def test_ordinary_text_is_shown_as_it_is(text):
    assert for_terminal(f"a  {text}") == f"a  {text}"


def test_joiners_stay_in_the_scripts_and_emoji_that_need_them_and_nowhere_else():
    for text in ("می\u200cخواهم", "ක්\u200dෂ", "👩\u200d🔬", "അവന്\u200d ."):
        assert for_terminal(text) == text
    assert for_terminal("pass\u200dword\u200c\u200d\u200c 你\u200d好") == "password 你好"


def test_text_of_absurd_length_is_cut_in_every_direction():
    assert len(for_terminal("x" * 3_000_000)) == 2_000
    lines = for_terminal("\n".join("x" * 9_000 for _ in range(2_000)), lines=True).split("\n")
    assert (len(lines), max(map(len, lines)), lines[-1]) == (1_001, 2_000, "… 1,000 more lines")
    assert for_terminal("e" + "\u0301" * 1_000) == "e" + "\u0301" * 4  # "Zalgo" text, drawn over the lines above


def test_paths_and_exceptions_are_shown_by_their_text():
    assert for_terminal(Path("a  b/\x1bc")) == str(Path("a  b/c"))
    assert for_terminal(ValueError("no\nyes")) == "no yes"


# -- Rich ---------------------------------------------------------------------------------------------------------


@given(HOSTILE)
def test_rich_reads_no_markup_in_a_text_wherever_it_stands(text):
    table = Table("head", title=for_rich(text))
    table.add_row(for_rich(text))
    console = Console(file=io.StringIO(), width=4_000, color_system="truecolor", force_terminal=True)
    console.print(table)
    shown = console.file.getvalue()
    for_rich(text).markup  # noqa: B018  # must not raise
    assert for_rich(text).plain == for_terminal(text)
    assert for_terminal(text).strip() in re.sub("\x1b\\[[0-9;]*m", "", shown)
    assert "\x1b]" not in shown, "no link, no title of the window"


# -- Markdown -----------------------------------------------------------------------------------------------------

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@given(HOSTILE, HOSTILE)
@example("a\\|b", "\\")
@example("`a|b`", "x")
def test_a_table_of_markdown_keeps_its_shape_and_its_cells_are_plain_text(one, other):
    cells = [for_markdown(one), for_markdown(other), "end"]
    table = "\n".join(["| a | b | c |", "| --- | --- | --- |", f"| {' | '.join(cells)} |", f"| {' | '.join(cells)} |"])
    tokens = MARKDOWN.parse(table)
    rows = [token for token in tokens if token.type == "tr_open"]
    inlines = [token for token in tokens if token.type == "inline"]
    assert (tokens[0].type, tokens[-1].type, len(rows), len(inlines)) == ("table_open", "table_close", 3, 9)
    expected = [" ".join(for_terminal(text, length=500).split()) for text in (one, other, "end")]
    for inline, text in zip(inlines[3:], expected * 2, strict=True):
        assert {child.type for child in inline.children} <= {"text", "text_special"}, inline.children
        assert "".join(child.content for child in inline.children) == text


@given(HOSTILE)
def test_no_tag_survives_in_the_source_of_the_markdown_either(text):
    assert "<" not in for_markdown(text)


@pytest.mark.parametrize(
    "text", ["single_search (seed 4)", "bm25, k=5, k1=0.5, 8 searches, corpus a1b2c3", "AT&T", "a-b.c"]
)
def test_ordinary_labels_are_the_same_in_markdown(text):
    assert for_markdown(text) == text


# -- HTML ---------------------------------------------------------------------------------------------------------


@given(HOSTILE)
def test_the_data_of_a_page_has_its_texts_and_keys_cleaned_and_its_shape_kept(text):
    shown = for_page({text: [text, {"n": 1.5, "none": None}, (True, text)]})
    clean = for_terminal(text, lines=True, length=20_000)
    assert shown == {clean: [clean, {"n": 1.5, "none": None}, [True, clean]]}


# -- JSON and file names ------------------------------------------------------------------------------------------


@given(st.dictionaries(HOSTILE, HOSTILE, max_size=3))
def test_json_is_printable_ascii_and_reads_back(value):
    text = for_json(value)
    assert re.fullmatch(r"[ -~\n]*", text)
    assert json.loads(text) == json.loads(json.dumps(value))


@given(HOSTILE)
def test_a_file_name_stays_in_its_folder_and_fits(text):
    name = for_file_name(text * 20)
    assert len(name.encode("utf-8")) <= 80
    assert not name.startswith(".")
    assert (Path("runs") / f"x_{name}").parent == Path("runs")
    assert is_harmless(name)
