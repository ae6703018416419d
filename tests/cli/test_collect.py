import json

import pytest
from typer.testing import CliRunner

from raggym_env.cli import app
from raggym_env.policies import POLICIES
from towns import Reader, write_towns


def raggym(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def towns(tmp_path):
    return write_towns(tmp_path / "towns")


@pytest.fixture
def folder(towns, tmp_path):
    options = ["--critic", "evidence", "--n", 4, "--out", tmp_path / "run"]
    result = raggym("collect", towns, "--policy", "lexical", *options)
    assert result.exit_code == 0, result.output
    return tmp_path / "run"


def test_collect_prints_what_was_collected_and_where(towns, tmp_path, folder):
    options = ["--critic", "evidence", "--n", 4, "--out", folder]
    result = raggym("collect", towns, "--policy", "lexical", *options)
    figures = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert figures["trajectories"] == figures["kept"] == "12"
    assert figures["candidates"].endswith("per state")
    assert figures["folder"] == str(folder)


def test_settings_and_options_reach_the_record(towns, tmp_path):
    result = raggym(
        *("collect", towns, "--policy", "lexical", "--critic", "random", "--n", 3, "--keep", "all", "--explore", 0.2),
        *("--limit", 5, "--seed", 7, "--out", tmp_path / "run", "--set", "policy.search.critic_options.seed=9"),
    )
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    options = {"n": 3, "critic": "random", "keep": "all", "execute": "best", "explore": 0.2, "metric": "em"}
    assert config["collect"] == options
    assert (config["limit"], config["seed"], config["split"]) == (5, 7, "train")
    assert config["policy"]["search"]["critic_options"] == {"seed": 9}


def test_inspect_shows_a_few_trajectories(folder):
    result = raggym("collect", "--inspect", folder, "--show", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("On which river does") >= 2
    assert result.stdout.count("Answered 'River") == 2
    assert "▶" in result.stdout


@pytest.mark.parametrize("to", ["sft", "preference", "reward"])
def test_export_writes_rows_for_trl(folder, tmp_path, to):
    datasets = pytest.importorskip("datasets")
    agent = [] if to == "reward" else ["--as", "react"]
    result = raggym("export", folder, "--to", to, *agent, "--out", tmp_path / "rows")
    assert result.exit_code == 0, result.output
    loaded = datasets.load_from_disk(str(tmp_path / "rows"))
    assert f"{len(loaded)} {to} rows of 12 trajectories" in result.stdout


def test_export_takes_margin_pairs_and_the_weight_of_outcomes(folder, tmp_path):
    pytest.importorskip("datasets")
    options = ["--to", "reward", "--margin", 0.2, "--pairs", 2, "--outcome-weight", 0.5, "--all"]
    result = raggym("export", folder, *options, "--out", tmp_path / "rows")
    assert result.exit_code == 0, result.output
    provenance = json.loads((tmp_path / "rows" / "provenance.json").read_text())
    assert provenance["options"] == {"seed": 0, "margin": 0.2, "pairs": 2}
    assert (provenance["outcome_weight"], provenance["kept"], provenance["render"]) == (0.5, False, None)


@pytest.mark.parametrize(
    ("to", "option"),
    [
        ("sft", ["--margin", 0.2]),
        ("reward", ["--as", "react"]),
        ("preference", ["--set", "retrieval.k=3"]),
        ("verl", ["--all"]),
        ("inspect", ["--split", "test"]),
        ("trec", ["--outcome-weight", 0.5]),
    ],
)
def test_export_refuses_an_option_that_its_kind_does_not_have(folder, tmp_path, to, option):
    result = raggym("export", folder, "--to", to, *option, "--out", tmp_path / "rows")
    assert result.exit_code == 1
    assert f"{option[0]} does nothing with --to {to}. Leave it out." in result.stderr
    assert not (tmp_path / "rows").exists()


def test_failed_questions_give_exit_code_two_and_a_way_on(towns, tmp_path, monkeypatch):
    monkeypatch.setitem(POLICIES, "reader", lambda: Reader(fails={"q1"}))
    (tmp_path / "reader.toml").write_text('policy = "reader"\n')
    options = ["--policy", tmp_path / "reader.toml", "--critic", "random", "--n", 1, "--out", tmp_path / "run"]
    result = raggym("collect", towns, *options)
    assert result.exit_code == 2, result.output
    assert "11 (1 failed)" in result.stdout
    assert "1 episodes failed. The same command runs them again" in result.stderr
    assert "the server is down" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name an environment"),
        (["RAGGym-Synth-v0", "--inspect", "x"], "Name an environment"),
        (["RAGGym-Synth-v0"], "--policy NAME"),
        (["RAGGym-Synth-v0", "--policy", "lexical", "--split", "test"], "split must be named train"),
        (["RAGGym-Synth-v0", "--policy", "lexical", "--critic", "rendom"], "Did you mean 'random'"),
        (["--inspect", "nowhere"], "holds no process data"),
    ],
)
def test_a_users_mistake_is_one_line_without_a_traceback(arguments, message):
    result = raggym("collect", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("raggym: ")


def test_an_agent_that_cannot_be_rendered_is_named(folder, tmp_path):
    for agent, message in (("lexical", "not a prompt agent"), ("search_o1", "reads notes")):
        result = raggym("export", folder, "--to", "sft", "--as", agent, "--out", tmp_path / "rows")
        assert (result.exit_code, message in result.stderr) == (1, True)
    assert not (tmp_path / "rows").exists()
