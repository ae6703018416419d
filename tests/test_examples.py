"""The examples run, and print what they promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

PROMISES = {
    "best_of_n.py": "  8   0.",
    "evaluate_and_compare.py": "lexical against single_search, 150 questions:\nEM +0.",
    "own_policy.py": "TwoHops: EM 0.",
    "own_process_reward.py": ": Answer(text=",
    "own_retriever.py": "Search(query=",
    "sb3_ppo.py": "PPO after 256 steps: EM 0.",
    "training_loop.py": "mean return: +0.",
    "vector_loop.py": "Disabled  0.",
}

pytestmark = pytest.mark.slow


def output_of(script, folder):
    command = [sys.executable, "-W", "error", str(EXAMPLES / script)]
    # Torch warns of its own deprecations, which are not the example's.
    command = [part for part in command if script != "sb3_ppo.py" or part not in ("-W", "error")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested():
    assert PROMISES.keys() == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("script", sorted(PROMISES.keys() - {"sb3_ppo.py", "training_loop.py", "vector_loop.py"}))
def test_an_example_runs_and_prints_its_result(script, tmp_path):
    assert PROMISES[script] in output_of(script, tmp_path)


def test_the_training_loop_learns(tmp_path):
    output = output_of("training_loop.py", tmp_path)
    first, last = (float(word) for word in output.split() if word[0] in "+-")
    assert last > first + 0.1


def test_the_vector_loop_gives_the_same_outcomes_in_every_mode(tmp_path):
    lines = output_of("vector_loop.py", tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["NextStep", "SameStep", "Disabled"]
    assert len({line.split(maxsplit=1)[1] for line in lines}) == 1


def test_stable_baselines3_learns_over_an_agents_proposals(tmp_path):
    pytest.importorskip("stable_baselines3")
    assert PROMISES["sb3_ppo.py"] in output_of("sb3_ppo.py", tmp_path)
