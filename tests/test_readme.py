"""What the README shows is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(command, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run_as_they_stand(code, tmp_path):
    run([sys.executable, "-W", "error", "-c", code], tmp_path)


@pytest.mark.slow
def test_the_example_with_data_of_ones_own_works_from_an_empty_folder(tmp_path):
    (script,) = blocks("bash")
    out = run(["bash", "-euc", script], tmp_path)
    assert "2 of 2 questions scored; run folder: runs/MyDocs-v0_test_lexical_" in out


def test_the_layout_names_what_there_is():
    (layout,) = re.findall(r"## Layout\n\n```\n(.*?)```", README, re.DOTALL)
    root = Path(__file__).parents[1]
    named = re.findall(r"^    (\w+(?:\.py|/))", layout, re.MULTILINE)
    assert [name for name in named if not (root / "src" / "raggym_env" / name).exists()] == []
