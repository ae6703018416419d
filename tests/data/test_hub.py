from __future__ import annotations

import json

import pytest

from raggym_env.data.formats import read_contexts, read_tasks
from raggym_env.data.hub import HubName, fetch, hub_name
from raggym_env.errors import CardError, DataNotFound, MissingExtra
from raggym_env.network import require_hub

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
def test_hub_names_are_read(text, expected):
    assert hub_name(text) == expected


@pytest.mark.parametrize("text", ["hub:", "hub:a/b", "hub:a/b:", "hub::test", "hub:a:b:c:d"])
def test_a_wrong_hub_name_is_a_card_error(text):
    with pytest.raises(CardError, match=r"hub:OWNER/NAME\[:CONFIG\]:SPLIT"):
        hub_name(text)


def test_rows_are_downloaded_once_and_read_by_the_data_sets_own_reader(tmp_path):
    fake = FakeHub(ROW)
    path = fetch(NAME, tmp_path / "new", load_dataset=fake)
    assert fetch(NAME, tmp_path / "new", load_dataset=fake) == path
    assert fake.calls == [("hotpotqa/hotpot_qa", "distractor", "validation")]
    task = read_tasks(path, "hotpotqa")[0]
    assert (task.id, task.answers, task.gold_titles) == ("5a8b", ("yes",), ("A & B", "C"))
    assert [passage.text for passage in read_contexts(path, "hotpotqa")] == ["One.", "Two. Three."]


def test_a_download_that_breaks_off_leaves_no_file_that_counts(tmp_path):
    def breaks(*_: object, **__: object):
        yield ROW
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        fetch(NAME, tmp_path, load_dataset=breaks)
    assert not (tmp_path / NAME.file).exists()
    assert json.loads(fetch(NAME, tmp_path, load_dataset=FakeHub(ROW)).read_text()) == ROW


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"raggym-env\[hub\]"):
        fetch(NAME, tmp_path)


def test_a_hub_that_does_not_answer_is_said_at_once(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataNotFound, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        require_hub()


def test_an_offline_hub_is_not_asked(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    require_hub()
