"""What people expect of the command line: hints, samples, boards of folders, concurrency, playing."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from fake_server import FakeServer, says
from raggym_env.cli import app
from raggym_env.cli import leaderboard as leaderboard_command
from raggym_env.core import Answer, Search
from raggym_env.envs import RecordEpisodes, make_env
from raggym_env.errors import CardError, RunError
from raggym_env.evaluation import Run, build_leaderboard, compare, evaluate
from raggym_env.runs.plan import RunSpec
from towns import Reader, write_towns


@pytest.fixture
def towns(tmp_path):
    return write_towns(tmp_path / "towns")


def raggym(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def test_a_prompt_policy_without_a_model_says_how_to_name_one_before_any_data_is_read(tmp_path):
    towns = write_towns(tmp_path / "towns")
    (tmp_path / "towns" / "questions.jsonl").unlink()
    result = raggym("eval", towns, "--policy", "react")
    assert result.exit_code == 1
    assert "add --llm hf:smollm2" in result.stderr


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("retrieval.kk=3", ("Did you mean 'k'?", "k, name, options")),
        ("retrival.k=3", ("episode, retrieval, reward",)),
        ("episode.search=3", ("max_searches, metric",)),
        ("titel=x", ("Did you mean 'title'?",)),
        ("policy.search.bestof=3", ("best_of",)),
        ("policy.search.tree.wide=3", ("depth, n, width",)),
    ],
)
def test_an_unknown_key_lists_the_known_ones(towns, setting, parts):
    result = raggym("eval", towns, "--policy", "lexical", "--set", setting)
    assert result.exit_code == 1
    for part in parts:
        assert part in result.stderr


def test_set_makes_the_tables_that_a_card_leaves_out(towns):
    settings = {"policy.price.prompt": 1.0, "policy.price.completion": 2.0, "policy.options.llm_options.timeout": 9}
    spec = RunSpec.of(towns, "react", settings={**settings, "policy.options.llm": "openai:m@http://127.0.0.1:9/v1"})
    plan = spec.load()
    assert (plan.price.prompt, plan.price.completion) == (1.0, 2.0)
    assert plan.config["policy"]["options"]["llm_options"] == {"timeout": 9}
    with pytest.raises(CardError, match="not one of its tables"):
        RunSpec.of(towns, "react", settings={"policy.prices.prompt": 1.0}).load()


def test_a_limit_that_leaves_nothing_out_resumes_the_run_without_one(towns, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, _ = evaluate(towns, Reader())
    for limit in (12, 13):
        again, _ = evaluate(towns, Reader(fails={"q0"}), limit=limit)
        assert (again.path, len(again.records())) == (first.path, 12)
    # A folder of an older version, which recorded the limit.
    record = json.loads((first.path / "run.json").read_text())
    record["config"]["limit"] = 12
    (first.path / "run.json").write_text(json.dumps(record))
    assert len(evaluate(towns, Reader(), out=first.path)[0].records()) == 12
    with pytest.raises(RunError, match="limit is"):
        evaluate(towns, Reader(), limit=11, out=first.path)


def test_a_sample_is_drawn_by_its_seed_recorded_and_compared_on_the_same_questions(towns, tmp_path):
    runs = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", None)):
        options = [] if seed is None else ["--shuffle-seed", seed]
        result = raggym("eval", towns, "--policy", "lexical", "--limit", 5, "--out", tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        runs[name] = tmp_path / name
    ids = {name: {record["id"] for record in Run.read(path).records()} for name, path in runs.items()}
    assert ids["a"] == ids["b"] != ids["c"]
    assert ids["d"] == {f"q{number}" for number in range(5)}
    assert "shuffle_seed" not in Run.read(runs["d"]).config
    assert compare([runs["a"], runs["b"]])[0].questions == 5
    for other in ("c", "d"):
        with pytest.raises(RunError, match="different questions"):
            compare([runs["a"], runs[other]])
    assert len(build_leaderboard(runs.values()).boards) == 3
    larger = {task.id for task in RunSpec.of(towns, "lexical", limit=8, shuffle_seed=1).load().tasks}
    assert ids["a"] < larger


def test_a_folder_of_runs_is_a_board_and_a_terminal_gets_a_table(towns, tmp_path, monkeypatch):
    for name in ("lexical", "random"):
        evaluate(towns, name, out=tmp_path / "runs" / name)
    (tmp_path / "runs" / "notes").mkdir()
    board = raggym("leaderboard", tmp_path / "runs")
    assert board.output == raggym("leaderboard", tmp_path / "runs" / "lexical", tmp_path / "runs" / "random").output
    assert board.output.startswith("### Towns-v0")
    assert raggym("leaderboard", tmp_path / "runs" / "notes").exit_code == 1
    monkeypatch.setattr(leaderboard_command.sys, "stdout", Terminal())
    leaderboard_command._show(build_leaderboard([tmp_path / "runs"]).boards[0])
    text = leaderboard_command.sys.stdout.text
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("Setting"))
    assert re.search(r"(?m)^1  lexical +[01]\.\d{3} \[[01]\.\d\d, [01]\.\d\d\]", text)
    assert "|" not in text


def test_a_terminal_gets_published_rows_in_tables_of_one_setting_below_the_ranking(towns, tmp_path, monkeypatch):
    evaluate(towns, "lexical", out=tmp_path / "run")
    row = '[[result]]\nenvironment = "Towns-v0"\nsource = "arXiv:1"\nem = 0.5\n'
    own = tmp_path / "own.toml"
    own.write_text(f'{row}policy = "A"\nk = 32\n{row}policy = "B"\n{row}policy = "C"\nk = 32\n')
    monkeypatch.setattr(leaderboard_command.sys, "stdout", Terminal())
    leaderboard_command._show(build_leaderboard([tmp_path / "run"], published=own).boards[0])
    lines = leaderboard_command.sys.stdout.text.splitlines()
    with_k, without = lines.index("Cited from arXiv:1; k=32"), lines.index("Cited from arXiv:1")
    cells = [lines[at].split() for at in (with_k + 2, with_k + 3, without + 2)]
    assert cells == [["A", "0.500"], ["C", "0.500"], ["B", "0.500"]]
    assert any(line.startswith("Warning, not comparable: the k of 2 cited rows is 32") for line in lines)


class Terminal:
    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return False


@pytest.mark.parametrize(
    ("options", "most"), [({"in_flight": 12}, 12), ({"in_flight": 3}, 3), ({"in_flight": 12, "concurrency": 2}, 2)]
)
def test_requests_follow_the_episodes_in_flight_and_their_number_is_no_part_of_the_run(towns, tmp_path, options, most):
    with FakeServer(after=says('{"answer": "River1"}')) as server:
        settings = {"policy.options.llm": f"openai:model@{server.url}"}
        spec = RunSpec.of(
            towns, "direct", settings=settings, concurrency=options.get("concurrency", options["in_flight"])
        )
        plan = spec.load()
        assert plan.make_policy().llm.server.concurrency == most
        run, _ = evaluate(towns, "direct", settings=settings, out=tmp_path / "run", **options)
    assert run.config == json.loads(json.dumps(plan.config))
    assert "concurrency" not in json.dumps(run.config)
    chosen = {**settings, "policy.options.llm_options": {"concurrency": 5}}
    assert RunSpec.of(towns, "direct", settings=chosen, concurrency=9).load().make_policy().llm.server.concurrency == 5


def test_the_episodes_that_the_wrapper_records_are_scored_as_predictions(towns, tmp_path):
    env = RecordEpisodes(make_env(towns, split="test"), tmp_path / "mine.jsonl")
    for index in (0, 1, 1):
        env.reset(options={"index": index})
        env.step(Search("Town1"))
        env.step(Answer("River0"))
    board = build_leaderboard([tmp_path / "mine.jsonl"], card=towns).boards[0]
    scores = board.rows[0].scores
    assert (scores.scored, scores.metrics["em"].mean) == (2, 0.5)


def test_play_has_help_and_quit_and_wraps_at_the_width_of_the_terminal(towns, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    result = raggym("play", towns, "--index", 0, input="help\nwhere is Town1 and all of the other towns here\nquit\n")
    assert result.exit_code == 0
    assert result.output.count("`help` shows this again") == 2
    assert "Search 1:" in result.output
    assert "The answer was" not in result.output
    shown = [line for line in result.output.splitlines() if line.startswith((" ", "Question", "Search"))]
    assert all(len(line.split("   reward")[0]) <= 40 for line in shown)


def test_ctrl_c_while_playing_has_its_own_message(towns, monkeypatch):
    def interrupt(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    result = raggym("play", towns, "--index", 0)
    assert result.exit_code == 130
    assert "Stopped. Nothing was recorded." in result.output
    assert "same command resumes" not in result.output
