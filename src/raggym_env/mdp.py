"""An environment card made into its parts: tasks, process and reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raggym_env.cards import EnvCard, env_card, override
from raggym_env.core import Task
from raggym_env.process import Process
from raggym_env.retrieval.base import Retriever
from raggym_env.rewards import ProcessReward, StepReward
from raggym_env.rewards import make as make_reward

if TYPE_CHECKING:
    from raggym_env.data import Dataset

__all__ = ["MDP", "load_mdp"]

# What `gym.make` takes by short name, and where it stands in the card.
_SETTINGS = {
    "k": "retrieval.k",
    "max_searches": "episode.max_searches",
    "metric": "episode.metric",
    "outcome_weight": "reward.outcome_weight",
    "process_weight": "reward.process_weight",
}


@dataclass(frozen=True, slots=True)
class MDP:
    """What the environments, rollouts and evaluations of one card and split share."""

    card: EnvCard
    dataset: Dataset
    process: Process
    reward: StepReward

    @property
    def split(self) -> str:
        return self.dataset.split

    @property
    def tasks(self) -> Sequence[Task]:
        return self.dataset.tasks


def load_mdp(
    card: str | Path | EnvCard,
    split: str | None = None,
    *,
    retriever: str | Retriever | None = None,
    process_reward: str | ProcessReward | None = None,
    **settings: Any,
) -> MDP:
    """Load the data of a card, open or build its index, and make its reward.

    Args:
        card: Name, path or card of an environment.
        split: Split to take the tasks from; by default the card's `default_split`.
        retriever: Name of a retriever, or an object with its `search` method, instead of the card's.
        process_reward: Name of a process reward, or an object with its `score` method, instead of the card's.
        settings: `k`, `max_searches`, `metric`, `outcome_weight`, `process_weight`, instead of the card's.

    Raises:
        UnknownName: A card, split, retriever or reward of that name does not exist.
        CardError: The card, or a setting, does not fit the schema.
        DataNotFound: The data set is in none of the places looked at.
    """
    from raggym_env import data

    card = _with_settings(env_card(card), retriever, process_reward, settings)
    dataset = data.load(card, split)
    process = Process(
        _make_retriever(card, dataset) if retriever is None or isinstance(retriever, str) else retriever,
        card.retrieval.k,
        card.episode.max_searches,
    )
    if process_reward is None or isinstance(process_reward, str):
        process_reward = make_reward(card.reward.process, dataset.tasks, process, dataset.split)
    weights = {"outcome_weight": card.reward.outcome_weight, "process_weight": card.reward.process_weight}
    return MDP(card, dataset, process, StepReward(card.episode.metric, process_reward, **weights))


def _with_settings(
    card: EnvCard,
    retriever: str | Retriever | None,
    process_reward: str | ProcessReward | None,
    settings: dict[str, Any],
) -> EnvCard:
    if unknown := settings.keys() - _SETTINGS.keys():
        known = sorted([*_SETTINGS, "split", "retriever", "process_reward"])
        raise TypeError(f"{card.name} takes no setting {sorted(unknown)}; it takes {known}.")
    changes = {_SETTINGS[key]: value for key, value in settings.items()}
    if isinstance(retriever, str):
        changes["retrieval.name"] = retriever
    if isinstance(process_reward, str):
        changes["reward.process"] = process_reward
    return override(card, changes) if changes else card


def _make_retriever(card: EnvCard, dataset: Dataset) -> Retriever:
    from raggym_env import retrieval
    from raggym_env.retrieval.cache import CachedRetriever

    return CachedRetriever(retrieval.make(card.retrieval.name, dataset.corpus, **card.retrieval.options))
