"""The content of a report, and the page around it. How the page behaves in a browser is tested beside this."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import asdict

import pytest

from raggym_env.core import Answer, Search
from raggym_env.errors import RunError
from raggym_env.evaluation import build_leaderboard, compare, evaluate, report_page, write_report
from raggym_env.protocols import Proposal
from towns import Reader, write_towns


class Hostile(Reader):
    """Answers with markup."""

    name = "<script>alert(1)</script>"

    def _proposal(self, state):
        return Proposal(Answer("<img src=x onerror=alert(1)>") if state.history else Search("</script><b>Town1</b>"))


@pytest.fixture
def runs(tmp_path):
    card = write_towns(tmp_path / "towns")
    policies = {"reader": Reader(fails={"q3"}), "hostile": Hostile(), "best": Reader()}
    return [evaluate(card, policy, out=tmp_path / name)[0].path for name, policy in policies.items()]


def content(page: str) -> dict:
    """Return the data that a page embeds."""
    encoded = re.search(r'id="data">([^<]*)</script>', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(encoded)))


def test_every_question_and_every_step_is_in_the_report(runs):
    (board,) = content(report_page(build_leaderboard(runs)))["boards"]
    assert (board["environment"], board["split"], board["questions"], board["metric"]) == ("Towns-v0", "test", 12, "em")
    assert [task["id"] for task in board["tasks"]] == [f"q{index}" for index in range(12)]
    reader = board["runs"]["reader"]["episodes"]
    assert reader[3]["error"]
    assert reader[3]["scores"] is None
    assert reader[1]["answer"] == "River1"
    assert [step.get("q") or step.get("a") for step in reader[1]["steps"]] == [
        "On which river does Town1 lie?",
        "River1",
    ]


def test_passages_are_stored_once_with_their_texts_and_gold_ones_are_marked(runs):
    report = content(report_page(build_leaderboard(runs)))
    titles = [title for _, title, _ in report["passages"]]
    assert len(titles) == len(set(titles))
    step = report["boards"][0]["runs"]["best"]["episodes"][1]["steps"][0]
    gold = [report["passages"][step["p"][place]] for place in step["g"]]
    assert gold == [["1", "Town1", "Town1 is a town. It lies on the River1."]]


def test_the_figures_are_those_of_leaderboard_and_compare(runs):
    leaderboard = build_leaderboard(runs)
    (board,) = content(report_page(leaderboard))["boards"]
    for row, expected in zip(board["rows"], leaderboard.to_json()[0]["rows"], strict=True):
        assert row["metrics"] == {name: list(figure) for name, figure in expected["scores"]["metrics"].items()}
        assert row["searches"] == expected["scores"]["searches"]
    for pair in board["pairs"]:
        by_name = {path.name: path for path in runs}
        (comparison,) = compare([by_name[name] for name in pair.pop("runs")])
        assert pair == json.loads(json.dumps(asdict(comparison)))


def test_recorded_text_is_data_and_the_page_loads_nothing(runs):
    page = report_page(build_leaderboard(runs))
    assert "alert(1)" not in page
    assert re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=", page) == []
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL):
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "</script><b>" in json.dumps(content(page))


def test_the_same_runs_give_the_same_page_which_is_written_whole(runs, tmp_path):
    leaderboard = build_leaderboard(runs)
    path = write_report(leaderboard, tmp_path / "page.html")
    assert path.read_text() == report_page(leaderboard)
    assert [file.name for file in tmp_path.glob("page*")] == ["page.html"]


def test_a_run_that_has_just_begun_can_be_reported(runs):
    episodes = runs[2] / "episodes.jsonl"
    episodes.write_text("".join(episodes.read_text().splitlines(keepends=True)[:2]))
    (board,) = content(report_page(build_leaderboard(runs)))["boards"]
    row = next(row for row in board["rows"] if row["run"] == "best")
    assert (row["scored"], row["missing"], row["place"]) == (2, 10, None)


def test_the_curves_of_a_training_are_shown(runs, tmp_path):
    folder = tmp_path / "sft"
    folder.mkdir()
    log = [{"step": 1, "loss": 2.0, "epoch": 0.5, "learning_rate": 0.1}, {"step": 2, "loss": 1.5, "note": "x"}]
    (folder / "recipe.json").write_text(json.dumps({"report": {"log": log}}))
    (training,) = content(report_page(build_leaderboard(runs), training=[folder]))["training"]
    assert training == {"name": "sft", "curves": {"loss": [[1, 2.0], [2, 1.5]], "learning_rate": [[1, 0.1]]}}


@pytest.mark.parametrize("recipe", [None, "", "[" * 10_000, "[]", '{"report": 3}', '{"report": {"log": [1]}}'])
def test_a_folder_that_is_no_training_is_refused(runs, tmp_path, recipe):
    if recipe is not None:
        (tmp_path / "recipe.json").write_text(recipe)
    with pytest.raises(RunError, match=r"recipe\.json is not the record of a training"):
        report_page(build_leaderboard(runs), training=[tmp_path])
