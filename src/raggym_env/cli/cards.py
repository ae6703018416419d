"""`raggym envs` and `raggym policies`: list the cards that ship with the library."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.table import Column, Table

from raggym_env.cards import env_card, policy_card
from raggym_env.cli._options import AsJson
from raggym_env.storage.paths import card_names

__all__ = ["envs", "policies"]


def envs(as_json: AsJson = False) -> None:
    """List the environments that ship with the library."""
    cards = [env_card(name) for name in card_names("envs")]
    if as_json:
        typer.echo(json.dumps([card.model_dump(mode="json") for card in cards], indent=2))
        return
    table = _table("Environment", "Title", "Splits", "Retrieval", "Searches", "Metric")
    for card in cards:
        retrieval = f"{card.retrieval.name}, k={card.retrieval.k}"
        episode = card.episode
        splits = ", ".join(card.dataset.splits)
        table.add_row(card.name, card.title, splits, retrieval, str(episode.max_searches), episode.metric)
    Console().print(table)


def policies(as_json: AsJson = False) -> None:
    """List the policies that ship with the library."""
    cards = [policy_card(name) for name in card_names("policies")]
    if as_json:
        typer.echo(json.dumps([card.model_dump(mode="json") for card in cards], indent=2))
        return
    table = _table("Policy", "Description")
    for card in cards:
        table.add_row(card.name, card.description)
    Console().print(table)


def _table(name: str, *columns: str) -> Table:
    return Table(Column(name, no_wrap=True), *columns)  # a shortened name could not be copied
