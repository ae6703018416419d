"""`raggym watch`: a run that goes on while it is watched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from raggym_env.cli import app
from raggym_env.cli import watch as watch_command
from raggym_env.cli.watch import Pace
from raggym_env.evaluation import build_leaderboard, evaluate
from raggym_env.storage.atomic import write_atomic
from towns import Reader, write_towns


@pytest.fixture
def run(tmp_path):
    return evaluate(write_towns(tmp_path / "towns"), Reader(fails={"q3"}), out=tmp_path / "run")[0].path


def watch(*arguments):
    return CliRunner().invoke(app, ["watch", *map(str, arguments), "--every", "0.1"])


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture
def held():
    """A process of its own that holds the lock of a folder, as a run does, until the test ends."""
    processes = []

    def hold(folder):
        code = "import sys; from pathlib import Path; from raggym_env.storage.work_folder import locked\n"
        code += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def rewrite(run, status, lines):
    record = json.loads((run / "run.json").read_text())
    # Replaced whole, as a run does: the watcher may read at any moment.
    write_atomic(run / "episodes.jsonl", "".join(lines))
    write_atomic(run / "run.json", json.dumps({**record, "status": status}))


def test_a_finished_run_is_shown_once_with_the_figures_of_the_leaderboard(run):
    before = contents(run)
    result = watch(run)
    mean, low, high = build_leaderboard([run]).boards[0].rows[0].scores.metrics["em"]
    assert result.exit_code == 0
    assert result.output.count("incomplete") == 1
    for part in ("11 of 12 scored", "1 failed", f"em {mean:.3f} [{low:.3f}, {high:.3f}]"):
        assert part in result.output
    assert contents(run) == before


def test_a_run_is_followed_to_its_end_through_a_resume(run, monkeypatch, held):
    held(run)
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


def test_a_run_that_still_loads_is_waited_for_and_a_folder_without_one_is_refused(run, tmp_path, monkeypatch, held):
    late = tmp_path / "late"
    late.mkdir()
    assert watch(late).exit_code == 1
    held(late)
    looks, ignored = iter((False, False, True)), shutil.ignore_patterns(".lock")

    def load(seconds):
        if next(looks):
            shutil.copytree(run, late, dirs_exist_ok=True, ignore=ignored)

    monkeypatch.setattr(watch_command.time, "sleep", load)
    result = watch(late)
    assert result.exit_code == 0
    assert result.output.count("waiting  for the first episode") == 1
    assert "11 of 12 scored" in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="a lock cannot be looked at")
def test_a_killed_run_is_told_from_a_running_one_and_says_what_resumes_it(run, held):
    rewrite(run, "running", (run / "episodes.jsonl").read_text().splitlines(keepends=True)[:4])
    record = json.loads((run / "run.json").read_text())
    command = ["/x/bin/raggym", "eval", "my card.toml", "--policy", "lexical; rm -rf ~", "--out", str(run)]
    (run / "run.json").write_text(json.dumps({**record, "command": command}))
    process = held(run)
    watcher = subprocess.Popen(
        [sys.executable, "-m", "raggym_env", "watch", str(run), "--every", "0.1"], stdout=subprocess.PIPE, text=True
    )
    assert watcher.stdout.readline().startswith("running")
    process.kill()
    output, _ = watcher.communicate(timeout=60)
    assert watcher.returncode == 0
    assert re.search(r"(?m)^stopped", output)
    assert "Not running: stopped or killed; the last episode was written at 20" in output
    assert "To resume it: raggym eval 'my card.toml' --policy 'lexical; rm -rf ~' --out" in output
    before = contents(run)
    assert "stopped" in watch(run).output
    assert contents(run) == before


@pytest.mark.parametrize("command", [None, ["bash", "-c", "x"], ["raggym"], ["raggym", "serve"], ["raggym", "eval", 5]])
def test_only_a_command_of_ours_is_named_to_resume_a_run(run, command):
    rewrite(run, "running", (run / "episodes.jsonl").read_text().splitlines(keepends=True)[:4])
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "command": command}))
    result = watch(run)
    assert result.exit_code == 0
    assert ("The same call resumes it." in result.output) == (command != ["raggym", "eval", 5])


def test_a_run_that_was_killed_before_its_first_episode_is_not_waited_for(tmp_path):
    (tmp_path / ".lock").touch()
    result = watch(tmp_path)
    assert result.exit_code == 0
    assert result.output.startswith("stopped")


def test_ctrl_c_ends_the_watching_and_says_that_the_run_goes_on(run, monkeypatch, held):
    held(run)
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
