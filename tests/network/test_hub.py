from types import SimpleNamespace

import pytest

from raggym_env.network.hub import HubUnreachable, hub_snapshot, require_hub
from raw_server import head, raw_server


@pytest.fixture(autouse=True)
def online(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_a_hub_that_does_not_answer_is_an_error_within_seconds(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachable, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        require_hub()


@pytest.mark.parametrize("endpoint", ["nonsense", "http://user:hunter2@host", "ftp://host", "http://["])
def test_an_endpoint_that_is_no_url_is_an_error_that_repeats_no_password(endpoint, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(HubUnreachable, match="HF_ENDPOINT") as caught:
        require_hub()
    assert "hunter2" not in str(caught.value)


def test_an_offline_hub_gets_no_request(monkeypatch):
    with raw_server(lambda connection: None) as server:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        require_hub()
    assert server.requests == []


def test_any_answer_of_the_hub_will_do(monkeypatch):
    with raw_server(lambda connection: connection.sendall(head(length=10**9))) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        require_hub()
    assert len(server.requests) == 1


@pytest.fixture
def snapshots(monkeypatch):
    """The calls of `snapshot_download`, for a model of four files of 20 GB each."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    names = ("model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "x/model.safetensors")
    files = [SimpleNamespace(rfilename=name, size=20 << 30) for name in names]
    info = SimpleNamespace(sha="a" * 40, siblings=files)
    calls = []
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, **options: info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: calls.append(options) or "folder")
    return calls


def test_a_download_is_of_the_commit_that_was_measured(snapshots):
    hub_snapshot("owner/name", allow_patterns=["*.safetensors"])
    assert snapshots == [{"revision": "a" * 40, "allow_patterns": ["*.safetensors"]}]


def test_a_model_that_would_fill_the_disk_is_not_downloaded(snapshots):
    with pytest.raises(HubUnreachable, match=r"owner/name has 86 GB.*hf download owner/name"):
        hub_snapshot("owner/name")
    assert snapshots == []


@pytest.mark.parametrize("name", ["../x", "a/..", "a/../b", "/etc", "a/b/c", "", "a/b\n", "http://host/a/b", "~/a"])
def test_what_is_no_name_of_a_model_is_not_sent_to_the_hub(name, snapshots):
    with pytest.raises(HubUnreachable, match="not the name of a model"):
        hub_snapshot(name)
    assert snapshots == []
