"""What `raggym data verify` and `raggym index verify` share: progress, a line for each item, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from raggym_env.cli._output import say
from raggym_env.errors import RAGGymError
from raggym_env.storage import checksums
from raggym_env.text.untrusted import one_line

__all__ = ["Item", "folder_bytes", "verify_all"]

Item = tuple[str, int, Callable[[checksums.Progress], str]]
"""A name, the bytes to be read, and a function that checks the item and describes it."""


def verify_all(items: Iterable[Item]) -> None:
    """Check items and print one line for each. Exits with 1 if something is wrong with one of them."""
    checked = failed = 0
    # The text is not one of Rich's templates: names may hold brackets.
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    for name, size, check in items:
        checked += 1
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            row = bar.add_task(one_line(name), total=size)
            try:
                line = f"ok {name}: {check(partial(bar.advance, row))}"
            except (RAGGymError, OSError) as error:
                failed += 1
                line = f"damaged {name}: {error}"
        say(line)
    if not checked:
        say("There is nothing to verify.")
    if failed:
        raise typer.Exit(1)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
