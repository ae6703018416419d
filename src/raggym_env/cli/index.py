"""`raggym index`: check stored indexes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from raggym_env.cli._verify import Item, folder_bytes, verify_all
from raggym_env.errors import RetrievalError

__all__ = ["app"]

app = typer.Typer(help="Check stored indexes.", no_args_is_help=True)

Folders = Annotated[
    list[Path] | None,
    typer.Argument(help="Indexes, or folders that hold indexes. Default: those in the cache.", show_default=False),
]


# A callback keeps `verify` a subcommand: Typer makes the only command of an app the app itself.
@app.callback()
def index() -> None:
    """Check stored indexes."""


@app.command("verify")
def verify_command(folders: Folders = None) -> None:
    """Read indexes whole, compare them with their checksums, and check every number in them.

    Prints one line for each, and exits with 1 if one of them is damaged.
    """
    verify_all(_items(folders or [None]))


def _items(folders: list[Path] | list[None]) -> Iterator[Item]:
    from raggym_env.retrieval.verify import index_folders, verify_index

    for folder in folders:
        indexes = index_folders(folder)
        if folder is not None and not indexes:
            raise RetrievalError(f"{folder} is neither an index nor a folder that holds indexes.")
        for path in indexes:
            yield str(path if folder else path.name), folder_bytes(path), partial(verify_index, path)
