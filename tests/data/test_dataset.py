from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from raggym_env import data
from raggym_env.cards import EnvCard, env_card
from raggym_env.data.dataset import tasks_fingerprint
from raggym_env.errors import CardError, DataNotFound, MalformedData, UnknownName

Splits = dict[str, list[dict[str, str]]]
MakeCard = Callable[..., EnvCard]
FIRST_AND_LAST: Splits = {
    "train": [{"questions": "q.jsonl", "corpus": "c.jsonl", "rows": "first 4"}],
    "test": [{"questions": "q.jsonl", "corpus": "c.jsonl", "rows": "last 4"}],
}


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAGGYM_DATA", raising=False)


@pytest.fixture
def make_card(tmp_path) -> MakeCard:
    def make(splits: Splits, folder: str = "set", **dataset: object) -> EnvCard:
        content = {"format": "jsonl", "folder": folder, "splits": splits, **dataset}
        return EnvCard.model_validate(
            {"name": "Mine", "path": tmp_path / "cards" / "Mine.toml", "title": "Mine", "dataset": content}
        )

    return make


def write_questions(folder: Path, count: int, name: str = "q.jsonl", start: int = 0) -> Path:
    rows = ({"id": f"q{n}", "question": f"Q{n}?", "golden_answers": ["a"]} for n in range(start, start + count))
    return write(folder / name, rows)


def write_corpus(folder: Path, name: str = "c.jsonl") -> Path:
    return write(folder / name, [{"id": "p0", "title": "T", "text": "x"}])


def write(path: Path, rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def ids(card: EnvCard, split: str, root: Path | None = None) -> list[str]:
    return [task.id for task in data.load_tasks(card, split, root=root).tasks]


@pytest.mark.parametrize(
    ("rows", "train", "test"),
    [
        (10, ["q0", "q1", "q2", "q3"], ["q6", "q7", "q8", "q9"]),
        (8, ["q0", "q1", "q2", "q3"], ["q4", "q5", "q6", "q7"]),
        (6, ["q0", "q1"], ["q2", "q3", "q4", "q5"]),
    ],
)
def test_first_and_last_rows_of_one_file_never_overlap_and_the_last_are_whole(tmp_path, make_card, rows, train, test):
    card = make_card(FIRST_AND_LAST)
    write_questions(tmp_path, rows)
    write_corpus(tmp_path)
    assert ids(card, "train", tmp_path) == train
    assert ids(card, "test", tmp_path) == test


def test_a_first_split_with_no_rows_left_is_not_found(tmp_path, make_card):
    card = make_card(FIRST_AND_LAST)
    write_questions(tmp_path, 3)
    write_corpus(tmp_path)
    assert ids(card, "test", tmp_path) == ["q0", "q1", "q2"]
    with pytest.raises(DataNotFound, match="has 3 questions and another split takes all of them"):
        data.load_tasks(card, "train", root=tmp_path)


def test_the_source_after_an_exhausted_one_gives_none_of_its_questions(tmp_path, make_card):
    splits = {**FIRST_AND_LAST, "train": [*FIRST_AND_LAST["train"], {"questions": "r.jsonl", "corpus": "c.jsonl"}]}
    write_questions(tmp_path, 3)
    write_questions(tmp_path, 4, "r.jsonl", start=1)
    write_corpus(tmp_path)
    assert ids(make_card(splits), "train", tmp_path) == ["q3", "q4"]


def test_a_source_is_complete_only_if_one_folder_has_all_its_files(tmp_path, make_card, monkeypatch):
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "user"))
    card = make_card(FIRST_AND_LAST)
    write_questions(tmp_path / "user" / "set", 9)
    write_corpus(tmp_path / "cache" / "datasets" / "set")
    with pytest.raises(DataNotFound):
        data.load_tasks(card, "test")
    write_questions(tmp_path / "cache" / "datasets" / "set", 5)
    assert data.load_tasks(card, "test").source.startswith(str(tmp_path / "cache"))


@pytest.mark.parametrize("place", ["user/set", "cache/datasets/set", "cards", "cards/set"])
def test_every_place_is_searched(tmp_path, make_card, monkeypatch, place):
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "user"))
    write_questions(tmp_path / place, 9)
    write_corpus(tmp_path / place)
    dataset = data.load(make_card(FIRST_AND_LAST))
    assert str(tmp_path / place) in dataset.source
    assert (len(dataset.tasks), len(dataset.corpus), dataset.split) == (4, 1, "test")


def test_an_explicit_root_is_the_only_place(tmp_path, make_card, monkeypatch):
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "user"))
    write_questions(tmp_path / "user" / "set", 9)
    write_corpus(tmp_path / "user" / "set")
    with pytest.raises(DataNotFound, match=r"root has no q\.jsonl and no c\.jsonl"):
        data.load_tasks(make_card(FIRST_AND_LAST), root=tmp_path / "root")


def test_gzip_variants_of_every_file_are_found(tmp_path, make_card):
    write_questions(tmp_path, 9, "q.jsonl.gz")
    write_corpus(tmp_path, "c.jsonl.gz")
    assert len(data.load(make_card(FIRST_AND_LAST), root=tmp_path).corpus) == 1


def test_sources_are_tried_in_order(tmp_path, make_card):
    sources = [{"questions": name, "corpus": "c.jsonl"} for name in ("one.jsonl", "two.jsonl")]
    card = make_card({"test": sources})
    write_corpus(tmp_path)
    write_questions(tmp_path, 2, "two.jsonl")
    assert len(ids(card, "test", tmp_path)) == 2
    write_questions(tmp_path, 1, "one.jsonl")
    assert len(ids(card, "test", tmp_path)) == 1


def test_a_malformed_source_is_not_skipped(tmp_path, make_card):
    sources = [{"questions": name, "corpus": "c.jsonl"} for name in ("one.jsonl", "two.jsonl")]
    write_corpus(tmp_path)
    write(tmp_path / "one.jsonl", [{}])
    write_questions(tmp_path, 2, "two.jsonl")
    with pytest.raises(MalformedData, match=r"one\.jsonl, line 1"):
        data.load_tasks(make_card({"test": sources}), root=tmp_path)


def test_the_error_for_missing_data_lists_the_files_the_folders_and_the_remedies(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "user"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(DataNotFound) as caught:
        data.load("RAGGym-HotpotQA-v0", "test")
    message = str(caught.value)
    assert f"{tmp_path}/user/hotpotqa has no hotpot_dev_open_v1.json and no corpus.jsonl" in message
    assert f"{tmp_path}/cache/datasets/hotpotqa has no hotpot_dev_distractor_v1.json" in message
    assert "hub:hotpotqa/hotpot_qa:distractor:validation" in message
    assert "`raggym data get RAGGym-HotpotQA-v0`" in message
    assert "https://hotpotqa.github.io" in message


def test_the_error_for_an_unknown_split_lists_the_splits(make_card):
    with pytest.raises(UnknownName, match=r"No split of Mine named 'tset'. Did you mean 'test'\? Known: test, train"):
        data.load_tasks(make_card(FIRST_AND_LAST), "tset")


def test_the_fingerprint_is_of_the_content_and_load_tasks_gives_the_same_as_load(tmp_path, make_card):
    card = make_card(FIRST_AND_LAST)
    write_questions(tmp_path, 9)
    write_corpus(tmp_path)
    dataset = data.load(card, "test", root=tmp_path)
    assert dataset.fingerprint == data.load_tasks(card, "test", root=tmp_path).fingerprint
    assert dataset.fingerprint != data.load_tasks(card, "train", root=tmp_path).fingerprint
    assert dataset.fingerprint == tasks_fingerprint(dataset.tasks)


def test_load_tasks_prepares_no_corpus(tmp_path, make_card):
    write_questions(tmp_path, 9)
    write_corpus(tmp_path)
    data.load_tasks(make_card(FIRST_AND_LAST), root=tmp_path)
    assert not (tmp_path / "cache").exists()


def test_hub_rows_in_the_cache_need_no_network(tmp_path, make_card):
    card = make_card({"test": [{"questions": "hub:a/b:test", "corpus": "c.jsonl", "rows": "last 2"}]})
    write_questions(tmp_path / "cache" / "datasets" / "set", 5, "hub-a-b-test.jsonl")
    write_corpus(tmp_path / "cache" / "datasets" / "set")
    assert ids(card, "test") == ["q3", "q4"]


def test_a_generated_split_has_its_rows_and_the_worlds_encyclopedia(make_card):
    card = make_card(
        {"test": [{"questions": "test", "rows": "first 20"}]}, format="synth", options={"passages": 300, "seed": 3}
    )
    dataset = data.load(card)
    titles = {passage.title for passage in dataset.corpus}
    assert (len(dataset.tasks), len(dataset.corpus)) == (20, 300)
    assert all(set(task.gold_titles) <= titles for task in dataset.tasks)
    assert dataset.fingerprint == data.load_tasks(card).fingerprint


@pytest.mark.parametrize(
    ("rows", "options"), [("all", {}), ("last 5", {}), ("first 5", {"sizes": 3}), ("first 5", {"passages": "many"})]
)
def test_a_generated_split_with_invalid_rows_or_options_is_a_card_error(make_card, rows, options):
    card = make_card({"test": [{"questions": "test", "rows": rows}]}, format="synth", options=options)
    with pytest.raises(CardError, match=r"Mine\.toml"):
        data.load(card)


SIZES = {
    ("RAGGym-HotpotQA-v0", "train"): 1000,
    ("RAGGym-HotpotQA-v0", "test"): 1000,
    ("RAGGym-HotpotQA-Train-v0", "train"): 1605,
    ("RAGGym-2WikiMultihopQA-v0", "train"): 494,
    ("RAGGym-2WikiMultihopQA-v0", "test"): 903,
    ("RAGGym-Bamboogle-v0", "test"): 125,
    ("RAGGym-MedQA-v0", "train"): 1000,
    ("RAGGym-MedQA-v0", "test"): 1273,
}


@pytest.mark.parametrize(("name", "split"), SIZES)
def test_the_real_files_have_the_expected_questions(real_data, name, split):
    tasks = data.load_tasks(name, split, root=real_data).tasks
    assert len(tasks) == SIZES[name, split]
    assert all((task.correct is not None) == (name == "RAGGym-MedQA-v0") for task in tasks)


@pytest.mark.parametrize("name", ["RAGGym-HotpotQA-v0", "RAGGym-2WikiMultihopQA-v0", "RAGGym-MedQA-v0"])
def test_the_real_splits_share_no_question(real_data, name):
    assert not set(ids(env_card(name), "train", real_data)) & set(ids(env_card(name), "test", real_data))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("RAGGym-2WikiMultihopQA-v0", "train"),
        ("RAGGym-2WikiMultihopQA-v0", "test"),
        ("RAGGym-HotpotQA-Train-v0", "train"),
    ],
)
def test_every_real_gold_title_is_a_title_of_the_corpus(real_data, name, split):
    dataset = data.load(name, split, root=real_data)
    titles = {passage.title for passage in dataset.corpus}
    assert all(set(task.gold_titles) <= titles for task in dataset.tasks)
