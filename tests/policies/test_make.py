"""Policy cards: building a policy by name, path and options."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from raggym_env import policies
from raggym_env.core import Question, State
from raggym_env.errors import OptionError, UnknownName
from raggym_env.policies.lexical import LexicalPolicy
from raggym_env.protocols import BasePolicy, Policy, Proposal
from raggym_env.storage.paths import card_names


@pytest.mark.parametrize("name", ["lexical", "random", "single_search"])
def test_a_shipped_card_builds_a_policy_that_acts(name: str) -> None:
    assert name in card_names("policies")
    policy = policies.make(name, seed=3)
    assert isinstance(policy, Policy)
    assert policy.act(State(Question("q", "Who wrote Hamlet?"), (), 2))


def test_options_override_those_of_the_card() -> None:
    assert policies.make("lexical").searches == 6
    assert policies.make("lexical", searches=2).searches == 2


def test_a_factory_needs_no_name() -> None:
    made = policies.make(partial(LexicalPolicy, searches=2), seed=5)
    assert (made.searches, made.seed) == (2, 5)


def test_a_card_of_the_users_is_named_by_its_path(tmp_path: Path) -> None:
    card = tmp_path / "short.toml"
    card.write_text('policy = "lexical"\n[options]\nsearches = 1\n')
    assert policies.make(card).searches == 1


def test_a_card_can_name_a_registered_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute(BasePolicy):
        def propose(self, states, n=1):
            return [[Proposal(None, failure="mute")] for _ in states]

    monkeypatch.setitem(policies.POLICIES, "mute", Mute)
    card = tmp_path / "mute.toml"
    card.write_text('policy = "mute"\n')
    assert isinstance(policies.make(card), Mute)


def test_an_unknown_option_is_named_with_the_valid_ones() -> None:
    with pytest.raises(OptionError, match=r"'serches'.* options: seed, searches, enough, temperature"):
        policies.make("lexical", serches=3)


def test_an_option_out_of_range_is_refused() -> None:
    with pytest.raises(OptionError, match="searches must be 0 or more, got -1"):
        policies.make("lexical", searches=-1)


def test_a_missing_option_is_named(tmp_path: Path) -> None:
    card = tmp_path / "play.toml"
    card.write_text('policy = "scripted"\n')
    with pytest.raises(OptionError, match="script"):
        policies.make(card)


def test_an_unknown_card_and_an_unknown_class_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'lexical'"):
        policies.make("lexicl")
    card = tmp_path / "own.toml"
    card.write_text('policy = "randon"\n')
    with pytest.raises(UnknownName, match="Did you mean 'random'"):
        policies.make(card)


def test_a_seed_goes_to_policies_that_draw_and_to_no_other(tmp_path):
    card = tmp_path / "script.toml"
    card.write_text('policy = "scripted"\n[options.script]\nq1 = []\n')
    assert policies.make("random", seed=3).seed == 3
    assert not hasattr(policies.make(card, seed=3), "seed")
