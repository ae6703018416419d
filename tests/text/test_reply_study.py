"""A small run of `benchmarks/replies.py`: generated replies in every known form, end to end."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "replies.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("replies_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_of_500_generated_replies_none_is_read_as_what_the_model_did_not_say(benchmark):
    faults, wrong, forms = benchmark.study(500, seed=7)
    assert wrong == []
    assert set(faults.values()) == {0}
    assert forms.keys() >= {"finished", "cut off", "aborted", "error", "filtered", "tool call"}


def test_the_study_notices_a_wrong_reading(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "read_reply", lambda body, stop: benchmark.Reply([benchmark.Completion("{}")], None))
    faults, wrong, _ = benchmark.study(100, seed=7)
    assert wrong
    assert faults["outages scored"]
    assert faults["good actions unread"]
