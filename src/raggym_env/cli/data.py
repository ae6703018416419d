"""`raggym data`: list the data sets, show whether their files are available, download and verify them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from raggym_env.cli._options import AsJson
from raggym_env.cli._verify import folder_bytes, verify_all
from raggym_env.data import catalogue, verify
from raggym_env.data.catalogue import SplitStatus
from raggym_env.text.untrusted import one_line

__all__ = ["app"]

app = typer.Typer(help="List, download, describe and verify data sets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name or path of an environment card, or a data set's folder.")]


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the splits of every shipped card and show whether their data is available."""
    _print([status for card in catalogue.shipped_cards() for status in catalogue.statuses(card)], as_json)


@app.command("get")
def get_command(name: Name, as_json: AsJson = False) -> None:
    """Download what the hub has and prepare the corpora. Exits with 1 if a split stays unavailable."""
    statuses = catalogue.get(catalogue.named_card(name))
    _print(statuses, as_json)
    if any(status.problem for status in statuses):
        raise typer.Exit(1)


@app.command("info")
def info_command(name: Name, as_json: AsJson = False) -> None:
    """Describe one data set: its licence, its splits with their sources and sizes, and an example question."""
    card = catalogue.named_card(name)
    statuses = catalogue.statuses(card)
    about = {"name": card.name, "title": card.title, "description": card.description, "licence": card.licence}
    if as_json:
        typer.echo(json.dumps({**about, "splits": [asdict(status) for status in statuses]}, indent=2))
        return
    console = Console()
    # Cards and data sets may come from strangers: `one_line` removes what would control the terminal.
    for field, text in about.items():
        console.print(f"{field:12} {one_line(text)}", markup=False, highlight=False)
    _print(statuses, as_json=False)
    if example := next((status.example for status in statuses if status.example), ""):
        console.print(f"example      {one_line(example)}", markup=False, highlight=False)


@app.command("verify")
def verify_command(
    env: Annotated[str | None, typer.Argument(help="Environment; default: all corpora in the cache.")] = None,
) -> None:
    """Read corpora whole, and compare them with their checksums and with the files that they were prepared from.

    With an environment, the questions of its splits are read too. Prints one line for each corpus or split, and exits
    with 1 if one of them is missing or damaged.
    """
    if env is None:
        folders = verify.prepared_folders()
        verify_all((path.name, 2 * folder_bytes(path), partial(verify.verify_corpus, path)) for path in folders)
        return
    card = catalogue.named_card(env)
    verify_all((f"{card.name} {split}", 0, partial(verify.verify_split, card, split)) for split in card.dataset.splits)


def _print(statuses: Sequence[SplitStatus], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(status) for status in statuses], indent=2))
        return
    console = Console()
    console.print(_table(statuses))
    for status in statuses:
        if status.problem:
            # Not wrapped, so that paths and commands in it can be copied.
            console.print(status.problem, markup=False, highlight=False, soft_wrap=True)


def _table(statuses: Iterable[SplitStatus]) -> Table:
    table = Table("card", "split", "questions", "passages", Column("read from", overflow="fold"))
    for status in statuses:
        # "-" rather than 0: the size is unknown as long as the split cannot be read.
        questions = "-" if status.questions is None else f"{status.questions:,}"
        passages = "-" if status.passages is None else f"{status.passages:,}"
        # Escaped, as Rich would read "[" in a path as markup.
        table.add_row(status.card, status.split, questions, passages, escape(status.source) or "not found")
    return table
