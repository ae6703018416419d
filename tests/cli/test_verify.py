import json
import shutil

import pytest
from typer.testing import CliRunner

from hostile_files import sign
from raggym_env.cli import app
from raggym_env.storage.paths import cache_dir
from towns import write_towns


def raggym(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def card(tmp_path, monkeypatch):
    """The card of an environment whose corpus and index are in the cache."""
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    card = write_towns(tmp_path / "towns")
    assert raggym("eval", card, "--policy", "lexical", "--out", tmp_path / "run").exit_code == 0
    return card


def test_what_is_whole_is_listed_line_by_line(card):
    data, index, env = raggym("data", "verify"), raggym("index", "verify"), raggym("data", "verify", card)
    assert (data.exit_code, index.exit_code, env.exit_code) == (0, 0, 0)
    assert data.stdout.startswith("ok towns-corpus-jsonl-")
    assert "12 passages of" in data.stdout
    assert "bm25 index of 12 passages, 0.0 MB" in index.stdout
    assert [line.split()[:3] for line in env.stdout.splitlines()] == [
        ["ok", "Towns-v0", "test:"],
        ["ok", "Towns-v0", "train:"],
    ]
    assert "12 questions; 12 passages" in env.stdout


def test_nothing_to_verify_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path))
    for command in ("data", "index"):
        result = raggym(command, "verify")
        assert (result.exit_code, result.stdout) == (0, "There is nothing to verify.\n")


def test_a_damaged_index_is_named_and_the_others_are_checked(card):
    [folder] = (cache_dir() / "indexes").glob("bm25-*/")
    twin = shutil.copytree(folder, folder.with_name("bm25-copy"))
    file = folder / "data.csc.index.npy"
    file.write_bytes(file.read_bytes()[:-4] + b"\xff\xff\xff\xff")
    result = raggym("index", "verify")
    assert result.exit_code == 1
    damaged, whole = result.stdout.splitlines()
    assert damaged.startswith(f"damaged {folder.name}: ")
    assert "the content of data.csc.index.npy is not what was written" in damaged
    assert whole.startswith("ok bm25-copy: ")
    assert raggym("index", "verify", twin).exit_code == 0
    # With a new checksum the number itself is noticed.
    sign(folder)
    assert "out of range or order" in raggym("index", "verify", folder).stdout


def test_a_damaged_corpus_and_a_replaced_source_are_named(card):
    [folder] = (cache_dir() / "corpora").glob("*/")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "other"}))
    result = raggym("data", "verify")
    assert result.exit_code == 1
    assert "its passages have the fingerprint" in result.stdout
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert raggym("data", "verify", card).exit_code == 0
    source = json.loads((folder / "source.json").read_text())
    source["corpus.jsonl"]["blake2b"] = "0" * 32
    (folder / "source.json").write_text(json.dumps(source))
    result = raggym("data", "verify", card)
    assert result.exit_code == 1
    assert "was prepared from another" in result.stdout


def test_a_question_file_that_is_missing_or_malformed_is_named(card):
    (card.parent / "questions.jsonl").write_text("{")
    result = raggym("data", "verify", card)
    assert result.exit_code == 1
    assert result.stdout.count("damaged Towns-v0") == 2


@pytest.mark.parametrize("folder", ["", "nowhere", "file"])
def test_a_folder_without_an_index_is_one_clear_error(tmp_path, folder):
    (tmp_path / "file").touch()
    result = raggym("index", "verify", tmp_path / folder)
    assert result.exit_code == 1
    assert "is neither an index nor a folder that holds indexes" in result.output


@pytest.mark.parametrize(
    "manifest",
    ["{", "[]", "{}", {"kind": "x"}, {"key": {}}, {"key": {"corpus": {"passages": "12"}}}, {"key": {"vectors": []}},
     {"kind": "dense"}, {"kind": "embeddings"}, {"format": 1}],
)  # fmt: skip
def test_a_manifest_of_any_content_is_one_clear_error(card, manifest):
    [folder] = (cache_dir() / "indexes").glob("bm25-*/")
    content = json.loads((folder / "manifest.json").read_text())
    text = manifest if isinstance(manifest, str) else json.dumps({**content, **manifest})
    (folder / "manifest.json").write_text(text)
    result = raggym("index", "verify")
    assert result.exit_code == 1
    assert result.stdout.startswith("damaged bm25-")
