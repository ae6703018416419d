"""`make demo` without the installation: what it prints and writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def demo(folder, *options):
    command = [sys.executable, "-W", "error", str(ROOT / "benchmarks" / "demo.py"), "--questions", "40", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo_ranks_says_the_critics_gain_shows_an_episode_and_writes_a_report(tmp_path):
    output = demo(tmp_path)
    ranks = re.findall(r"^\| \d \| (\S+(?: \(best of 8, critic mini\))?) \|", output, re.MULTILINE)
    assert ranks == ["gold_chain", "lexical (best of 8, critic mini)", "lexical", "single_search", "random"]
    (line,) = [line for line in output.splitlines() if line.startswith("The critic's gain: EM 0.")]
    assert re.search(r"\+0\.\d{3} \[[+-]\d\.\d{3}, \+\d\.\d{3}\] \(paired, 95 %; \d+ better", line)
    assert re.search(r"^\$ raggym show runs/demo/lexical_best_of_8 synth-test-\d+\nquestion ", output, re.MULTILINE)
    assert "✓ right" in output
    assert "Wrote runs/demo/report.html" in output
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 100_000


def test_the_demo_adds_rows_of_a_language_model_and_runs_again(tmp_path):
    script = tmp_path / "script.jsonl"
    script.write_text('{"pattern": "", "reply": "{\\"answer\\": \\"Oslo\\"}"}\n', encoding="utf-8")
    demo(tmp_path, "--questions", "3")
    output = demo(tmp_path, "--questions", "3", "--llm", f"scripted:{script}", "--llm-questions", "2")
    assert re.search(r"^\| \d \| direct \(scripted:.*\) \|.*2/2 \|", output, re.MULTILINE)
    assert re.search(r"^\| \d \| rag \(scripted:.*\) \|.*2/2 \|", output, re.MULTILINE)


def test_the_core_alone_is_enough_for_the_demo():
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import demo; "
        "print([name for name in ('torch', 'transformers', 'ray', 'numba', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
