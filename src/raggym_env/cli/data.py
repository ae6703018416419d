"""`raggym data`: list the data sets, show whether their files are available, and download them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Column

from raggym_env.cli._options import AsJson, TrustCard
from raggym_env.cli._output import say, say_json, show_fields, show_table
from raggym_env.data import catalogue
from raggym_env.data.catalogue import SplitStatus

__all__ = ["app"]

app = typer.Typer(help="List, download and describe data sets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name or path of an environment card, or a data set's folder.")]


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the splits of every shipped card and show whether their data is available."""
    _print([status for card in catalogue.shipped_cards() for status in catalogue.statuses(card)], as_json)


@app.command("get")
def get_command(name: Name, as_json: AsJson = False, trust_card: TrustCard = False) -> None:
    """Download what the hub has and prepare the corpora. Exits with 1 if a split stays unavailable."""
    statuses = catalogue.get(catalogue.named_card(name, trust=trust_card))
    _print(statuses, as_json)
    if any(status.problem for status in statuses):
        raise typer.Exit(1)


@app.command("info")
def info_command(name: Name, as_json: AsJson = False, trust_card: TrustCard = False) -> None:
    """Describe one data set: its licence, its splits with their sources and sizes, and an example question."""
    card = catalogue.named_card(name, trust=trust_card)
    statuses = catalogue.statuses(card)
    about = {"name": card.name, "title": card.title, "description": card.description, "licence": card.licence}
    if as_json:
        say_json({**about, "splits": [asdict(status) for status in statuses]})
        return
    show_fields(about)
    _print(statuses, as_json=False)
    if example := next((status.example for status in statuses if status.example), ""):
        show_fields({"example": example})


def _print(statuses: Sequence[SplitStatus], as_json: bool) -> None:
    if as_json:
        say_json([asdict(status) for status in statuses])
        return
    rows = []
    for status in statuses:
        # "-" rather than 0: the size is unknown as long as the split cannot be read.
        questions = "-" if status.questions is None else f"{status.questions:,}"
        passages = "-" if status.passages is None else f"{status.passages:,}"
        rows.append((status.card, status.split, questions, passages, status.source or "not found"))
    show_table(["card", "split", "questions", "passages", Column("read from", overflow="fold")], rows)
    for status in statuses:
        if status.problem:
            say(status.problem)  # not wrapped, so that paths and commands in it can be copied
