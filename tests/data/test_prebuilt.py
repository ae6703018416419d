from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from raggym_env.cli import app
from raggym_env.data.prebuilt import fetch_prebuilt, prebuilt_file
from raggym_env.errors import DataNotFound, UnknownName

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch) -> list[tuple[str, str, str]]:
    """Stands in for the hub; records what is downloaded."""
    calls = []

    def download(repository: str, part: str, *, repo_type: str, local_dir: Path) -> str:
        calls.append((repository, part, repo_type))
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / part).write_bytes(part.encode())
        return str(local_dir / part)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "user"))
    return calls


def test_the_parts_are_downloaded_once_and_joined_in_their_order(calls):
    result = CliRunner().invoke(app, ["data", "get", "wiki-18-e5"], env={"COLUMNS": "400"})
    path = prebuilt_file("wiki-18-e5")
    assert (result.exit_code, str(path) in result.output) == (0, True)
    assert path.read_bytes() == b"part_aapart_ab"
    assert {file.suffix for file in path.parent.iterdir()} <= {".index", ".lock"}
    assert fetch_prebuilt("wiki-18-e5") == path
    assert calls == [("PeterJinGo/wiki-18-e5-index", part, "dataset") for part in ("part_aa", "part_ab")]


def test_a_file_of_the_users_own_needs_no_download(tmp_path, calls):
    path = tmp_path / "user" / "flashrag" / "e5_Flat.index"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert fetch_prebuilt("wiki-18-e5") == path
    assert calls == []


def test_what_is_missing_is_said_with_the_command_that_gets_it(monkeypatch):
    with pytest.raises(DataNotFound, match="raggym data get wiki-18-e5"):
        prebuilt_file("wiki-18-e5")
    with pytest.raises(UnknownName, match="Did you mean 'wiki-18-e5'"):
        prebuilt_file("wiki18-e5")

    def fails(*_: object, **__: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(DataNotFound, match="did not provide PeterJinGo/wiki-18-e5-index: disk full"):
        fetch_prebuilt("wiki-18-e5")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataNotFound, match="cannot be reached"):
        fetch_prebuilt("wiki-18-e5")
