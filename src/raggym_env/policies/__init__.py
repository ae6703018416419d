"""Policies propose actions in states. None but the teacher `gold`, for training splits, sees a gold answer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raggym_env import rewards
from raggym_env.cards import PolicyCard, override, policy_card
from raggym_env.core import Task
from raggym_env.errors import CardError, OptionError, PolicyError, check_option
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.policies.best_of import BestOf
from raggym_env.policies.tree import Tree
from raggym_env.policies.vote import Vote
from raggym_env.protocols import BasePolicy, Policy, ProcessReward, Proposal
from raggym_env.registry import POLICIES, Factory

__all__ = ["POLICIES", "BasePolicy", "Policy", "Proposal", "check_split", "make"]


def make(
    policy: str | Path | PolicyCard | Factory,
    *,
    seed: int | None = None,
    best_of: int | None = None,
    vote: int | None = None,
    tree: Mapping[str, int] | None = None,
    critic: str | type[Any] | ProcessReward | None = None,
    dynamics: Dynamics | None = None,
    tasks: Sequence[Task] = (),
    split: str | None = None,
    trust: bool = False,
    **options: Any,
) -> Policy:
    """Build a policy from a card: `make("lexical", seed=1)`, `make("lexical", best_of=8, critic=my_critic)`.

    Args:
        policy: A shipped card's name, the path of a card, a card, "module:Class", or a class.
        seed: Seed of the policy's sampling; None leaves it to the card. Ignored by a policy without a seed.
        best_of: Number of candidates to sample, of which the critic chooses one; see `BestOf`.
        vote: Number of candidates to sample, which vote; see `Vote`.
        tree: Options `width`, `depth` and `n` of a look-ahead; see `Tree`. Needs the `dynamics` too.
        critic: A process reward, or the name or class of one that needs no gold facts.
        dynamics: The dynamics of the environment, for `tree`.
        tasks: The tasks in whose states it will act. Given to a class whose constructor takes `tasks`, which reads gold
            answers or facts and is for training splits only.
        split: The split that the tasks are from.
        trust: Whether a card at a path may use the user's authority; see `raggym_env.cards`.
        **options: Keyword arguments of the policy's class. They override the card's `options`.

    Raises:
        UnknownName: No card or class has that name.
        CardError: The card cannot be read, or uses authority and is not trusted.
        OptionError: An option is unknown, missing or out of range.
        RewardError: The critic named needs gold facts.
        PolicyError: The policy reads gold, and the split is not for training or there are no tasks.
    """
    factory: str | Factory
    if isinstance(policy, str | Path | PolicyCard):
        card = policy_card(policy, trust=trust)
        factory = card.policy
    else:
        # A class has no card; an empty one holds the settings of the search at inference.
        name = getattr(policy, "__name__", type(policy).__name__)  # a functools.partial has none
        card = PolicyCard(name=name, path=Path(), policy=name)
        factory = policy
    # A card can hold a critic's name, but not the object.
    search = {"best_of": best_of, "vote": vote, "tree": tree, "critic": critic if isinstance(critic, str) else None}
    changes = {f"search.{name}": value for name, value in search.items() if value is not None}
    card = override(card, changes) if changes else card
    if _reads_gold(factory):
        check_split(factory, split)
        options = {**options, "tasks": _checked(factory, card, tasks)}
    options = {**card.options, **options}
    # Not every policy samples: a script takes no seed.
    if seed is not None and "seed" in inspect.signature(POLICIES.resolve(factory)).parameters:
        options["seed"] = seed
    try:
        inner: Policy = POLICIES.make(factory, **options)
    except OptionError as error:
        raise OptionError(f"Policy card {card.name!r}: {error}") from error
    return _with_search(inner, card, critic if critic is not None else card.search.critic, dynamics)


def check_split(policy: str | Factory, split: str | None) -> None:
    """Check that a policy may act on a split: one that reads gold answers or facts only on those for training.

    Args:
        policy: A key of `POLICIES`, "module:Class", or a class.
        split: Name of the split; None if there is none.

    Raises:
        UnknownName: No policy has that name.
        PolicyError: It reads gold and the split is not named train...
    """
    if _reads_gold(policy) and not (split or "").startswith("train"):
        raise PolicyError(
            f"The policy {policy!r} reads gold answers or facts, so it is for splits named train... only, not for "
            f'{split!r}. Use split="train" (--split train), or another policy.'
        )


def _reads_gold(policy: str | Factory) -> bool:
    return "tasks" in inspect.signature(POLICIES.resolve(policy)).parameters


def _checked(policy: str | Factory, card: PolicyCard, tasks: Sequence[Task]) -> Sequence[Task]:
    if "tasks" in card.options:
        raise OptionError(f"Policy card {card.name!r}: the tasks are those of the environment, not an option.")
    if not tasks:
        raise PolicyError(
            f"The policy {policy!r} needs the tasks of an environment: policies.make(..., tasks=mdp.tasks, "
            "split=mdp.split) with `raggym_env.build.load_mdp`."
        )
    return tasks


def check_search(card: PolicyCard, critic: object) -> None:
    """Raise `CardError` if a critic has nothing to choose from, or candidates have no critic."""
    search = card.search
    if search.vote is not None:
        return
    names = [name for name in ("best_of", "tree") if getattr(search, name) is not None]
    if critic is not None and not names:
        raise CardError(
            f"Policy {card.name!r}: a critic chooses among candidates: add best_of = 8 (--best-of 8) or a tree "
            "(--tree 3x2), or leave out the critic."
        )
    if names and critic == "none":
        raise CardError(f"Policy {card.name!r}: the process reward 'none' cannot choose. Name another critic.")
    if names and critic is None:
        raise CardError(
            f"Policy {card.name!r}: {names[0]} needs a critic that chooses: add one, such as --critic mini."
        )


def _with_search(
    policy: Policy, card: PolicyCard, critic: str | type[Any] | ProcessReward | None, dynamics: Dynamics | None
) -> Policy:
    """Return the policy wrapped in the card's search at inference, if it has one."""
    search = card.search
    check_search(card, critic)
    if search.vote is not None:
        return Vote(policy, search.vote)
    if search.best_of is None and search.tree is None:
        return policy
    if isinstance(critic, str | type):
        # Without tasks: a critic that a policy acts on must not read gold answers.
        critic = rewards.make(critic, (), dynamics, "train", **search.critic_options)
    assert critic is not None  # noqa: S101  # `check_search` has refused no critic, and the one called "none"
    check_option("critic", critic, isinstance(critic, ProcessReward), "a name, a class or have a score method")
    if search.tree is None:
        return BestOf(policy, critic, search.best_of or 1)
    if dynamics is None:
        raise CardError(f"Policy {card.name!r}: tree needs the environment's dynamics to look ahead.")
    return Tree(policy, critic, dynamics, **search.tree.model_dump())
