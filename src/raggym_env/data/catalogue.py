"""What there is: for each card and split whether its data is here, where, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raggym_env.cards import EnvCard, env_card
from raggym_env.data.dataset import Found, find
from raggym_env.data.prepare import prepared_corpus
from raggym_env.errors import RAGGymError, UnknownName
from raggym_env.storage.paths import card_names

__all__ = ["SplitStatus", "get", "named_card", "shipped_cards", "statuses"]


@dataclass(frozen=True)
class SplitStatus:
    """One split of one card."""

    card: str
    split: str
    source: str = ""
    """What is read: the questions, the rows of them and the corpus; empty where nothing is here."""
    questions: int | None = None
    passages: int | None = None
    """Size of the corpus, or None while it is not prepared."""
    example: str = ""
    """The first question."""
    fingerprint: str = ""
    problem: str = ""
    """Why the split cannot be read; empty where it can."""


def shipped_cards() -> list[EnvCard]:
    """The environment cards that ship with the library, by name."""
    return [env_card(name) for name in card_names("envs")]


def named_card(name: str) -> EnvCard:
    """A card by its name, its path or its data set's folder.

    Raises:
        UnknownName: Nothing has that name.
        CardError: The card cannot be read.
    """
    cards = {card.dataset.folder or card.dataset.format: card for card in shipped_cards()}
    if name in cards:
        return cards[name]
    if Path(name).suffix == ".toml" or name in card_names("envs"):
        return env_card(name)
    raise UnknownName("data set or environment card", name, [*cards, *card_names("envs")])


def statuses(card: EnvCard) -> list[SplitStatus]:
    """The card's splits as they are now. Reads question files; downloads and prepares nothing."""
    return [_status(card, split, prepare=False) for split in card.dataset.splits]


def get(card: EnvCard) -> list[SplitStatus]:
    """Make every split ready: download what the hub has, prepare corpora. What fails is a `problem`."""
    return [_status(card, split, prepare=True) for split in card.dataset.splits]


def _status(card: EnvCard, split: str, *, prepare: bool) -> SplitStatus:
    try:
        found = find(card, split, use_hub=prepare)
        passages = _passages(found, prepare)
    except RAGGymError as error:
        return SplitStatus(card.name, split, problem=str(error))
    tasks = found.task_set
    return SplitStatus(
        card.name,
        split,
        tasks.source,
        len(tasks.tasks),
        passages,
        tasks.tasks[0].question.text,
        tasks.fingerprint,
    )


def _passages(found: Found, prepare: bool) -> int | None:
    corpus = found.prepare() if prepare else prepared_corpus(found.corpus_source())
    if corpus is None:
        return None
    with corpus:
        return len(corpus)
