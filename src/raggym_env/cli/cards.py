"""`raggym envs` and `raggym policies`: list the cards that ship with the library."""

from __future__ import annotations

from rich.table import Column

from raggym_env.cards import env_card, policy_card
from raggym_env.cli._options import AsJson
from raggym_env.cli._output import say_json, show_table
from raggym_env.storage.paths import card_names

__all__ = ["envs", "policies"]


def envs(as_json: AsJson = False) -> None:
    """List the environments that ship with the library."""
    cards = [env_card(name) for name in card_names("envs")]
    if as_json:
        say_json([card.model_dump(mode="json") for card in cards])
        return
    rows = []
    for card in cards:
        retrieval = f"{card.retrieval.name}, k={card.retrieval.k}"
        episode = card.episode
        splits = ", ".join(card.dataset.splits)
        rows.append((card.name, card.title, splits, retrieval, episode.max_searches, episode.metric))
    show_table([_name("Environment"), "Title", "Splits", "Retrieval", "Searches", "Metric"], rows)


def policies(as_json: AsJson = False) -> None:
    """List the policies that ship with the library."""
    cards = [policy_card(name) for name in card_names("policies")]
    if as_json:
        say_json([card.model_dump(mode="json") for card in cards])
        return
    show_table([_name("Policy"), "Description"], [(card.name, card.description) for card in cards])


def _name(header: str) -> Column:
    return Column(header, no_wrap=True)  # a shortened name could not be copied
