"""What the commands print, and that they print it in no other way."""

import ast
from pathlib import Path

import pytest
from rich.table import Column

import raggym_env
from raggym_env.cli._output import say, say_json, show, show_fields, show_table
from raggym_env.text.exits import for_rich

ROOT = Path(raggym_env.__file__).parent
CLI = sorted(path for path in (ROOT / "cli").glob("*.py") if path.name != "_output.py")


@pytest.mark.parametrize("path", CLI, ids=lambda path: path.name)
def test_no_command_prints_but_through_the_output_functions(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            assert name not in {"print", "echo", "secho", "write", "write_text", "write_bytes", "Table", "add_row"} or (
                path.name == "_trajectories.py" and name == "add_row"
            ), f"line {node.lineno}"
            if name == "TextColumn":  # of a progress bar, where Rich reads markup by default
                assert {"markup"} == {keyword.arg for keyword in node.keywords}


def test_only_the_human_mode_of_the_environment_prints_outside_the_commands():
    printing = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                printing.add(path.relative_to(ROOT).as_posix())
    assert printing == {"envs/env.py"}


def test_a_table_shows_markup_and_emoji_codes_as_they_are(capsys):
    show_table([Column("a", no_wrap=True), "b"], [("[/b][red]x", ":smile:"), ("\x1b[1my", 3)])
    out = capsys.readouterr().out
    assert all(part in out for part in ("[/b][red]x", ":smile:", "[1my", "3"))
    assert "\x1b" not in out


def test_further_lines_of_a_long_value_are_indented(capsys):
    show_fields({"title": "word " * 50 + "raggym: forged", "description": "short"})
    first, *rest, last = capsys.readouterr().out.splitlines()
    assert first.startswith("title        word")
    assert len(rest) >= 2
    assert all(line.startswith(" " * 13) for line in rest)
    assert last.rstrip() == "description  short"


def test_a_slip_is_no_markup_either(capsys):
    show("[/b] :smile:")  # a string in place of a Text
    show(for_rich("[/b]"))
    say("[/b]\nforged")
    say_json({"a": "\x9b\x7f"})
    assert capsys.readouterr().out == '[/b] :smile:\n[/b]\n[/b] forged\n{\n  "a": "\\u009b\\u007f"\n}\n'
