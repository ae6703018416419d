"""Titles of supporting facts that no passage has."""

from __future__ import annotations

import json

import pytest

from raggym_env.data import catalogue, load
from raggym_env.data.titles import missing_titles
from raggym_env.data.verify import verify_split
from raggym_env.evaluation import evaluate
from towns import Reader, write_jsonl, write_towns


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A card of three questions, two of which name titles that the corpus lacks."""
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    path = write_towns(tmp_path / "towns", 3)
    rows = [json.loads(line) for line in (path.parent / "questions.jsonl").read_text().splitlines()]
    rows[0]["supporting_facts"] = [["  TOWN0 ", 0]]  # the same title as the corpus's
    rows[1]["supporting_facts"] += [["Gone &amp; lost", 0], ["gone & Lost", 1]]
    rows[2]["supporting_facts"] = [["Gone & lost", 0], ["Town9", 0]]
    write_jsonl(path.parent / "questions.jsonl", rows)
    return path


EXPECTED = "titles in supporting_facts that no passage has: 2, in 2 questions."


def test_titles_are_compared_as_recall_compares_them(card):
    problem = missing_titles(load(card, "test"))
    assert problem.startswith(f"Towns-v0, test split: {EXPECTED} ")
    assert "of the question 'q2'." in problem


def test_they_are_named_once_where_data_is_checked(card, caplog):
    loaded = catalogue.named_card(str(card))
    first, second = catalogue.get(loaded)
    assert EXPECTED in first.warning
    assert EXPECTED in second.warning
    assert not first.problem
    assert EXPECTED in verify_split(loaded, "test")
    evaluate(card, Reader(), out=card.parent / "run")
    assert [record.message for record in caplog.records if EXPECTED in record.message] != []


def test_complete_data_and_shipped_cards_say_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    complete = write_towns(tmp_path / "towns", 3)
    assert missing_titles(load(complete, "test")) == ""
    assert "but" not in verify_split(catalogue.named_card(str(complete)), "test")
