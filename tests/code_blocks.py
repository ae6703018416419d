"""Code blocks of Markdown pages: finding, running and checking them.

A comment before a block says what to do with it:

    <!-- file: NAME -->        write it to that file of the page's folder; blocks with the same name are joined
    <!-- quick -->             run its commands
    <!-- needs: MODULE -->     run it if that module is installed
    <!-- not run: WHY -->      only compile it

Python blocks without one are run, in order and in one namespace per page. Console blocks without one are only parsed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer
from typer.testing import CliRunner

from raggym_env.cli import app

REPOSITORY = Path(__file__).parents[1]
_BLOCK = re.compile(r"^(?:<!-- (\w[\w ]*)(?:: (.*?))? -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END_OF_COMMAND = frozenset(("|", ">", ">>", "&&", ";", "&", "2>"))


class Block(NamedTuple):
    """A fenced block of a page."""

    mark: str
    """The word of the comment before it: "file", "quick", "needs", "not run" or ""."""
    value: str
    """What follows the mark."""
    language: str
    code: str
    line: int
    """Its first line in the page, from 1."""


def blocks(text: str, language: str | None = None) -> list[Block]:
    """Return the code blocks of a page, of one language or all."""
    every = [
        Block(match[1] or "", match[2] or "", match[3], match[4], text.count("\n", 0, match.start(4)) + 1)
        for match in _BLOCK.finditer(text)
    ]
    return [block for block in every if language in (None, block.language)]


def run(command: list[str], folder: Path) -> str:
    """Run a command with this Python's scripts first on the path, and return what it printed.

    `raggym` runs in this process, which has loaded the library and its compiled parts already: a process of its own
    takes three seconds to get that far.
    """
    if command[0] == "raggym":
        return run_raggym(command[1:], folder)
    # The tree under test comes first, also where another one is installed.
    first = {"PATH": Path(sys.executable).parent, "PYTHONPATH": REPOSITORY / "src"}
    paths = {name: os.pathsep.join([str(path), os.environ.get(name, "")]) for name, path in first.items()}
    environment = {**os.environ, **paths}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def run_raggym(arguments: list[str], folder: Path) -> str:
    with contextlib.chdir(folder):
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"raggym {shlex.join(arguments)}\n{result.output[-6000:]}"
    # A class of the page's own is imported again by the next command, which may find it edited.
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
            del sys.modules[name]
    importlib.invalidate_caches()
    return result.stdout


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the commands of a console block as words, without comments and without what comes after a pipe."""
    for line in block.code.replace("\\\n", " ").splitlines():
        assert line.startswith("$ "), f"a line of a console block does not start with a prompt: {line!r}"
        words = shlex.split(line.removeprefix("$ "), comments=True)
        end = next((number for number, word in enumerate(words) if word in _END_OF_COMMAND), len(words))
        yield words[:end]


def check_command(words: list[str]) -> None:
    """Check that a command exists and takes its arguments: `raggym`, `make`, `pip install` and our own scripts."""
    match words:
        case ["raggym", *arguments]:
            parse_raggym(arguments)
        case ["make", target]:
            assert re.search(rf"^{re.escape(target)}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE), target
        case ["python", script, *_] if script.endswith(".py"):
            assert (REPOSITORY / script).is_file(), f"no file {script}"
        case ["pip", "install", *arguments]:
            check_extras(arguments)
        case ["cp", source, _]:
            assert (REPOSITORY / source).is_file(), f"no file {source}"


def parse_raggym(arguments: list[str]) -> None:
    """Parse the arguments of `raggym` as the command does, without running it."""
    command = typer.main.get_command(app)
    context = command.make_context("raggym", list(arguments), resilient_parsing=False)
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def check_extras(arguments: list[str]) -> None:
    """Check that the extras of `pip install -e '.[extra]'` exist."""
    import tomllib

    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for names in re.findall(r"\[([\w,-]+)\]", " ".join(arguments)):
        assert set(names.split(",")) <= extras.keys(), names
