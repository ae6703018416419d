"""`raggym watch`: a run that goes on while it is watched."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from raggym_env.cli import app
from raggym_env.cli import watch as watch_command
from raggym_env.cli.watch import Pace
from raggym_env.evaluation import build_leaderboard, evaluate
from towns import Reader, write_towns


@pytest.fixture
def run(tmp_path):
    return evaluate(write_towns(tmp_path / "towns"), Reader(fails={"q3"}), out=tmp_path / "run")[0].path


def watch(*arguments):
    return CliRunner().invoke(app, ["watch", *map(str, arguments), "--every", "0.1"])


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def rewrite(run, status, lines):
    record = json.loads((run / "run.json").read_text())
    (run / "episodes.jsonl").write_text("".join(lines))
    (run / "run.json").write_text(json.dumps({**record, "status": status}))


def test_a_finished_run_is_shown_once_with_the_figures_of_the_leaderboard(run):
    before = contents(run)
    result = watch(run)
    mean, low, high = build_leaderboard([run]).boards[0].rows[0].scores.metrics["em"]
    assert result.exit_code == 0
    assert result.output.count("incomplete") == 1
    for part in ("11 of 12 scored", "1 failed", f"em {mean:.3f} [{low:.3f}, {high:.3f}]"):
        assert part in result.output
    assert contents(run) == before


def test_a_run_is_followed_to_its_end_through_a_resume(run, monkeypatch):
    lines = (run / "episodes.jsonl").read_text().splitlines(keepends=True)
    rewrite(run, "running", lines[:4])

    looks = iter((4, 4, 8, 12))

    def go_on(seconds):
        if (end := next(looks)) > 4:
            rewrite(run, "running" if end < 12 else "complete", [*lines[:end], '{"torn'])

    monkeypatch.setattr(watch_command.time, "sleep", go_on)
    result = watch(run)
    assert result.exit_code == 0
    assert result.output.count("running") >= 2
    assert "/s" in result.output
    assert "left" in result.output
    assert result.output.rstrip().splitlines()[-3].startswith("complete")


def test_a_run_that_still_loads_is_waited_for_and_a_folder_without_one_is_refused(run, tmp_path, monkeypatch):
    late = tmp_path / "late"
    late.mkdir()
    assert watch(late).exit_code == 1
    (late / ".lock").touch()
    looks = iter((False, False, True))
    monkeypatch.setattr(
        watch_command.time, "sleep", lambda _: next(looks) and shutil.copytree(run, late, dirs_exist_ok=True)
    )
    result = watch(late)
    assert result.exit_code == 0
    assert result.output.count("waiting  for the first episode") == 1
    assert "11 of 12 scored" in result.output


def test_ctrl_c_ends_the_watching_and_says_that_the_run_goes_on(run, monkeypatch):
    rewrite(run, "running", (run / "episodes.jsonl").read_text().splitlines(keepends=True))
    before = contents(run)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) > 2:
            raise KeyboardInterrupt  # what Ctrl-C is: a signal could end the process of the tests

    monkeypatch.setattr(watch_command.time, "sleep", sleep)
    result = watch(run)
    assert result.exit_code == 130
    assert result.output.rstrip().endswith("Stopped watching. The run goes on.")
    assert contents(run) == before


def test_the_rate_counts_what_is_scored_while_somebody_looks_on():
    pace = Pace()
    pace.add(100.0, 500)  # scored before, by an earlier command
    assert pace.rate == 0.0
    pace.add(110.0, 520)
    assert pace.rate == 2.0
    for second in range(120, 400, 10):
        pace.add(float(second), 520)
    assert pace.rate == 0.0
    pace.add(400.0, 5)  # begun again
    pace.add(401.0, 9)
    assert pace.rate == 4.0
