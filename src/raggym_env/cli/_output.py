"""What the commands print. No command prints in any other way, so that no text of a stranger reaches a terminal raw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from raggym_env.text.exits import for_json, for_rich, for_terminal

__all__ = ["hanging", "say", "say_json", "say_lines", "show", "show_fields", "show_hanging", "show_table", "shown_live"]


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
    _console().print(renderable)


@contextmanager
def shown_live() -> Iterator[Callable[[RenderableType], None]]:
    """Yield a function that shows what `show` does in place of what it showed before; where that cannot be, below."""
    console = _console()
    if not console.is_terminal:
        yield console.print
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda renderable: live.update(renderable, refresh=True)


def _console() -> Console:
    # Neither markup nor emoji codes are read, even where a string slipped in; and numbers in a text get no colours.
    return Console(markup=False, emoji=False, highlight=False)


def show_table(columns: Sequence[str | Column], rows: Iterable[Sequence[object]], *, lines: bool = True) -> None:
    """Print a table, with or without lines around its cells. Cells are wrapped and folded; none is cut off."""
    heads = [Column(column) if isinstance(column, str) else column for column in columns]
    for head in heads:
        head.overflow = "fold"
    _show_rows(Table(*heads) if lines else Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0)), rows)


def show_hanging(head: Text, text: Text) -> None:
    """Print a text behind a short head. Its further lines are indented, so that none can pass for a line of ours."""
    show(hanging(head, text))


def hanging(head: Text, text: Text) -> RenderableType:
    """Return what `show_hanging` prints."""
    table = Table.grid(Column(min_width=8, no_wrap=True), Column(overflow="fold"), padding=(0, 1))
    table.add_row(head, text)
    return table


def show_fields(fields: Mapping[str, object]) -> None:
    """Print a name and a value on each line. A long value is wrapped, and its further lines are indented."""
    _show_rows(Table.grid(Column(min_width=12, no_wrap=True), Column(overflow="fold"), padding=(0, 1)), fields.items())


def _show_rows(table: Table, rows: Iterable[Sequence[object]]) -> None:
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else for_rich(cell) for cell in row))
    show(table)
