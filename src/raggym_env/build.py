"""An environment card made into its parts: tasks, process and reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raggym_env.cards import EnvCard, env_card, override
from raggym_env.core import Task
from raggym_env.errors import CardError
from raggym_env.mdp.dynamics import Process
from raggym_env.protocols import Retriever
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
        CardError: The card or a setting does not fit the schema, or the metric does not fit the questions.
        DataNotFound: The data set is in none of the places looked at.
    """
    from raggym_env import data

    card = _with_settings(env_card(card), retriever, process_reward, settings)
    _check_objects(retriever, process_reward)
    dataset = data.load(card, split)
    _check_metric(card, dataset.tasks)
    process = Process(
        _make_retriever(card, dataset) if retriever is None or isinstance(retriever, str) else retriever,
        card.retrieval.k,
        card.episode.max_searches,
    )
    if process_reward is None or isinstance(process_reward, str):
        process_reward = make_reward(card.reward.process, dataset.tasks, process, dataset.split, **card.reward.options)
    weights = {"outcome_weight": card.reward.outcome_weight, "process_weight": card.reward.process_weight}
    return MDP(card, dataset, process, StepReward(card.episode.metric, process_reward, **weights))


def _check_objects(retriever: object, process_reward: object) -> None:
    """Say at once what would fail at the first step."""
    if not isinstance(retriever, str | Retriever | None):
        raise TypeError(f"retriever must be a name or have a search method, got {retriever!r:.100}.")
    if not isinstance(process_reward, str | ProcessReward | None):
        raise TypeError(f"process_reward must be a name or have a score method, got {process_reward!r:.100}.")


def _check_metric(card: EnvCard, tasks: Sequence[Task]) -> None:
    metric = card.episode.metric
    with_options = sum(bool(task.question.options) for task in tasks)
    if with_options not in (0, len(tasks)):
        raise CardError(
            f"{card.name}: {with_options} of {len(tasks)} questions have options. Make two environments of them: one "
            "metric cannot score both."
        )
    if bool(with_options) != (metric == "accuracy"):
        needed = '"accuracy"' if with_options else '"em", "f1" or "cover_em"'
        raise CardError(
            f"{card.name}: metric {metric!r} does not fit questions {'with' if with_options else 'without'} options. "
            f"Set metric = {needed} in [episode]."
        )


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
