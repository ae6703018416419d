"""Makes cards into what they describe: data set, retriever, dynamics, rewards and policy."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raggym_env import data, policies, retrieval, rewards
from raggym_env.cards import EnvCard, PolicyCard, env_card, override
from raggym_env.core import Task
from raggym_env.errors import CardError, check_option
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.step_reward import StepReward
from raggym_env.protocols import Policy, ProcessReward, Retriever
from raggym_env.registry import PROCESS_REWARDS, RETRIEVERS, Factory
from raggym_env.retrieval.cache import CachedRetriever

if TYPE_CHECKING:
    from raggym_env.data import Dataset

__all__ = ["MDP", "load_mdp", "make_policy", "make_process_reward"]

# The settings of `gym.make`, and their keys in the card.
_SETTINGS = {
    "k": "retrieval.k",
    "max_searches": "episode.max_searches",
    "metric": "episode.metric",
    "outcome_weight": "reward.outcome_weight",
    "process_weight": "reward.process_weight",
}


@dataclass(frozen=True, slots=True)
class MDP:
    """The decision process of one card and split, shared by its environments, rollouts and evaluations."""

    card: EnvCard
    dataset: Dataset
    dynamics: Dynamics
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
    retriever: str | type[Any] | Retriever | None = None,
    process_reward: str | type[Any] | ProcessReward | None = None,
    trust: bool = False,
    **settings: Any,
) -> MDP:
    """Load the data of a card, open or build its index, and make its reward.

    Args:
        card: Name, path or card of an environment.
        split: Split to take the tasks from; by default the card's `default_split`.
        retriever: Instead of the card's: a name, "module:Class", a class, or an object with a `search` method.
        process_reward: Instead of the card's: a name, "module:Class", a class, or an object with a `score` method.
        trust: Whether a card at a path may use the user's authority; see `raggym_env.cards`.
        settings: `k`, `max_searches`, `metric`, `outcome_weight`, `process_weight`, instead of the card's.

    Raises:
        UnknownName: A card, split, retriever or reward of that name does not exist.
        CardError: The card or a setting does not fit the schema, or the metric does not fit the questions.
        OptionError: An option of the retriever or reward is unknown, missing or out of range.
        DataNotFound: The data set is in none of the places looked at.
    """
    # The user's settings go into the card, so that whatever records the card records them too.
    card = _with_settings(env_card(card, trust=trust), retriever, process_reward, settings)
    # Before the data is loaded, which may take minutes where an index has to be built.
    _check_plugins(card, retriever, process_reward)
    dataset = data.load(card, split)
    _check_metric(card, dataset.tasks)
    dynamics = Dynamics(_make_retriever(card, retriever, dataset), card.retrieval.k, card.episode.max_searches)
    if process_reward is None or isinstance(process_reward, str):
        name, options = card.reward.process_reward, card.reward.options
        process_reward = make_process_reward(name, dataset.tasks, dynamics, dataset.split, options, card.trusted)
    elif isinstance(process_reward, type):
        process_reward = make_process_reward(process_reward, dataset.tasks, dynamics, dataset.split, {})
    weights = {"outcome_weight": card.reward.outcome_weight, "process_weight": card.reward.process_weight}
    return MDP(card, dataset, dynamics, StepReward(card.episode.metric, process_reward, **weights))


def make_process_reward(
    process_reward: str | Factory,
    tasks: Sequence[Task],
    dynamics: Dynamics,
    split: str,
    options: Mapping[str, Any],
    trust: bool = False,
) -> ProcessReward | None:
    """Make a process reward as `rewards.make` does, with the policy that its options name.

    A reward whose constructor takes a `policy`, such as "rollout", may be given a card's name or path, with
    `policy_options` for `policies.make`; without a `policy` it gets "lexical". `trust` is for that card.
    """
    # A copy: `policy_options` is taken out, and the card must stay as it is.
    options = dict(options)
    if process_reward != "none" and "policy" in inspect.signature(PROCESS_REWARDS.resolve(process_reward)).parameters:
        policy = options.get("policy", "lexical")
        if isinstance(policy, str | Path):
            policy_options = options.pop("policy_options", {})
            context: dict[str, Any] = {"dynamics": dynamics, "tasks": tasks, "split": split}
            valid = isinstance(policy_options, Mapping) and not policy_options.keys() & {"policy", *context}
            check_option("policy_options", policy_options, valid, "a table of options of `policy`")
            options["policy"] = policies.make(policy, **context, **{"trust": trust, **policy_options})
    return rewards.make(process_reward, tasks, dynamics, split, **options)


def make_policy(card: PolicyCard, mdp: MDP, seed: int) -> Policy:
    """Make a card's policy for an environment, whose tasks and dynamics its critic may use."""
    search = card.search
    critic = search.critic and make_process_reward(
        search.critic, mdp.tasks, mdp.dynamics, mdp.split, search.critic_options, card.trusted
    )
    return policies.make(card, seed=seed, critic=critic, dynamics=mdp.dynamics, tasks=mdp.tasks, split=mdp.split)


def _check_plugins(card: EnvCard, retriever: object, process_reward: object) -> None:
    """Check the types of the plug-ins, and of the card's options for those that the card names.

    Raises:
        TypeError: A plug-in is not None, a name, a class or an object with the right method.
        UnknownName, OptionError: The card names an unknown one, or an option is of the wrong type.
    """
    if not isinstance(retriever, str | type | Retriever | None):
        raise TypeError(f"retriever must be a name, a class or have a search method, got {retriever!r:.100}.")
    if not isinstance(process_reward, str | type | ProcessReward | None):
        raise TypeError(f"process_reward must be a name, a class or have a score method, got {process_reward!r:.100}.")
    if isinstance(retriever, str | None):
        RETRIEVERS.check_types(card.retrieval.name, card.retrieval.options)
    if isinstance(process_reward, str | None) and card.reward.process_reward != "none":
        # The name of a policy is made into one.
        options = {name: value for name, value in card.reward.options.items() if name != "policy"}
        PROCESS_REWARDS.check_types(card.reward.process_reward, options)


def _check_metric(card: EnvCard, tasks: Sequence[Task]) -> None:
    metric = card.episode.metric
    with_options = sum(bool(task.question.options) for task in tasks)
    # Accuracy needs options, and EM and F1 of an option's text would be something else than accuracy.
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


def _with_settings(card: EnvCard, retriever: object, process_reward: object, settings: dict[str, Any]) -> EnvCard:
    if unknown := settings.keys() - _SETTINGS.keys():
        names = sorted([*_SETTINGS, "split", "retriever", "process_reward", "trust"])
        raise TypeError(f"{card.name} has no setting {sorted(unknown)}. Its settings: {', '.join(names)}.")
    changes = {_SETTINGS[key]: value for key, value in settings.items()}
    if isinstance(retriever, str):
        changes["retrieval.name"] = retriever
    if isinstance(process_reward, str):
        changes["reward.process_reward"] = process_reward
    return override(card, changes) if changes else card


def _make_retriever(card: EnvCard, retriever: str | type[Any] | Retriever | None, dataset: Dataset) -> Retriever:
    # The card's options are those of the card's own retriever.
    if isinstance(retriever, type):
        return CachedRetriever(retrieval.make(retriever, dataset.corpus))
    if retriever is None or isinstance(retriever, str):
        return CachedRetriever(retrieval.make(card.retrieval.name, dataset.corpus, **card.retrieval.options))
    return retriever
