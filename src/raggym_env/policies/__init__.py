"""Policies: from states to proposed actions. They never see a gold answer."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raggym_env.errors import CardError, UnknownName
from raggym_env.protocols import BasePolicy, Policy, Proposal

if TYPE_CHECKING:
    from raggym_env.cards import PolicyCard
    from raggym_env.mdp.dynamics import Process
    from raggym_env.protocols import ProcessReward

__all__ = ["POLICIES", "BasePolicy", "Policy", "Proposal", "make"]

POLICIES: dict[str, str | Callable[..., Policy]] = {
    "lexical": "raggym_env.policies.lexical:LexicalPolicy",
    "prompt": "raggym_env.policies.prompt:PromptAgent",
    "random": "raggym_env.policies.random:RandomPolicy",
    "scripted": "raggym_env.policies.scripted:ScriptedPolicy",
    "single_search": "raggym_env.policies.single_search:SingleSearchPolicy",
}
"""Name -> class, or where to import it from ("module:Class"). A card's `policy` is one of these names; add
your own class here to use it from a card."""


def make(
    policy: str | Path | PolicyCard,
    *,
    seed: int | None = None,
    best_of: int | None = None,
    vote: int | None = None,
    tree: Mapping[str, int] | None = None,
    critic: str | ProcessReward | None = None,
    process: Process | None = None,
    **options: Any,
) -> Policy:
    """Build a policy from a card: `make("lexical", seed=1)`, `make("lexical", best_of=8, critic=my_critic)`.

    Args:
        policy: A shipped card's name, the path of a card, or a card.
        seed: Seed of what the policy draws; None leaves it to the card. A policy that draws nothing takes none.
        best_of: Sample so many candidates and let the critic choose; see `BestOf`.
        vote: Sample so many and let them vote; see `Vote`.
        tree: Look ahead with `width`, `depth` and `n`; see `Tree`. Needs the `process` too.
        critic: A process reward, or the name of one that needs no gold facts.
        process: The environment's process, for `tree`.
        **options: Keyword arguments of the card's class. They go over the card's own `options`.

    Raises:
        UnknownName: No card has that name, or its `policy` is in no `POLICIES`.
        CardError: The card cannot be read, or an option is unknown, missing or out of range.
        RewardError: The critic named needs gold facts.
    """
    from raggym_env.cards import override, policy_card

    card = policy_card(policy)
    given = {"best_of": best_of, "vote": vote, "tree": tree, "critic": critic if isinstance(critic, str) else None}
    changes = {f"search.{name}": value for name, value in given.items() if value is not None}
    card = override(card, changes) if changes else card
    inner = _build(card, seed, options)
    return _searching(inner, card, critic if critic is not None else card.search.critic, process)


def _build(card: PolicyCard, seed: int | None, options: Mapping[str, Any]) -> Policy:
    merged = {**card.options, **options}
    build = _class(card.policy)
    if seed is not None and "seed" in inspect.signature(build).parameters:
        merged["seed"] = seed
    _check_options(card.name, build, merged)
    try:
        return build(**merged)
    except ValueError as error:
        raise CardError(f"Policy {card.name!r}: {error}") from error


def _searching(policy: Policy, card: PolicyCard, critic: str | ProcessReward | None, process: Process | None) -> Policy:
    """The policy with the card's search at inference around it."""
    way = card.search
    if way.vote is not None:
        from raggym_env.policies.vote import Vote

        return Vote(policy, way.vote)
    if way.best_of is None and way.tree is None:
        if critic is not None:
            raise CardError(f"Policy {card.name!r}: a critic needs best_of or tree to choose with.")
        return policy
    if critic is None:
        raise CardError(f"Policy {card.name!r}: best_of and tree need a critic to choose with.")
    if isinstance(critic, str):
        from raggym_env import rewards

        made = rewards.make(critic, (), process, "train", **way.critic_options)
        if made is None:
            raise CardError(f"Policy {card.name!r}: the process reward {critic!r} cannot choose.")
        critic = made
    if way.tree is None:
        from raggym_env.policies.best_of import BestOf

        return BestOf(policy, critic, way.best_of or 1)
    if process is None:
        raise CardError(f"Policy {card.name!r}: tree needs the environment's process to look ahead.")
    from raggym_env.policies.tree import Tree

    return Tree(policy, critic, process, **way.tree.model_dump())


def _class(name: str) -> Callable[..., Policy]:
    if name not in POLICIES:
        raise UnknownName("policy", name, POLICIES)
    entry = POLICIES[name]
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    found: Callable[..., Policy] = getattr(importlib.import_module(module), attribute)
    return found


def _check_options(name: str, build: Callable[..., Policy], options: Mapping[str, Any]) -> None:
    signature = inspect.signature(build)
    try:
        signature.bind(**options)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "none"
        raise CardError(f"Policy {name!r}: {error}. Given: {dict(options)!r:.200}. Options: {known}.") from error
