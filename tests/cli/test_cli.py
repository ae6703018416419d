import json
import re

import pytest
from typer.testing import CliRunner

from raggym_env.cli import app
from raggym_env.cli.main import _outline
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.storage.paths import card_names
from towns import write_jsonl, write_towns


def raggym(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


@pytest.fixture
def towns(tmp_path):
    return write_towns(tmp_path / "towns")


@pytest.mark.parametrize("kind", ["envs", "policies"])
def test_cards_are_listed_for_people_and_for_programs(kind):
    table, data = raggym(kind), raggym(kind, "--json")
    assert (table.exit_code, data.exit_code) == (0, 0)
    assert [card["name"] for card in json.loads(data.stdout)] == card_names(kind)
    assert all(name in table.stdout for name in card_names(kind))


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], []])
def test_the_outline_of_the_command_prints_what_the_whole_prints(arguments):
    outline = CliRunner().invoke(_outline(app), arguments, prog_name="raggym")
    whole = CliRunner().invoke(app, arguments, prog_name="raggym")
    assert (outline.exit_code, outline.output) == (whole.exit_code, whole.output)
    assert "leaderboard" in whole.output or arguments == ["--version"]


def test_eval_prints_scores_and_the_run_folder_and_leaderboard_ranks_it(towns, tmp_path):
    result = raggym("eval", towns, "--policy", "lexical", "--out", tmp_path / "run", "--set", "retrieval.k=3")
    assert result.exit_code == 0, result.output
    assert "12 of 12 questions scored" in result.stdout
    board = raggym("leaderboard", tmp_path / "run")
    assert "### Towns-v0, test split, 12 questions" in board.stdout
    assert "k=3" in board.stdout
    rows = json.loads(raggym("leaderboard", tmp_path / "run", "--json").stdout)
    assert rows[0]["rows"][0]["policy"] == "lexical"


def test_predictions_are_scored_from_the_command_line(towns, tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", [{"id": f"q{i}", "prediction": "River0"} for i in range(12)])
    result = raggym("leaderboard", tmp_path / "mine.jsonl", "--env", towns)
    assert "| 1 | mine | 0.167 " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "RAGGym-Sinth-v0", "--policy", "lexical"], "Did you mean 'RAGGym-Synth-v0'?"),
        (["eval", "RAGGym-Synth-v0", "--policy", "lexica"], "Did you mean 'lexical'?"),
        (["eval", "RAGGym-Synth-v0", "--policy", "lexical", "--set", "k"], "KEY=VALUE"),
        (["eval", "RAGGym-Synth-v0", "--policy", "lexical", "--split", "dev"], "dev"),
        (["leaderboard", "nowhere"], "neither a run folder nor a predictions file"),
        (["play", "nope"], "No environment card named 'nope'"),
        (["play", "RAGGym-Synth-v0", "--index", "-1"], "whole number in [0, 2000)"),
        (["eval", "RAGGym-Synth-v0", "--policy", "random", "--limit", "1", "--out", "/proc/no/such"], "/proc/no"),
        (["eval", "RAGGym-Synth-v0", "--policy", "random", "--set", "episode.metric=accuracy"], "does not fit"),
        (["eval", "RAGGym-Synth-v0", "--policy", "random", "--tree", "3"], "WIDTHxDEPTH"),
        (["eval", "RAGGym-Synth-v0", "--policy", "random", "--price", "cheap"], "--price takes two numbers"),
    ],
)
def test_a_users_mistake_is_one_line_without_a_traceback(arguments, message):
    result = raggym(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stderr.strip().splitlines()[-1].startswith("raggym: ")


def test_a_person_plays_an_episode(towns):
    result = raggym("play", towns, "--index", 3, input="\nTown3 river\n=\n=River3\n")
    assert result.exit_code == 0, result.output
    for part in (
        "On which river does Town3 lie?",
        "Search 1: Town3 river",
        "[1] Town3",
        "+1.000",
        "The answer was: River3",
    ):
        assert part in result.stdout


def test_a_person_leaves_in_the_middle(towns):
    result = raggym("play", towns, "--seed", 1, input="Town3\n")
    assert result.exit_code == 0
    assert "The answer was" not in result.stdout


def test_failed_episodes_give_exit_code_two_and_a_way_on(towns, tmp_path):
    policy = tmp_path / "broken.toml"
    policy.write_text('policy = "scripted"\ndescription = "answers one question only"\n[options.script]\nq0 = []\n')
    result = raggym("eval", towns, "--policy", policy, "--out", tmp_path / "run")
    assert result.exit_code == 2, result.output
    assert "The same command runs them again" in result.stderr
    assert "1 x PolicyError: The script does not know question" in result.stderr


def test_an_interrupted_run_says_how_to_go_on(towns, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("raggym_env.evaluation.evaluate", interrupt)
    result = raggym("eval", towns, "--policy", "lexical")
    assert (result.exit_code, "the same command resumes" in result.stderr) == (130, True)


def test_published_takes_no_path_and_a_file_of_results_may_stand_among_the_runs(towns, tmp_path):
    card = towns.rename(towns.with_name("RAGGym-Bamboogle-Wiki-v0.toml"))
    raggym("eval", card, "--policy", "lexical", "--split", "test", "--out", tmp_path / "run")
    for order in (["--published", tmp_path / "run"], [tmp_path / "run", "--published"]):
        text = raggym("leaderboard", *order).stdout
        assert "Re2Search, zero-shot (cited: arXiv:2502.13957v2, table 2)" in text
        assert "Llama-3.1-8B-Instruct, k=32, corpus MedRAG/wikipedia" in text
        assert "Warning, not comparable" in text
    own = tmp_path / "own.toml"
    own.write_text('[[result]]\nenvironment = "RAGGym-Bamboogle-Wiki-v0"\npolicy = "Giant"\nsource = "me"\nem = 1\n')
    text = raggym("leaderboard", "--published", own, tmp_path / "run").stdout
    assert "Giant (cited: me)" in text
    assert "Re2Search" not in text
    assert "one TOML file at most" in raggym("leaderboard", "--published", own).stderr
    assert "one TOML file at most" in raggym("report", "--published", own, "-o", tmp_path / "r.html").stderr


def test_the_leaderboard_names_what_it_leaves_out_and_ranks_the_rest(towns, tmp_path):
    good, bad, gone = (tmp_path / name for name in ("good", "bad", "gone"))
    for folder in (good, bad):
        assert raggym("eval", towns, "--policy", "lexical", "--out", folder).exit_code == 0
    (bad / "episodes.jsonl").write_text("{]\n")
    result = raggym("leaderboard", bad, good, gone)
    assert result.exit_code == 0
    assert "| 1 | lexical |" in result.stdout
    first, second = result.stderr.splitlines()
    assert first.startswith(f"raggym: {bad} is left out: ")
    assert "line 1: not JSON" in first
    assert second == f"raggym: {gone} is left out: {gone} is neither a run folder nor a predictions file."
    nothing = raggym("leaderboard", bad, gone)
    assert (nothing.exit_code, nothing.stdout, len(nothing.stderr.splitlines())) == (1, "", 2)


def test_eval_prints_how_many_outputs_were_no_action_and_why(towns, tmp_path):
    policy = tmp_path / "mute.toml"
    policy.write_text('policy = "tests.cli.test_cli:Mute"\ndescription = "writes what is no action"\n')
    result = raggym("eval", towns, "--policy", policy, "--trust-card", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "12 of 12 questions scored" in result.stdout
    lines = result.stdout.splitlines()
    assert "12 outputs could not be read as an action and score 0. Most frequent reasons:" in lines
    assert lines[-2:] == ["  9 x no block [31m at the end", "  3 x unfinished"]
    again = raggym("eval", towns, "--policy", policy, "--trust-card", "--out", tmp_path / "run")
    assert "  9 x no block" in again.stdout  # also where nothing was left to run


class Mute(BasePolicy):
    """Writes outputs that are no actions."""

    def propose(self, states, n=1):
        unfinished = [state.question.id in {"q1", "q2", "q3"} for state in states]
        reasons = ["unfinished" if each else "no block \x1b[31m\nat the end" for each in unfinished]
        return [[Proposal(None, text="?", failure=reason)] for reason in reasons]


def test_a_page_that_cannot_be_written_leaves_the_old_one_whole(towns, tmp_path, monkeypatch):
    raggym("eval", towns, "--policy", "lexical", "--out", tmp_path / "run")
    page = tmp_path / "pages" / "page.html"
    page.parent.mkdir()
    page.write_text("old")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("raggym_env.storage.atomic.Path.replace", full)
    result = raggym("report", tmp_path / "run", "-o", page)
    assert (result.exit_code, result.stderr) == (1, "raggym: No space left on device\n")
    assert [(path.name, path.read_text()) for path in page.parent.iterdir()] == [("page.html", "old")]


def test_a_line_break_in_a_files_name_does_not_begin_a_message():
    result = raggym("compare", "none\nraggym: all is well\x1b[2J", "none")
    assert result.stderr.startswith("raggym: none\n  raggym: all is well[2J ")


def test_the_version_short_help_and_completion_are_as_people_expect_them():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert re.fullmatch(r"raggym-env \S+, Python 3\S+\n", result.output)
    for command in ([], ["eval"], ["data", "list"], ["train", "sft"]):
        short, long = (CliRunner().invoke(app, [*command, flag]) for flag in ("-h", "--help"))
        assert (short.exit_code, short.output) == (0, long.output)
    assert "--install-completion" in CliRunner().invoke(app, ["-h"]).output
