"""`benchmarks/speed.py` times the environment of another package by an adapter, and keeps ratios."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import record
import speed

ADAPTER = """
class Env:
    def __init__(self, search):
        self.find = search
    def reset(self):
        self.history = []
    def search(self, query):
        self.history.append((query, self.find(query)))
    def answer(self, text):
        assert len(self.history) == 4 and len(self.history[0][1]) == 3
"""


def test_a_peer_is_timed_beside_our_environments(tmp_path):
    (tmp_path / "peer.py").write_text(ADAPTER)
    _, ratios = speed.stub_table(400, tmp_path / "peer.py")
    assert all(ratio > 0 for ratio in ratios.values())
    assert {"single / peer", "single / bare, wrapped"} <= ratios.keys()


def test_an_adapter_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="there is no file"):
        speed.load_peer(tmp_path / "nowhere.py")
    (tmp_path / "peer.py").write_text(ADAPTER.replace("def answer", "def reply"))
    with pytest.raises(SystemExit, match="it has no answer"):
        speed.load_peer(tmp_path / "peer.py")


def test_a_version_has_one_line_and_keeps_the_ratios_that_a_run_did_not_measure(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "HISTORY", tmp_path / "history")
    record.record("speed", "0.1.0", {"a": 0.5, "b": 1.23456})
    record.record("speed", "0.2.0", {"a": 0.6})
    record.record("speed", "0.1.0", {"a": 0.55})
    lines = record.read("speed")
    assert [line["version"] for line in lines] == ["0.1.0", "0.2.0"]
    assert lines[0]["ratios"] == {"a": 0.55, "b": 1.235}
