"""What the commands print. No command prints in any other way, so that no text of a stranger reaches a terminal raw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Column, Table

from raggym_env.text.exits import for_json, for_rich, for_terminal

__all__ = ["say", "say_json", "say_lines", "show", "show_fields", "show_table"]


def say(value: object, *, err: bool = False) -> None:
    """Print a value on one line of stdout, or of stderr."""
    typer.echo(for_terminal(value), err=err)


def say_lines(text: str, *, err: bool = False) -> None:
    """Print a text whose parts have all been through an exit function, such as a table of Markdown."""
    typer.echo(text, err=err)


def say_json(value: Any) -> None:
    """Print a value as JSON for programs."""
    typer.echo(for_json(value))


def show(renderable: RenderableType) -> None:
    """Print something made with Rich. Data in it must be a `Text` made by `for_rich`."""
    # Neither markup nor emoji codes are read, even where a string slipped in; and numbers in a text get no colours.
    Console(markup=False, emoji=False, highlight=False).print(renderable)


def show_table(columns: Sequence[str | Column], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    _show_rows(Table(*columns), rows)


def show_fields(fields: Mapping[str, object]) -> None:
    """Print a name and a value on each line. A long value is wrapped, and its further lines are indented."""
    _show_rows(Table.grid(Column(min_width=12, no_wrap=True), Column(overflow="fold"), padding=(0, 1)), fields.items())


def _show_rows(table: Table, rows: Iterable[Sequence[object]]) -> None:
    for row in rows:
        table.add_row(*map(for_rich, row))
    show(table)
