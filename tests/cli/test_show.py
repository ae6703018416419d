"""`raggym show`, `compare` and `report` on run folders."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from raggym_env.cli import app
from raggym_env.core import Answer, Search
from raggym_env.evaluation import compare, evaluate
from raggym_env.protocols import Proposal
from towns import Reader, write_towns


class Writer(Reader):
    """Writes raw text with each action, and is wrong on all towns but the first two."""

    name = "writer"

    def _proposal(self, state):
        if not state.history:
            return Proposal(Search(state.question.text, "no idea yet"), text="\x1b[31mLet me search.\nNow.", score=0.5)
        right = state.question.id in ("q0", "q1")
        return Proposal(Answer(state.passages[0].text.split(" the ")[1].rstrip(".") if right else "[bold]Rhine"))


@pytest.fixture
def runs(tmp_path):
    card = write_towns(tmp_path / "towns")
    return [evaluate(card, policy, out=tmp_path / policy.name)[0].path for policy in (Reader(), Writer())]


def raggym(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_an_episode_is_shown_step_by_step(runs):
    result = raggym("show", runs[1], "q2")
    assert result.exit_code == 0
    for part in ("On which river does Town2 lie?", "gold     River2", "1 search", "answer so far: no idea yet"):
        assert part in result.output
    for part in (
        "★[1] Town2",
        "│ [31mLet me search.",
        "│ Now.",
        "2 answer [bold]Rhine",
        "✗ wrong  [bold]Rhine",
        "em 0.000",
    ):
        assert part in result.output
    assert "\x1b[31m" not in result.output


def test_a_question_is_named_by_id_or_number(runs):
    assert raggym("show", runs[0], "3").output == raggym("show", runs[0], "q2").output
    for name in ("q99", "0", "13", "-1", "٣" * 20):
        result = raggym("show", runs[0], "--", name)
        assert result.exit_code == 1
        assert "No question (an id, or a number from 1) of" in result.output


def test_questions_are_listed_and_filtered(runs):
    reader, writer = runs
    assert "12 of 12 questions." in raggym("show", reader).output
    assert "0 of 12 questions." in raggym("show", reader, "--wrong").output
    assert "10 of 12 questions, the first 4 of them shown" in raggym("show", writer, "--wrong", "--limit", 4).output
    assert "10 of 12 questions." in raggym("show", writer, "--flipped", reader).output
    assert "0 of 12 questions." in raggym("show", reader, "--flipped", writer).output
    # The question's own text; a query that others share; an answer; and what the model wrote.
    for text, count in (("TOWN11 LIE", 1), ("river does", 12), ("rhine", 10), ("let me search", 12), ("Danube", 0)):
        assert f"{count} of 12 questions." in raggym("show", writer, "--grep", text).output


def test_prompts_that_were_not_recorded_are_said_to_be_missing(runs):
    assert "no prompt recorded" in raggym("show", runs[1], "q2", "--prompt").output


def test_a_comparison_fits_into_80_columns_and_lists_the_flips(runs):
    result = raggym("compare", *runs, "--flips")
    assert result.exit_code == 0
    # The paths of the runs, which can be copied, stand on lines of their own length.
    lines = [line for line in result.output.splitlines() if not any(str(run) in line for run in runs)]
    assert max(map(len, lines)) <= 80
    assert "Towns-v0, test split: 12 questions" in result.output
    assert "1.000   .167  -.833" in result.output
    assert "Gained: 0 questions" in result.output
    assert "Lost: 10 questions" in result.output


def test_a_comparison_as_json_is_that_of_the_library(runs):
    (record,) = json.loads(raggym("compare", *runs, "--json").output)
    (comparison,) = compare(runs)
    assert record == json.loads(json.dumps(comparison.to_json()))


def test_a_report_is_written_and_its_path_printed(runs, tmp_path):
    result = raggym("report", *runs, "-o", tmp_path / "page.html")
    assert result.exit_code == 0
    assert "page.html" in result.output
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("command", [["show"], ["compare", "x"], ["report", "-o", "page.html"]])
def test_a_folder_that_is_no_run_is_refused(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = raggym(*command, tmp_path)
    assert result.exit_code == 1
    assert "raggym: " in result.output
    assert not (tmp_path / "page.html").exists()
