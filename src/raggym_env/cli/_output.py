"""What the commands print. No command prints in any other way, so that no text of a stranger reaches a terminal raw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Column, Table

from raggym_env.text.exits import for_json, for_rich, for_terminal

__all__ = ["say", "say_json", "say_lines", "show", "show_table"]


def say(value: object, *, err: bool = False) -> None:
    """Print a value on one line of stdout, or of stderr."""
    typer.echo(for_terminal(value), err=err)


def say_lines(value: object, *, err: bool = False) -> None:
    """Print a value on as many lines as it has. Only for text whose parts have been through an exit function."""
    # A row of a Markdown table may be long, and must not lose its end.
    typer.echo(for_terminal(value, lines=True, length=20_000), err=err)


def say_json(value: Any) -> None:
    """Print a value as JSON for programs."""
    typer.echo(for_json(value))


def show(renderable: RenderableType) -> None:
    """Print something made with Rich. Data in it must be a `Text` made by `for_rich`."""
    # Neither markup nor emoji codes are read, even where a string slipped in; and numbers in a text get no colours.
    Console(markup=False, emoji=False, highlight=False).print(renderable)


def show_table(columns: Sequence[str | Column], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(for_rich, row))
    show(table)
