"""Policies: from states to proposed actions. They never see a gold answer."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raggym_env.errors import CardError, UnknownName
from raggym_env.policies.base import BasePolicy, Policy, Proposal

if TYPE_CHECKING:
    from raggym_env.cards import PolicyCard

__all__ = ["POLICIES", "BasePolicy", "Policy", "Proposal", "make"]

POLICIES: dict[str, str | Callable[..., Policy]] = {
    "lexical": "raggym_env.policies.lexical:LexicalPolicy",
    "random": "raggym_env.policies.random:RandomPolicy",
    "scripted": "raggym_env.policies.scripted:ScriptedPolicy",
    "single_search": "raggym_env.policies.single_search:SingleSearchPolicy",
}
"""Name -> class, or where to import it from ("module:Class"). A card's `policy` is one of these names; add
your own class here to use it from a card."""


def make(policy: str | Path | PolicyCard, *, seed: int | None = None, **options: Any) -> Policy:
    """Build a policy from a card: `make("lexical", seed=1)`.

    Args:
        policy: A shipped card's name, the path of a card, or a card.
        seed: Seed of what the policy draws; None leaves it to the card. A policy that draws nothing takes none.
        **options: Keyword arguments of the card's class. They go over the card's own `options`.

    Raises:
        UnknownName: No card has that name, or its `policy` is in no `POLICIES`.
        CardError: The card cannot be read, or an option is unknown, missing or out of range.
    """
    from raggym_env.cards import policy_card

    card = policy_card(policy)
    merged = {**card.options, **options}
    build = _class(card.policy)
    if seed is not None and "seed" in inspect.signature(build).parameters:
        merged["seed"] = seed
    _check_options(card.name, build, merged)
    try:
        return build(**merged)
    except ValueError as error:
        raise CardError(f"Policy {card.name!r}: {error}") from error


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
