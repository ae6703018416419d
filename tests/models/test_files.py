from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from raggym_env.errors import RetrievalError, UnknownName
from raggym_env.models.files import Source, UnsafeFiles, check_files, find, hub_folder
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


# What strangers' files may lead to.


def a_folder(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


MODULES = "sentence_transformers.models"
PLAIN = {"config.json": {}, "model.safetensors": b"weights"}
SHARDED = {
    "model.safetensors.index.json": {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}},
    "model-1-of-2.safetensors": b"",
    "model-2-of-2.safetensors": b"",
}


def modules(*parts: tuple[str, str]) -> dict[str, object]:
    rows = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(parts)]
    return {"modules.json": rows}


DENSE = modules(("", f"{MODULES}.Transformer"), ("1_Pooling", f"{MODULES}.Pooling"), ("2_Dense", f"{MODULES}.Dense"))


@pytest.mark.parametrize(
    "files",
    [
        PLAIN,
        SHARDED,
        {**PLAIN, "pytorch_model.bin": b"pickle"},
        {**PLAIN, "training_args.bin": b"pickle", "optimizer.pt": b"pickle"},
        {"config.json": {"transformers_weights": "other.safetensors"}, "other.safetensors": b""},
        {**PLAIN, **DENSE, "2_Dense/model.safetensors": b"", "2_Dense/pytorch_model.bin": b"pickle"},
        {**modules(("0_Transformer", f"{MODULES}.Transformer")), "0_Transformer/model.safetensors": b""},
        {**PLAIN, **modules(("", "sentence_transformers.base.modules.transformer.Transformer"))},
        {"model.safetensors": b""},
        {**PLAIN, "config.json": {"_attn_implementation": "eager", "attn_implementation": "sdpa"}},
    ],
    ids=lambda files: ", ".join(files),
)
def test_a_folder_of_safetensors_is_read(tmp_path, files):
    check_files(a_folder(tmp_path, files))


UNSAFE = {
    "only a pickle": ({"config.json": {}, "pytorch_model.bin": b""}, "no safetensors weights, but pytorch_model.bin"),
    "sharded pickles": ({"pytorch_model-00001-of-2.bin": b""}, "no safetensors weights, but"),
    "no weights": ({"config.json": {}}, "no safetensors weights"),
    "flax": ({"config.json": {}, "flax_model.msgpack": b""}, "no safetensors weights"),
    "a pickle in a module": (
        {**PLAIN, **DENSE, "2_Dense/pytorch_model.bin": b""},
        "2_Dense has no safetensors weights",
    ),
    "a pickle beside a file of another name": (
        {**PLAIN, **DENSE, "2_Dense/pytorch_model.bin": b"", "2_Dense/other.safetensors": b""},
        "2_Dense has no safetensors weights",
    ),
    "a folder in place of the weights": (
        {**PLAIN, **DENSE, "2_Dense/pytorch_model.bin": b"", "2_Dense/model.safetensors/x": b""},
        "2_Dense has no safetensors weights",
    ),
    "an index of pickles": (
        {**SHARDED, "model.safetensors.index.json": {"weight_map": {"a": "pytorch_model.bin"}}},
        "'pytorch_model.bin' as a file of weights",
    ),
    "an index that leads out": (
        {**SHARDED, "model.safetensors.index.json": {"weight_map": {"a": "../model.safetensors"}}},
        "as a file of weights",
    ),
    "an index with an absolute path": (
        {**SHARDED, "model.safetensors.index.json": {"weight_map": {"a": "/etc/model.safetensors"}}},
        "as a file of weights",
    ),
    "an index with a drive": (
        {**SHARDED, "model.safetensors.index.json": {"weight_map": {"a": "C:\\model.safetensors"}}},
        "as a file of weights",
    ),
    "an index of numbers": ({**SHARDED, "model.safetensors.index.json": {"weight_map": {"a": 7}}}, "'7' as a file"),
    "an index of a list": ({**SHARDED, "model.safetensors.index.json": {"weight_map": ["a"]}}, "as a file of weights"),
    "an index that is a list": ({**SHARDED, "model.safetensors.index.json": []}, "holds no object"),
    "a configuration that names a pickle": (
        {**PLAIN, "config.json": {"transformers_weights": "evil.bin"}, "evil.bin": b""},
        "'evil.bin' as a file of weights",
    ),
    "a configuration that leads out": (
        {**PLAIN, "config.json": {"transformers_weights": "../x.safetensors"}},
        "as a file of weights",
    ),
    "a configuration that names a number": (
        {**PLAIN, "config.json": {"transformers_weights": 7}},
        "as a file of weights",
    ),
    "a configuration nested deeply": ({**PLAIN, "config.json": b'{"a":' * 100_000}, "cannot be read"),
    "a configuration that is a list": ({**PLAIN, "config.json": []}, "holds no object"),
    "a configuration that names a kernel": (
        {**PLAIN, "config.json": {"attn_implementation": "evil/kernel"}},
        "names code on the hub, 'evil/kernel'",
    ),
    "an adapter": ({**PLAIN, "adapter_config.json": {"base_model_name_or_path": "../x"}}, "names another model"),
    "an adapter in a module": (
        {**PLAIN, **DENSE, "2_Dense/model.safetensors": b"", "2_Dense/adapter_config.json": {}},
        "names another model",
    ),
    "a module outside": ({**PLAIN, **modules(("../x", f"{MODULES}.Dense"))}, "a folder outside of it, '../x'"),
    "a module at the root": ({**PLAIN, **modules(("/etc", f"{MODULES}.Dense"))}, "a folder outside of it, '/etc'"),
    "a module without a path": (
        {**PLAIN, "modules.json": [{"type": f"{MODULES}.Dense"}]},
        "a folder outside of it, None",
    ),
    "a module of its own": ({**PLAIN, **modules(("", "modeling_evil.Evil"))}, "that is not one of"),
    "another module": ({**PLAIN, **modules(("", "os.Dense"))}, "that is not one of"),
    "a prefix": ({**PLAIN, **modules(("", "sentence_transformersx.Dense"))}, "that is not one of"),
    "a class that reads pickles": ({**PLAIN, **modules(("", f"{MODULES}.WordEmbeddings"))}, "that is not one of"),
    "a module that is no object": ({**PLAIN, "modules.json": ["x"]}, "that is not one of"),
    "modules that are no list": ({**PLAIN, "modules.json": {}}, "holds no list"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_what_leads_to_a_pickle_or_out_of_the_folder_is_refused(tmp_path, case):
    files, message = UNSAFE[case]
    with pytest.raises(UnsafeFiles, match=re.escape(message)):
        check_files(a_folder(tmp_path, files))


def test_a_refused_pickle_comes_with_the_way_to_convert_it(tmp_path):
    with pytest.raises(UnsafeFiles, match=r"can run code.*save_pretrained\(FOLDER\).*write safetensors"):
        check_files(a_folder(tmp_path, {"pytorch_model.bin": b""}))


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(a_folder(tmp_path, PLAIN) / "modules.json")
    with pytest.raises(UnsafeFiles, match="not a regular file"):
        check_files(tmp_path)


@pytest.mark.parametrize("name", ["a/..", "../b", "a/../b", "./a/b", "a/b/c", "/a/b", "a/b\n", "~/b", "C:/b"])
def test_a_name_that_leads_elsewhere_is_not_looked_for_on_the_hub(name, hub):
    with pytest.raises(UnknownName, match="OWNER/NAME"):
        find(name, hub=name, suggestions=["minilm"])


def test_a_download_that_was_cut_short_is_completed(hub, monkeypatch):
    """Another program may have downloaded one of several files of weights."""
    from huggingface_hub import constants

    folder = on_the_hub(hub, "owner/name", lambda folder: a_folder(folder, SHARDED))
    assert hub_folder("owner/name") == folder
    (folder / "model-2-of-2.safetensors").unlink()
    calls = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("raggym_env.models.files.hub_snapshot", lambda name, **options: calls.append(options) or folder)
    assert hub_folder("owner/name") == folder
    [options] = calls
    assert not any(
        pattern.endswith(suffix) for pattern in options["allow_patterns"] for suffix in (".bin", ".pt", ".py")
    )
