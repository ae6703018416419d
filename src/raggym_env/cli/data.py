"""`raggym data`: which data sets there are, where they lie, and how to get them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from raggym_env.data import catalogue
from raggym_env.data.catalogue import SplitStatus

__all__ = ["app"]

app = typer.Typer(help="List, download and describe data sets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="An environment card, its path, or a data set's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """Show every shipped card's splits and whether their data is here."""
    _print([status for card in catalogue.shipped_cards() for status in catalogue.statuses(card)], as_json)


@app.command("get")
def get_command(name: Name, as_json: AsJson = False) -> None:
    """Download what the hub has and prepare the corpora. Exits with 1 if some split cannot be had."""
    statuses = catalogue.get(catalogue.named_card(name))
    _print(statuses, as_json)
    if any(status.problem for status in statuses):
        raise typer.Exit(1)


@app.command("info")
def info_command(name: Name, as_json: AsJson = False) -> None:
    """Describe one data set: its splits, where they are read from, its corpus, licence and an example."""
    card = catalogue.named_card(name)
    statuses = catalogue.statuses(card)
    about = {"name": card.name, "title": card.title, "description": card.description, "licence": card.licence}
    if as_json:
        typer.echo(json.dumps({**about, "splits": [asdict(status) for status in statuses]}, indent=2))
        return
    console = Console()
    for field, text in about.items():
        console.print(f"{field:12} {text}", markup=False, highlight=False)
    _print(statuses, as_json=False)
    if example := next((status.example for status in statuses if status.example), ""):
        console.print(f"example      {example}", markup=False, highlight=False)


def _print(statuses: Sequence[SplitStatus], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(status) for status in statuses], indent=2))
        return
    console = Console()
    console.print(_table(statuses))
    for status in statuses:
        if status.problem:
            console.print(status.problem, markup=False, highlight=False, soft_wrap=True)


def _table(statuses: Iterable[SplitStatus]) -> Table:
    table = Table("card", "split", "questions", "passages", Column("read from", overflow="fold"))
    for status in statuses:
        questions = "-" if status.questions is None else f"{status.questions:,}"
        passages = "-" if status.passages is None else f"{status.passages:,}"
        table.add_row(status.card, status.split, questions, passages, status.source or "not found")
    return table
