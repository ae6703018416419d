"""The bar of `raggym eval` and `raggym collect`, and what stands beside it."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys

import raggym_env.errors
from raggym_env.cli._progress import EpisodeBar
from raggym_env.errors import MissingExtra
from raggym_env.evaluation import evaluate
from towns import Reader, write_towns

LOGGER = logging.getLogger("raggym_env.retrieval.dense")


def test_the_bar_shows_what_is_loaded_with_a_rate_until_the_first_episode_ends():
    bar, parent = EpisodeBar("lexical"), logging.getLogger("raggym_env")
    level, handlers = parent.level, list(parent.handlers)
    with bar:
        LOGGER.info("Building the %s index %s", "bm25", "\x1b[31mfolder\nforged")
        assert bar.tasks[0].description == "Building the bm25 index [31mfolder forged"
        for created, done in ((100.0, 1_000), (102.0, 3_000)):
            text = "Embedded %d of %d passages"
            record = LOGGER.makeRecord(LOGGER.name, logging.INFO, "", 0, text, (done, 9_000), None)
            record.created = created
            LOGGER.handle(record)
        assert bar.tasks[0].description == "Embedded 3000 of 9000 passages"
        assert bar.tasks[0].fields["rate"] == "1,000/s"
        bar(1, 2, {"error": None, "stop": "answer", "steps": [{"outcome": 1.0}]})
        LOGGER.info("Loading something late")
        assert bar.tasks[0].description == "lexical"
    assert (parent.level, parent.handlers) == (level, handlers)
    assert os.environ["TQDM_DISABLE"]


def test_the_score_of_a_resumed_run_includes_what_was_recorded_and_its_rate_does_not():
    bar = EpisodeBar("lexical")
    with bar:
        bar.resume([1.0, 1.0, 0.0])
        bar(4, 5, {"error": None, "stop": "answer", "steps": [{"outcome": 0.0}]})
        assert bar.tasks[0].fields["score"] == "score 0.500"
        bar(5, 5, {"error": "LLMError: gone", "stop": None, "steps": []})
        assert bar.tasks[0].fields["score"] == "score 0.500"


def test_a_run_tells_its_progress_which_outcomes_were_recorded(tmp_path):
    card, out, resumed = write_towns(tmp_path / "towns"), tmp_path / "run", []

    class Recorder:
        def resume(self, outcomes):
            resumed.append(sorted(outcomes))

        def __call__(self, completed, total, record):
            resumed.append((completed, total, record["id"]))

    _, scores = evaluate(card, Reader(fails={"q3"}), out=out, progress=Recorder())
    assert (resumed[0], scores.failed) == ([], 1)
    resumed.clear()
    evaluate(card, Reader(fails={"q3"}), out=out, progress=Recorder())
    assert resumed == [[1.0] * 11, (12, 12, "q3")]


def test_a_warning_is_shown_beside_the_bar(capsys):
    with EpisodeBar("lexical"):
        LOGGER.warning("titles %s", "\x1b[31mred\nforged")
    assert capsys.readouterr().err.startswith("warning: titles [31mred forged")


def test_an_install_hint_works_in_a_checkout_and_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(raggym_env.errors, "__file__", str(tmp_path / "my repo" / "src" / "raggym_env" / "errors.py"))
    assert str(MissingExtra("x", "llm")).endswith('pip install "raggym-env[llm]"')
    (tmp_path / "my repo").mkdir()
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / "my repo" / name).touch()
    command = str(MissingExtra("x", "llm")).partition(": ")[2]
    root = f"{tmp_path}/my repo"
    assert shlex.split(command) == ["pip", "install", "-c", f"{root}/constraints.txt", "-e", f"{root}[llm]"]


def test_help_loads_neither_arrow_nor_torch():
    code = "import sys; from raggym_env.cli import app; app(['--help'], standalone_mode=False); "
    code += "print({'pyarrow', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("set()\n")
