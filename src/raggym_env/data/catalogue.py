"""Status of the data sets: for each card and split, whether its files are available, where, and their size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raggym_env.cards import EnvCard, env_card
from raggym_env.data.dataset import Dataset, resolve_split
from raggym_env.data.hub import HubName
from raggym_env.data.prepare import prepared_corpus
from raggym_env.data.sources import locate
from raggym_env.data.titles import missing_titles
from raggym_env.errors import DataNotFound, RAGGymError, UnknownName
from raggym_env.storage.paths import card_names

__all__ = ["SplitStatus", "get", "has_data", "named_card", "shipped_cards", "statuses"]


@dataclass(frozen=True)
class SplitStatus:
    """Status of one split of one card."""

    card: str
    split: str
    source: str = ""
    """Questions file, rows and corpus that the split is read from; empty if no source is complete."""
    questions: int | None = None
    passages: int | None = None
    """Size of the corpus; None if it is not prepared yet."""
    example: str = ""
    """The text of the first question."""
    fingerprint: str = ""
    """Hash of the split's tasks; see `raggym_env.data.tasks_fingerprint`."""
    problem: str = ""
    """Why the split cannot be read; empty if it can."""
    warning: str = ""
    """What is wrong with it although it can be read; found where the corpus is prepared."""


def shipped_cards() -> list[EnvCard]:
    """Return the environment cards that ship with the library, sorted by name."""
    return [env_card(name) for name in card_names("envs")]


def named_card(name: str, *, trust: bool = False) -> EnvCard:
    """Return a card by its name, its path or its data set's folder. `trust` is as for `env_card`.

    Raises:
        UnknownName: No card has that name, and no shipped card that folder.
        CardError: The card cannot be read, or uses authority and is not trusted.
    """
    # Several cards share a folder. The last by name wins, which is the plain one: "-Wiki-v0" sorts before "-v0".
    cards = {card.dataset.folder or card.dataset.format: card for card in shipped_cards()}
    if name in cards:
        return cards[name]
    if Path(name).suffix == ".toml" or name in card_names("envs"):
        return env_card(name, trust=trust)
    raise UnknownName("data set or environment card", name, [*cards, *card_names("envs")])


def statuses(card: EnvCard) -> list[SplitStatus]:
    """Return the present status of the card's splits. Reads question files; downloads and prepares nothing."""
    return [_status(card, split, prepare=False) for split in card.dataset.splits]


def has_data(card: EnvCard) -> bool:
    """True if the files of the card's default split are on this machine. Reads none of them."""
    for source in card.dataset.sources_of(card.dataset.default_split):
        try:
            if card.dataset.format == "synth" or not isinstance(locate(card, source, use_hub=False).corpus, HubName):
                return True
        except DataNotFound:
            continue
    return False


def get(card: EnvCard) -> list[SplitStatus]:
    """Download what the hub has and prepare the corpora. A split for which that fails has a `problem`."""
    return [_status(card, split, prepare=True) for split in card.dataset.splits]


def _status(card: EnvCard, split: str, *, prepare: bool) -> SplitStatus:
    # One split's failure must not hide the others, so it becomes text here.
    try:
        resolved = resolve_split(card, split, use_hub=prepare)
        corpus = resolved.prepare() if prepare else prepared_corpus(resolved.corpus_source())
    except RAGGymError as error:
        return SplitStatus(card.name, split, problem=str(error))
    tasks, passages, warning = resolved.task_set, None, ""
    if corpus is not None:
        with corpus:
            passages = len(corpus)
            warning = missing_titles(Dataset(**vars(tasks), corpus=corpus)) if prepare else ""
    size, example = len(tasks.tasks), tasks.tasks[0].question.text
    return SplitStatus(
        card.name, split, tasks.source, size, passages, example, fingerprint=tasks.fingerprint, warning=warning
    )
