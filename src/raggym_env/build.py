"""Makes cards into what they describe: data set, retriever, dynamics, rewards and policy."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raggym_env import data, llm, policies, retrieval, rewards
from raggym_env.cards import EnvCard, PolicyCard, env_card, override
from raggym_env.core import Task
from raggym_env.data.dataset import split_name
from raggym_env.errors import CardError, OptionError, check_option
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.step_reward import StepReward
from raggym_env.policies.prompt.agent import note_options
from raggym_env.protocols import Policy, ProcessReward, Retriever
from raggym_env.registry import POLICIES, PROCESS_REWARDS, RETRIEVERS, Factory, Registry
from raggym_env.retrieval.cache import CachedRetriever

if TYPE_CHECKING:
    from raggym_env.data import Dataset

__all__ = ["MDP", "check_env", "check_policy", "check_reward", "load_mdp", "make_policy", "make_process_reward"]

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
    check_env(card, split, retriever, process_reward)
    dataset = data.load(card, split)
    _check_metric(card, dataset.tasks)
    episode = card.episode
    limits = (card.retrieval.k, episode.max_searches, episode.answer_with_last_draft)
    dynamics = Dynamics(_make_retriever(card, retriever, dataset), *limits)
    if process_reward is None or isinstance(process_reward, str):
        name, options = card.reward.process_reward, card.reward.options
        process_reward = make_process_reward(name, dataset, dynamics, options, card.trusted)
    elif isinstance(process_reward, type):
        process_reward = make_process_reward(process_reward, dataset, dynamics, {})
    weights = {"outcome_weight": card.reward.outcome_weight, "process_weight": card.reward.process_weight}
    return MDP(card, dataset, dynamics, StepReward(card.episode.metric, process_reward, **weights))


def make_process_reward(
    process_reward: str | Factory, dataset: Dataset, dynamics: Dynamics, options: Mapping[str, Any], trust: bool = False
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
            context: dict[str, Any] = {"dynamics": dynamics, "tasks": dataset.tasks, "split": dataset.split}
            valid = isinstance(policy_options, Mapping) and not policy_options.keys() & {"policy", *context}
            check_option("policy_options", policy_options, valid, "a table of options of `policy`")
            options["policy"] = policies.make(policy, **context, **{"trust": trust, **policy_options})
    # An option of the same name is the user's own.
    read = {"corpus": dataset.corpus, **options}
    return rewards.make(process_reward, dataset.tasks, dynamics, dataset.split, **read)


def make_policy(card: PolicyCard, mdp: MDP, seed: int) -> Policy:
    """Make a card's policy for an environment, whose tasks and dynamics its critic may use."""
    search = card.search
    critic = search.critic and make_process_reward(
        search.critic, mdp.dataset, mdp.dynamics, search.critic_options, card.trusted
    )
    return policies.make(card, seed=seed, critic=critic, dynamics=mdp.dynamics, tasks=mdp.tasks, split=mdp.split)


def check_env(card: EnvCard, split: str | None, retriever: object = None, process_reward: object = None) -> None:
    """Raise what `load_mdp` would raise about the card, as far as that needs no data. Arguments are those of it.

    Raises:
        TypeError: A plug-in is not None, a name, a class or an object with the right method.
        UnknownName: The card has no such split, or names an unknown plug-in.
        OptionError: An option of a plug-in that the card names is unknown, missing or of the wrong type.
        RewardError: The card's process reward reads gold, and the split is not for training.
    """
    split = split_name(card, split)
    if not isinstance(retriever, str | type | Retriever | None):
        raise TypeError(f"retriever must be a name, a class or have a search method, got {retriever!r:.100}.")
    if not isinstance(process_reward, str | type | ProcessReward | None):
        raise TypeError(f"process_reward must be a name, a class or have a score method, got {process_reward!r:.100}.")
    if isinstance(retriever, str | None):
        RETRIEVERS.check(card.retrieval.name, (), **card.retrieval.options)
    if isinstance(process_reward, str | None):
        check_reward(card.reward.process_reward, split, card.reward.options)


def check_policy(card: PolicyCard, split: str, *, here: bool = True) -> None:
    """Raise what `make_policy` would raise, as far as that needs no data and loads no model.

    Args:
        card: The policy's card.
        split: The split on which the policy will act.
        here: The policy will be made on this machine, so its models or their servers' keys must be here.

    Raises:
        UnknownName: A plug-in or model is unknown.
        OptionError, CardError: An option is unknown, missing or out of range, or the options do not fit together.
        LLMError: A model cannot be had.
        PolicyError, RewardError: The policy or its critic reads gold, and the split is not for training.
    """
    policies.check_search(card, card.search.critic)
    if card.policy == "prompt" and not card.options.get("llm"):
        raise OptionError(
            f"The policy {card.name!r} needs a language model: add --llm hf:smollm2, a small one that "
            "`raggym models get smollm2` gets, or --llm openai:MODEL@URL. In Python: "
            'settings={"policy.options.llm": "hf:smollm2"}.'
        )
    policies.check_split(card.policy, split)
    try:
        _check_plugin(POLICIES, card.policy, card.options, here)
    except OptionError as error:
        raise OptionError(f"Policy card {card.name!r}: {error}") from error
    if card.search.critic is not None:
        check_reward(card.search.critic, split, card.search.critic_options, here=here)


def check_reward(name: str, split: str, options: Mapping[str, Any], *, here: bool = True) -> None:
    """Raise what `make_process_reward` would raise, as `check_policy` does for policies."""
    if name == "none":
        return
    rewards.check_split(name, split)
    # The name of a policy is made into one.
    options = {key: value for key, value in options.items() if key not in ("policy", "policy_options")}
    _check_plugin(PROCESS_REWARDS, name, options, here)


class _StandIn:
    """Takes the place of a model or of dynamics where only options are checked."""

    def generate(self, *arguments: Any) -> Any:
        raise NotImplementedError

    propose = act = loglikelihood = generate


# What an environment gives to a plug-in that takes it.
_CONTEXT: dict[str, Any] = {"tasks": (), "dynamics": _StandIn(), "corpus": (), "policy": _StandIn()}


def _check_plugin(registry: Registry, name: str, options: Mapping[str, Any], here: bool) -> None:
    factory = registry.resolve(name)
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some built-in classes have none
        return
    context = {key: value for key, value in _CONTEXT.items() if key in parameters and key not in options}
    registry.check(name, **context, **options)
    llm_options = options.get("llm_options") or {}
    models = {key: options[key] for key in ("llm", "note_llm") if key in parameters and options.get(key)}
    for key, model in models.items():
        if isinstance(model, str):
            is_table = isinstance(llm_options, Mapping)
            check_option("llm_options", llm_options, is_table, "a table of options of the model")
            own = llm_options if key == "llm" else note_options(options.get("llm"), llm_options, model)
            llm.check(model, here=here, **own)
            options = {**options, key: _StandIn()}
    # The library's own are made from options alone in no time, where they load no model themselves; and their
    # constructors check more than types.
    if not context and name not in _LOADS and str(getattr(factory, "__module__", "")).startswith("raggym_env."):
        registry.make(name, **options)


# Names of plug-ins whose constructors load a model.
_LOADS = ("model", "released")


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
