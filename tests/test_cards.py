from pathlib import Path

import pytest

from raggym_env.cards import env_card, override, policy_card
from raggym_env.errors import CardError, UnknownName
from raggym_env.paths import card_names

CARD = """
title = "Mine"
[dataset]
format = "jsonl"
[[dataset.splits.test]]
questions = "q.jsonl"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "Mine-v0.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", card_names("envs"))
def test_every_shipped_environment_card_loads(name):
    card = env_card(name)
    assert card.name == name
    assert "test" in card.dataset.splits


@pytest.mark.parametrize("name", card_names("policies"))
def test_every_shipped_policy_card_loads(name):
    assert policy_card(name).description


def test_a_card_is_named_after_its_file_and_filled_with_defaults(tmp_path):
    card = env_card(write(tmp_path, CARD))
    assert (card.name, card.retrieval.name, card.episode.metric) == ("Mine-v0", "bm25", "em")


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(UnknownName, match=r"Did you mean 'RAGGym-HotpotQA-v0'\?"):
        env_card("RAGGym-HotPotQA-v0")
    with pytest.raises(LookupError, match="No policy card named 'lexicl'"):
        policy_card("lexicl")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("title = ", "not valid TOML"),
        (CARD.replace("title", "titel"), "titel"),
        (CARD.replace('"jsonl"', '"csv"'), "dataset.format"),
        (CARD + 'rows = "middle 3"', "rows"),
        (CARD + "[retrieval]\nk = 0", "retrieval.k"),
        (CARD.replace("splits.test", "splits.dev"), "default_split"),
        (CARD.replace('format = "jsonl"', 'format = "jsonl"\nfolder = "../elsewhere"'), "dataset.folder"),
        (CARD.replace('format = "jsonl"', 'format = "jsonl"\nfolder = "/etc"'), "dataset.folder"),
        ('name = "../evil"\n' + CARD, "remove ['name']"),
    ],
)
def test_a_bad_card_names_its_file_and_what_is_wrong(tmp_path, change, named):
    with pytest.raises(CardError) as error:
        env_card(write(tmp_path, change))
    assert "Mine-v0.toml" in str(error.value)
    assert named in str(error.value)


def test_a_missing_card_file_says_where_it_looked(tmp_path):
    with pytest.raises(CardError, match=r"No card at .*Gone-v0\.toml"):
        env_card(tmp_path / "Gone-v0.toml")


def test_override_changes_a_copy_by_dotted_key():
    card = env_card("RAGGym-Synth-v0")
    changed = override(card, {"retrieval.k": 10, "retrieval.options.k1": 1.2})
    assert (changed.retrieval.k, changed.retrieval.options) == (10, {"k1": 1.2})
    assert card.retrieval.k == 5


@pytest.mark.parametrize("key", ["retrival.k", "retrieval.kk", "retrieval.k.x"])
def test_override_refuses_what_is_no_setting(key):
    with pytest.raises(CardError, match="RAGGym-Synth-v0"):
        override(env_card("RAGGym-Synth-v0"), {key: 1})
