from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from raggym_env.errors import RetrievalError, UnknownName
from raggym_env.models.files import Source, find
from tiny_encoders import on_the_hub

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """The hub's cache, empty, on a machine without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def a_model(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def source(name: str | Path) -> Source:
    return find(str(name), hub=str(name), suggestions=["minilm"])


def connect_error() -> Exception:
    """An error of the HTTP library that the hub's client uses, which differs between its versions."""
    from huggingface_hub.errors import HfHubHTTPError

    return type("ConnectError", (HfHubHTTPError.__bases__[0],), {})("no route to the hub")


def test_a_folder_is_identified_by_its_content_and_not_by_its_location(tmp_path):
    one, same, other = a_model(tmp_path / "a"), a_model(tmp_path / "b"), a_model(tmp_path / "c", b"others")
    for note in ("README.md", "raggym.json"):
        (same / note).write_text("does not change what the model computes")
    assert source(one).identity == source(same).identity != source(other).identity
    (same / "1_Pooling" / "config.json").write_text("[]")
    assert source(one).identity != source(same).identity


def test_a_model_of_the_hub_is_identified_by_its_commit(hub):
    folder = on_the_hub(hub, "owner/name", a_model, commit="a" * 40)
    assert source("owner/name") == Source(folder, {"hub": "owner/name", "commit": "a" * 40})


def test_a_model_of_the_catalogue_is_taken_from_the_cache(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path))
    folder = a_model(tmp_path / "models" / "minilm")
    (folder / "raggym.json").write_text("{}")
    assert source("minilm") == Source(folder, source(folder).identity)


@pytest.mark.parametrize(
    ("name", "hub_name", "command"),
    [
        ("minilm", "sentence-transformers/all-MiniLM-L6-v2", "raggym models get minilm"),
        ("some/model", "some/model", "hf download some/model"),
    ],
)
def test_without_a_network_the_error_says_how_to_get_the_model(hub, name, hub_name, command):
    with pytest.raises(RetrievalError, match=rf"HF_HUB_OFFLINE is set.*{command}"):
        find(name, hub=hub_name, suggestions=[])


def test_a_hub_that_cannot_be_reached_is_one_clear_error_within_seconds(hub, monkeypatch):
    from huggingface_hub import HfApi, constants

    def unreachable(self, name, timeout, files_metadata):
        assert timeout <= 10
        raise connect_error()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", unreachable)
    with pytest.raises(RetrievalError, match=r"not available: ConnectError: no route.*hf download owner/name"):
        source("owner/name")


def test_a_download_that_breaks_off_is_one_clear_error(hub, monkeypatch):
    from huggingface_hub import HfApi, constants

    def download(name, *, local_files_only=False, **options):
        raise FileNotFoundError("not in the cache") if local_files_only else connect_error()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    info = SimpleNamespace(sha="a" * 40, siblings=None)
    monkeypatch.setattr(HfApi, "model_info", lambda *args, **options: info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(RetrievalError, match=r"not available: ConnectError: no route.*hf download owner/name"):
        source("owner/name")


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'minilm'"):
        source("minilmm")
