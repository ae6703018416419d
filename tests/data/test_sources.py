from __future__ import annotations

from pathlib import Path

import pytest

from raggym_env.cards import Source, env_card
from raggym_env.data.sources import locate, places
from raggym_env.errors import DataNotFound


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "user"))


def test_a_shipped_card_is_looked_for_in_the_users_folder_and_then_the_cache(tmp_path):
    found = places(env_card("RAGGym-HotpotQA-v0"))
    assert found == [tmp_path / "user" / "hotpotqa", tmp_path / "cache" / "datasets" / "hotpotqa"]


def test_a_users_data_are_looked_for_beside_the_card_first(tmp_path):
    shipped = env_card("RAGGym-HotpotQA-v0")
    own = tmp_path / "RAGGym-HotpotQA-v0.toml"
    own.write_text(shipped.path.read_text())
    assert places(env_card(own))[:2] == [tmp_path, tmp_path / "hotpotqa"]


def test_a_root_may_be_laid_out_like_the_users_folder_or_be_the_data_sets_own():
    card = env_card("RAGGym-HotpotQA-v0")
    assert places(card, Path("r")) == [Path("r/hotpotqa"), Path("r")]


def test_a_hub_source_with_a_corpus_file_that_nothing_has_is_not_downloaded():
    source = Source(questions="hub:a/b:test", corpus="c.jsonl")
    with pytest.raises(DataNotFound, match=r"has no c\.jsonl"):
        locate(env_card("RAGGym-HotpotQA-v0"), source)


def test_without_the_hub_only_files_are_looked_at():
    source = Source(questions="hub:a/b:test")
    with pytest.raises(DataNotFound, match=r"hotpotqa has no hub-a-b-test\.jsonl"):
        locate(env_card("RAGGym-HotpotQA-v0"), source, use_hub=False)
