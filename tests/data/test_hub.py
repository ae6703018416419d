from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.data.formats import read_contexts, read_tasks
from raggym_env.data.hub import HubName, fetch, hub_name, hub_records
from raggym_env.errors import CardError, DataNotFound, MissingExtra

ROW = {
    "id": "5a8b",
    "question": "Who?",
    "answer": "yes",
    "type": "comparison",
    "level": "hard",
    "supporting_facts": {"title": ["A &amp; B", "C"], "sent_id": [0, 1]},
    "context": {"title": ["A &amp; B", "C"], "sentences": [["One."], ["Two.", " Three."]]},
}
NAME = HubName("hotpotqa/hotpot_qa", "distractor", "validation")


class FakeHub:
    """Stands in for `datasets.load_dataset` and records its calls."""

    def __init__(self, *rows: dict) -> None:
        self.rows = rows
        self.calls: list[tuple] = []

    def __call__(self, path: str, name: str | None, *, split: str) -> tuple[dict, ...]:
        self.calls.append((path, name, split))
        return self.rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hub:a/b:test", HubName("a/b", None, "test")),
        ("hub:a/b:config:test", HubName("a/b", "config", "test")),
        ("dev.json", None),
    ],
)
def test_a_hub_name_has_a_repository_a_split_and_sometimes_a_configuration(text, expected):
    assert hub_name(text) == expected
    assert expected is None or str(expected) == text


def test_the_file_of_a_hub_name_lies_in_the_folder_whatever_the_name_is():
    assert NAME.file == "hub-hotpotqa-hotpot_qa-distractor-validation.jsonl"
    assert HubName("a/b", "../..", "..\\..\\x").file == "hub-a-b-..-..-..-..-x.jsonl"


WRONG = ["hub:", "hub:a/b", "hub:a/b:", "hub::test", "hub:a:b:c:d", "hub:a/b::test", "hub:a/b: :test", "hub:a/b:c:d:e"]
# `datasets` also takes folders, files, URLs and the names of its own readers of files.
ELSEWHERE = [
    "hub:json:train",
    "hub:squad:test",
    "hub:../a:test",
    "hub:a/..:test",
    "hub:./a:x",
    "hub:/etc/a:x",
    "hub:~/a:x",
]
ELSEWHERE += [
    "hub:a/b/c:x",
    "hub:a\\b:x",
    "hub:C:/a:x",
    "hub:https://host/a:x",
    "hub:a/b?x:y",
    "hub:.a/b:x",
    "hub:a/b..c:x",
]
PARTS = [
    "..",
    ".",
    "x/../../y",
    "../y",
    "a/b",
    "..\\y",
    "a..b",
    ".a",
    "a.",
    "a b",
    "a\n",
    "x\x00",
    "%2e%2e",
    "~",
    "train[:1%]",
    "é/x",
]


@pytest.mark.parametrize(
    "text", [*WRONG, *ELSEWHERE, *(f"hub:a/b:{part}" for part in PARTS), *(f"hub:a/b:{part}:test" for part in PARTS)]
)
def test_a_wrong_hub_name_is_a_card_error(text):
    with pytest.raises(CardError, match=r"hub:OWNER/NAME\[:CONFIG\]:SPLIT"):
        hub_name(text)


@pytest.mark.parametrize("text", ["hub:a/b:20231101.en:train", "hub:A-1/b_c.d:all+x:train", "hub:o/n:1.0-rc.1:t_1"])
def test_dots_and_signs_inside_the_parts_of_a_hub_name_are_usual(text):
    assert str(hub_name(text)) == text


@given(st.lists(st.text(alphabet="ab./\\~-:\n", max_size=8), min_size=2, max_size=3))
def test_no_hub_name_leads_out_of_a_folder(parts):
    text = f"hub:{':'.join(parts)}"
    try:
        name = hub_name(text)
    except CardError:
        return
    assert str(name) == text
    for part in (*name.repository.split("/"), name.config or "x", name.split):
        assert ".." not in part
        assert not {"/", "\\", "\n", "~"} & set(part)
        assert part.strip(".") == part != ""


@pytest.fixture
def installed(monkeypatch) -> FakeHub:
    """Stands in for the `datasets` package. The hub counts as offline, so that nothing is sent to it."""
    fake = FakeHub(ROW)
    module = SimpleNamespace(load_dataset=fake, exceptions=SimpleNamespace(DatasetsError=ZeroDivisionError))
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return fake


def test_rows_are_downloaded_once_and_read_by_the_data_sets_own_reader(installed, tmp_path):
    path = fetch(NAME, tmp_path / "new")
    assert fetch(NAME, tmp_path / "new") == path
    assert installed.calls == [("hotpotqa/hotpot_qa", "distractor", "validation")]
    task = read_tasks(path, "hotpotqa")[0]
    assert (task.id, task.answers, task.gold_titles) == ("5a8b", ("yes",), ("A & B", "C"))
    assert [passage.text for passage in read_contexts(path, "hotpotqa")] == ["One.", "Two. Three."]


@pytest.mark.usefixtures("installed")
def test_a_folder_of_that_name_is_not_read_in_place_of_the_hub(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME.repository).mkdir(parents=True)
    with pytest.raises(DataNotFound, match="is a folder here"):
        fetch(NAME, tmp_path / "new")
    assert installed.calls == []


@pytest.mark.usefixtures("installed")
def test_a_data_set_that_would_fill_the_disk_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("raggym_env.data.hub._MAX_BYTES", 100)
    with pytest.raises(DataNotFound, match="the limit for a download"):
        fetch(NAME, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}


@pytest.mark.usefixtures("installed")
def test_an_interrupted_download_leaves_no_file(tmp_path, monkeypatch):
    def breaks(*_: object, **__: object):
        yield ROW
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["datasets"], "load_dataset", breaks)
        with pytest.raises(ConnectionError):
            fetch(NAME, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}
    assert json.loads(fetch(NAME, tmp_path).read_text()) == ROW


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install .*\[hub\]"):
        fetch(NAME, tmp_path)


def test_an_unreachable_hub_is_reported_before_datasets_is_called(installed, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(DataNotFound, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        fetch(NAME, tmp_path)
    assert installed.calls == []


@pytest.mark.usefixtures("installed")
def test_with_hf_hub_offline_the_server_is_not_contacted():
    assert [record.fields for record in hub_records(NAME)] == [ROW]


@pytest.mark.usefixtures("installed")
def test_a_data_set_that_the_hub_does_not_have_is_not_found(monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no such split")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", fails)
    with pytest.raises(DataNotFound, match="did not provide hotpotqa/hotpot_qa: no such split"):
        list(hub_records(NAME))
