from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("torch")
pytest.importorskip("transformers")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"


def run(*arguments, **variables):
    # torch with more threads than idle cores is many times slower.
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(["/bin/sh", SCRIPT, *arguments], env=env, capture_output=True, text=True)


def test_the_tiny_form_measures_everything_on_the_cpu_and_needs_no_network():
    unreachable = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    done = run("--tiny", **unreachable)
    assert done.returncode == 0, done.stderr
    for row in ("plain transformers, 1 at once", "3 scored: engine, 1 at once", "engine, 4 at once", "mini, 3", "bm25"):
        assert row in done.stdout


def test_without_a_gpu_the_message_names_the_tiny_form():
    done = run(CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "No GPU" in done.stderr
    assert "--tiny" in done.stderr
