from __future__ import annotations

import gzip
import json

import pytest
from typer.testing import CliRunner

from raggym_env.cards import env_card
from raggym_env.cli import app
from raggym_env.data import catalogue
from raggym_env.errors import UnknownName
from raggym_env.storage.paths import card_names

CARD = "RAGGym-Bamboogle-v0"


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "user"))


@pytest.fixture
def bamboogle(tmp_path) -> None:
    folder = tmp_path / "user" / "bamboogle"
    folder.mkdir(parents=True)
    (folder / "Bamboogle_Prerelease.tsv").write_text("Question\tAnswer\tAnswer 2\nWho?\tAnt\t\n")
    row = json.dumps({"id": "1", "title": "Ant", "text": "An ant."})
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(row.encode()))


@pytest.mark.usefixtures("bamboogle")
def test_statuses_prepare_nothing_and_get_prepares_the_corpus():
    card = env_card(CARD)
    statuses = [*catalogue.statuses(card), *catalogue.get(card), *catalogue.statuses(card)]
    assert [(status.questions, status.passages) for status in statuses] == [(1, None), (1, 1), (1, 1)]
    assert (statuses[1].example, statuses[1].problem) == ("Who?", "")


def test_an_unavailable_split_has_a_problem_and_no_source():
    status = catalogue.statuses(env_card(CARD))[0]
    assert (status.source, status.questions) == ("", None)
    assert "Bamboogle_Prerelease.tsv" in status.problem
    assert "https://github.com/ofirpress/self-ask" in status.problem


@pytest.mark.parametrize("name", [CARD, "bamboogle"])
def test_a_card_is_looked_up_by_its_name_or_its_folder(name):
    assert catalogue.named_card(name).name == CARD


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'bamboogle'"):
        catalogue.named_card("bambogle")


def test_every_shipped_card_is_in_the_catalogue():
    assert [card.name for card in catalogue.shipped_cards()] == card_names("envs")


@pytest.mark.usefixtures("bamboogle")
def test_the_list_has_one_row_per_card_and_split(monkeypatch):
    monkeypatch.setattr(catalogue, "card_names", lambda _: [CARD, "RAGGym-MedQA-v0"])
    result = CliRunner().invoke(app, ["data", "list", "--json"])
    rows = [(row["card"], row["split"], row["problem"] == "") for row in json.loads(result.output)]
    assert rows == [(CARD, "test", True), ("RAGGym-MedQA-v0", "train", False), ("RAGGym-MedQA-v0", "test", False)]
    assert result.exit_code == 0


def test_get_exits_with_1_and_says_why_if_a_split_stays_unavailable():
    result = CliRunner().invoke(app, ["data", "get", CARD])
    assert result.exit_code == 1
    assert "https://github.com/ofirpress/self-ask" in result.output


@pytest.mark.usefixtures("bamboogle")
def test_info_shows_licence_and_example_and_no_answer():
    result = CliRunner().invoke(app, ["data", "info", "bamboogle"])
    assert (result.exit_code, "MIT" in result.output, "Who?" in result.output) == (0, True, True)
    assert "Ant" not in result.output


def test_info_on_a_strangers_card_neither_controls_the_terminal_nor_reads_markup(tmp_path):
    folder = tmp_path / "[bold]"
    folder.mkdir()
    (folder / "q.jsonl").write_text('{"id": "1", "question": "Who [x]?\\u001b[2J", "golden_answers": ["Ant"]}\n')
    (folder / "c.jsonl").write_text('{"id": "1", "title": "Ant", "text": "An ant."}\n')
    (folder / "Own-v0.toml").write_text(
        'title = "[red]\\u001b]0;x"\n[dataset]\nformat = "jsonl"\n[[dataset.splits.test]]\n'
        'questions = "q.jsonl"\ncorpus = "c.jsonl"\n'
    )
    result = CliRunner().invoke(app, ["data", "info", str(folder / "Own-v0.toml")], env={"COLUMNS": "400"})
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert "[red]" in result.output
    assert "Who [x]?" in result.output
    assert str(folder / "q.jsonl") in result.output


def test_an_unknown_name_on_the_command_line_shows_no_traceback():
    result = CliRunner().invoke(app, ["data", "info", "nothing-like-this"])
    assert (result.exit_code, "Traceback" in result.output) == (1, False)
    assert "No data set or environment card named" in result.output
