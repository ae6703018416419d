"""The documentation: every code block is run or checked, links lead somewhere, and the site builds without warnings."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from code_blocks import blocks, check_command, commands, run
from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.protocols import Completion, Proposal

DOCS = Path(__file__).parents[1] / "docs"
GENERATED = DOCS / "generated"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "generated", "templates"} & {*path.parts})
TEXTS = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def pages_with(*languages):
    return [name for name, text in TEXTS.items() if any(block.language in languages for block in blocks(text))]


@pytest.mark.parametrize("name", pages_with("python", "json", "toml"))
def test_blocks_of_code_and_data_can_be_read(name):
    for block in blocks(TEXTS[name]):
        if block.language == "python":
            ast.parse(block.code, f"{name}, line {block.line}")
        elif block.language == "toml":
            tomllib.loads(block.code)
        elif block.language == "json":
            documents = block.code.splitlines() if block.value.endswith(".jsonl") else [block.code]
            for document in documents:
                json.loads(document)


@pytest.mark.parametrize("name", pages_with("console"))
def test_console_blocks_name_commands_and_options_that_exist(name):
    for block in blocks(TEXTS[name], "console"):
        for words in commands(block):
            check_command(words)


@pytest.mark.slow
@pytest.mark.parametrize("name", pages_with("python", "console"))
def test_a_page_can_be_followed_from_top_to_bottom_in_an_empty_folder(name, tmp_path):
    page = blocks(TEXTS[name])
    python = []  # the Python blocks since the last command: one namespace
    for block in page:
        if block.mark == "file":
            write(tmp_path / block.value, block.code)
        elif block.language == "console" and block.mark == "quick":
            for words in commands(block):
                run(words, tmp_path)
        elif block.language == "python" and block.mark != "not run":
            if block.mark == "needs" and importlib.util.find_spec(block.value) is None:
                continue
            python.append(f"#line {block.line}\n{block.code}")
    if python:
        write(tmp_path / "page.py", "\n\n".join(python))
        run([sys.executable, "-W", "error", "page.py"], tmp_path)


def write(path, text):
    old = path.read_text(encoding="utf-8") + "\n\n" if path.exists() else ""
    path.write_text(old + text, encoding="utf-8")


@pytest.mark.parametrize("name", TEXTS)
def test_links_between_written_pages_lead_to_a_page_and_a_heading(name):
    for target in _LINK.findall(re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = (DOCS / name).parent / path if path else DOCS / name
        if GENERATED in file.resolve().parents:
            continue  # made by the build, which checks these
        assert file.is_file(), f"{name}: {target}"
        assert not anchor or anchor in headings(file), f"{name}: {target}"


def headings(file):
    titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_table_of_attributes_names_those_that_the_classes_have():
    text = (DOCS / "guides" / "own-classes.md").read_text(encoding="utf-8")
    table: dict[str, list[str]] = {}
    for name, attributes in re.findall(r"^\| (?:`(\w+)`)? ?\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE):
        table.setdefault(name or list(table)[-1], []).extend(re.findall(r"\w+", attributes))
    classes = (State, Question, Turn, Passage, Proposal, Search, Answer, Completion)
    assert list(table) == [cls.__name__ for cls in classes]
    for cls in classes:
        fields = getattr(cls, "_fields", None) or [field.name for field in dataclasses.fields(cls)]
        properties = [name for name, value in vars(cls).items() if isinstance(value, property)]
        assert sorted(table[cls.__name__]) == sorted([*fields, *properties]), cls.__name__


def test_every_page_is_in_the_table_of_contents():
    listed = re.findall(r"^[\w/-]+$", TEXTS["index.md"], re.MULTILINE)
    missing = [name for name in TEXTS if name != "index.md" and name.removesuffix(".md") not in listed]
    assert missing == []


def test_the_layout_names_every_part_of_the_package():
    text = (DOCS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (layout,) = re.findall(r"## Layout\n\n```\n(.*?)```", text, re.DOTALL)
    source = DOCS.parent / "src" / "raggym_env"
    parts = {path.stem for path in source.iterdir() if not path.name.startswith(("_", "py."))}
    assert set(re.findall(r"^    (\w+)(?:\.py|/)", layout, re.MULTILINE)) == parts


def test_no_generated_page_was_forgotten_by_hand_written_text():
    """A process reward or an environment that is added needs its words and its invented episode."""
    from raggym_env import registry
    from raggym_env.cards import env_card
    from raggym_env.storage.paths import card_names

    about = tomllib.loads((DOCS / "rewards.toml").read_text(encoding="utf-8"))
    assert about.keys() | {"none"} == {*registry.PROCESS_REWARDS, "none"}
    invented = tomllib.loads((DOCS / "invented.toml").read_text(encoding="utf-8"))
    assert {env_card(name).dataset.format for name in card_names("envs")} <= {*invented, "synth"}


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_its_generated_commands_parse(tmp_path):
    pytest.importorskip("sphinx", reason="needs the extra docs")
    run([sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(DOCS), str(tmp_path / "site")], tmp_path)
    generated = sorted(GENERATED.rglob("*.md"))
    assert len(generated) > 40
    for page in generated:
        for block in blocks(page.read_text(encoding="utf-8"), "console"):
            for words in commands(block):
                check_command(words)
    overview = (tmp_path / "site" / "llms.txt").read_text(encoding="utf-8")
    for _, target in re.findall(r"^- \[(.*?)\]\((.*?)\)", overview, re.MULTILINE):
        assert (tmp_path / "site" / target).is_file(), target
