from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from raggym_env.cards import DatasetCard, EnvCard, Source, env_card, override
from raggym_env.data.dataset import load, load_tasks
from raggym_env.data.sources import locate, places
from raggym_env.errors import CardError, DataNotFound
from raggym_env.storage.paths import card_names

SHARED = {"sources": [{"questions": "q.jsonl", "corpus": "c.jsonl"}, {"questions": "r.jsonl"}]}


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "user"))


def dataset(splits: object, **keys: object) -> DatasetCard:
    return DatasetCard.model_validate({"format": "jsonl", "splits": splits, **keys})


def test_a_split_of_rows_takes_them_from_every_shared_source_in_order():
    card = dataset({"train": "first 5", "test": "all"}, **SHARED)
    assert card.sources_of("train") == (Source("q.jsonl", "c.jsonl", "first 5"), Source("r.jsonl", rows="first 5"))
    assert card.sources_of("test") == (Source("q.jsonl", "c.jsonl"), Source("r.jsonl"))


def test_a_split_with_sources_of_its_own_uses_no_shared_one():
    card = dataset({"train": "all", "test": [{"questions": "t.jsonl", "rows": "last 2"}]}, **SHARED)
    assert card.sources_of("test") == (Source("t.jsonl", "contexts", "last 2"),)


def test_lists_of_files_stand_for_every_pair_and_the_corpora_are_tried_in_turn():
    card = dataset({"test": "all"}, sources=[{"questions": ["q", "r"], "corpus": ["c", "d"]}])
    pairs = [(source.questions, source.corpus) for source in card.sources_of("test")]
    assert pairs == [("q", "c"), ("r", "c"), ("q", "d"), ("r", "d")]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"splits": {"test": "all"}}, "split 'test' has no source"),
        ({"splits": {"test": []}}, "split 'test' has no source"),
        ({"splits": {"test": "middle 3"}, **SHARED}, r"splits\.test\.rows"),
        ({"splits": {"test": [{"questions": "q", "rows": "first 0"}]}}, r"splits\.test\.sources\.0\.rows"),
        ({"splits": {"test": [{"questions": []}]}}, r"splits\.test\.sources\.0\.questions"),
        ({"splits": {"test": "all"}, "sources": [{"questions": "q", "rows": "all"}]}, r"sources\.0\.rows"),
    ],
)
def test_a_split_without_files_or_with_wrong_rows_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        DatasetCard.model_validate({"format": "jsonl", **keys})


@pytest.mark.parametrize("name", ["../q.jsonl", "a/../../q.jsonl", "/etc/passwd", "C:\\q.jsonl", "..\\q.jsonl"])
@pytest.mark.parametrize("key", ["questions", "corpus"])
def test_a_file_outside_the_data_sets_folder_is_refused(key, name):
    with pytest.raises(ValidationError, match="a file must lie in the data set's folder"):
        dataset({"test": [{"questions": "q.jsonl", key: name}]})


def test_rows_of_a_split_and_shared_files_can_be_overridden():
    card = env_card("RAGGym-HotpotQA-v0")
    changed = override(card, {"dataset.splits.test": "last 5", "dataset.sources": [{"questions": "mine.json"}]})
    assert changed.dataset.sources_of("test") == (Source("mine.json", rows="last 5"),)
    assert changed.dataset.sources_of("train") == (Source("mine.json", rows="first 1000"),)
    with pytest.raises(CardError, match=r"dataset\.splits\.test\.rows"):
        override(card, {"dataset.splits.test": "some"})


@pytest.mark.parametrize("name", card_names("envs"))
def test_a_card_read_back_from_a_run_has_the_same_sources(name):
    card = env_card(name)
    again = EnvCard.model_validate_json(card.model_dump_json())
    assert again == card
    assert [again.dataset.sources_of(split) for split in again.dataset.splits] == [
        card.dataset.sources_of(split) for split in card.dataset.splits
    ]


HOTPOTQA = "hotpot_dev_distractor_v1.json", "hub:hotpotqa/hotpot_qa:distractor:validation"
HOTPOTQA_WIKI = "wiki_hotpotqa.jsonl", "hub:RAG-Gym/wiki_hotpotqa:train"
WIKI_TEST = "hub:framolfese/2WikiMultihopQA:validation"
MEDQA_HUB = "hub:GBaker/MedQA-USMLE-4-options"
MEDRAG = "hub:MedRAG/textbooks:train"
WIKI18 = "wiki-18.jsonl", "hub:PeterJinGo/wiki-18-corpus:train"
ABSTRACTS = "enwiki-20171001-pages-meta-current-withlinks-abstracts"


def flashrag(name: str, **parts: str) -> dict[str, list[tuple[str, str, str]]]:
    """Return the sources of a data set in FlashRAG's collection; `parts` are its files by split."""
    return {
        split: [
            (questions, corpus, "all")
            for corpus in WIKI18
            for questions in (f"{name}/{part}.jsonl", f"hub:RUC-NLPIR/FlashRAG_datasets:{name}:{part}")
        ]
        for split, part in parts.items()
    }


RESOLVED = {
    "RAGGym-NQ-v0": flashrag("nq", train="train", test="test"),
    "RAGGym-TriviaQA-v0": flashrag("triviaqa", train="train", test="test"),
    "RAGGym-PopQA-v0": flashrag("popqa", test="test"),
    "RAGGym-HotpotQA-Wiki18-v0": flashrag("hotpotqa", train="train", test="dev"),
    "RAGGym-2WikiMultihopQA-Wiki18-v0": flashrag("2wikimultihopqa", train="train", test="dev"),
    "RAGGym-MuSiQue-Wiki18-v0": flashrag("musique", train="train", test="dev"),
    "RAGGym-Bamboogle-Wiki18-v0": flashrag("bamboogle", test="test"),
    "RAGGym-MuSiQue-v0": {
        "train": [
            ("musique_ans_v1.0_train.jsonl", "contexts", "all"),
            ("hub:dgslibisey/MuSiQue:train", "contexts", "first 2000"),
        ],
        "test": [
            ("musique_ans_v1.0_dev.jsonl", "contexts", "all"),
            ("hub:dgslibisey/MuSiQue:validation", "contexts", "all"),
        ],
    },
    "RAGGym-BrowseCompPlus-v0": {
        "test": [
            ("browsecomp_plus_decrypted.jsonl", "corpus.jsonl", "all"),
            ("browsecomp_plus_decrypted.jsonl", "hub:Tevatron/browsecomp-plus-corpus:train", "all"),
        ]
    },
    "RAGGym-HotpotQA-Fullwiki-v0": {
        split: [(file, corpus, "all") for corpus in (f"{ABSTRACTS}.tar.bz2", ABSTRACTS) for file in files]
        for split, files in (
            ("train", ("hotpot_train_v1.1.json", "hub:hotpotqa/hotpot_qa:fullwiki:train")),
            ("test", ("hotpot_dev_fullwiki_v1.json", HOTPOTQA[0], "hub:hotpotqa/hotpot_qa:fullwiki:validation")),
        )
    },
    "RAGGym-HotpotQA-v0": {
        split: [
            ("hotpot_dev_open_v1.json", "corpus.jsonl", rows),
            (HOTPOTQA[0], "contexts", rows),
            (HOTPOTQA[1], "contexts", rows),
        ]
        for split, rows in (("train", "first 1000"), ("test", "last 1000"), ("held_out", "after 1000"))
    },
    "RAGGym-HotpotQA-Train-v0": {
        "train": [
            ("hotpot_train_v1.1.json", "contexts", "all"),
            ("hub:hotpotqa/hotpot_qa:distractor:train", "contexts", "first 2000"),
        ]
    },
    "RAGGym-HotpotQA-Wiki-v0": {
        split: [
            (HOTPOTQA[0], HOTPOTQA_WIKI[0], rows),
            (HOTPOTQA[1], HOTPOTQA_WIKI[0], rows),
            (HOTPOTQA[0], HOTPOTQA_WIKI[1], rows),
            (HOTPOTQA[1], HOTPOTQA_WIKI[1], rows),
        ]
        for split, rows in (("train", "first 1000"), ("test", "last 1000"))
    },
    "RAGGym-2WikiMultihopQA-v0": {
        "train": [
            ("train.json", "contexts", "all"),
            ("hub:framolfese/2WikiMultihopQA:train", "contexts", "first 1000"),
        ],
        "test": [
            ("dev_open.json", "corpus.jsonl", "last 1000"),
            ("dev.json", "contexts", "last 1000"),
            (WIKI_TEST, "contexts", "last 1000"),
        ],
    },
    "RAGGym-2WikiMultihopQA-Wiki-v0": {
        "test": [
            ("dev.json", "wikipedia.jsonl", "last 1000"),
            (WIKI_TEST, "wikipedia.jsonl", "last 1000"),
            ("dev.json", "hub:MedRAG/wikipedia:train", "last 1000"),
            (WIKI_TEST, "hub:MedRAG/wikipedia:train", "last 1000"),
        ]
    },
    "RAGGym-Bamboogle-v0": {"test": [("Bamboogle_Prerelease.tsv", "corpus.jsonl", "all")]},
    "RAGGym-Bamboogle-Wiki-v0": {
        "test": [
            ("Bamboogle_Prerelease.tsv", "wikipedia.jsonl", "all"),
            ("Bamboogle_Prerelease.tsv", "hub:MedRAG/wikipedia:train", "all"),
        ]
    },
    "RAGGym-MedQA-v0": {
        "train": [("phrases_no_exclude_train.jsonl", "corpus.jsonl", "first 1000")],
        "test": [("phrases_no_exclude_test.jsonl", "corpus.jsonl", "all")],
    },
    "RAGGym-MedQA-MedText-v0": {
        "train": [("phrases_no_exclude_train.jsonl", "medtext.jsonl", "listed medqa_train")],
        "test": [("phrases_no_exclude_test.jsonl", "medtext.jsonl", "all")],
    },
    "RAGGym-MedQA-Textbooks-v0": {
        split: [
            (f"phrases_no_exclude_{split}.jsonl", "textbooks.jsonl", rows),
            (f"{MEDQA_HUB}:{split}", "textbooks.jsonl", rows),
            (f"phrases_no_exclude_{split}.jsonl", MEDRAG, rows),
            (f"{MEDQA_HUB}:{split}", MEDRAG, rows),
        ]
        for split, rows in (("train", "listed medqa_train"), ("test", "all"))
    },
    "RAGGym-Synth-v0": {"train": [("train", "contexts", "first 2000")], "test": [("test", "contexts", "first 1000")]},
}
"""Questions, corpus and rows of every source, in the order in which they are tried."""


@pytest.mark.parametrize("name", card_names("envs"))
def test_a_shipped_cards_splits_come_from_these_sources_in_this_order(name):
    card = env_card(name).dataset
    resolved = {
        split: [(source.questions, source.corpus, source.rows) for source in card.sources_of(split)]
        for split in card.splits
    }
    assert resolved == RESOLVED[name]


def test_a_shipped_cards_files_are_searched_in_the_users_folder_and_then_in_the_cache(tmp_path):
    folders = places(env_card("RAGGym-HotpotQA-v0"))
    assert folders == [tmp_path / "user" / "hotpotqa", tmp_path / "cache" / "datasets" / "hotpotqa"]


def test_the_files_of_a_users_card_are_searched_beside_the_card_first(tmp_path):
    shipped = env_card("RAGGym-HotpotQA-v0")
    copy = tmp_path / "RAGGym-HotpotQA-v0.toml"
    copy.write_text(shipped.path.read_text())
    assert places(env_card(copy))[:2] == [tmp_path, tmp_path / "hotpotqa"]


def test_a_root_may_be_laid_out_like_the_users_folder_or_be_the_data_sets_own():
    card = env_card("RAGGym-HotpotQA-v0")
    assert places(card, Path("r")) == [Path("r/hotpotqa"), Path("r")]


@pytest.mark.parametrize(("here", "missing"), [("q.jsonl", "c.jsonl"), ("c.jsonl", "q.jsonl")])
def test_of_two_files_the_one_that_is_missing_is_named(tmp_path, here, missing):
    card = tmp_path / "Mine-v0.toml"
    card.write_text(
        'title = "x"\n[dataset]\nformat = "jsonl"\n[[dataset.splits.test]]\nquestions = "q.jsonl"\ncorpus = "c.jsonl"\n'
    )
    with pytest.raises(DataNotFound, match=r"To get it, put the files and c\.jsonl into"):
        load_tasks(env_card(card))
    (tmp_path / here).write_text("{}")
    with pytest.raises(DataNotFound) as error:
        load_tasks(env_card(card))
    remedy = str(error.value).rpartition("To get it, ")[2]
    assert remedy == f"put {missing} into {tmp_path}, beside {here}."


def test_hub_rows_are_not_downloaded_if_their_corpus_file_is_missing():
    source = Source(questions="hub:a/b:test", corpus="c.jsonl")
    with pytest.raises(DataNotFound, match=r"has no c\.jsonl"):
        locate(env_card("RAGGym-HotpotQA-v0"), source)


def test_without_the_hub_only_folders_are_searched():
    source = Source(questions="hub:a/b:test")
    with pytest.raises(DataNotFound, match=r"hotpotqa has no hub-a-b-test\.jsonl"):
        locate(env_card("RAGGym-HotpotQA-v0"), source, use_hub=False)


LINKED = """
title = "Mine"
[dataset]
format = "jsonl"
folder = "sub"
[[dataset.splits.test]]
questions = "q.jsonl"
corpus = "c.jsonl"
"""
ROW = '{"id": "1", "question": "Who?", "golden_answers": ["Ada"]}\n'
PASSAGE = '{"id": "p", "title": "Ada", "text": "A person."}\n'


@pytest.fixture
def linked(tmp_path):
    """A folder with a card and its files, and a private one outside."""
    folder, private = tmp_path / "theirs", tmp_path / "private"
    for place in (folder, private, tmp_path / "user" / "sub"):
        place.mkdir(parents=True)
        (place / "q.jsonl").write_text(ROW)
        (place / "c.jsonl").write_text(PASSAGE)
    (folder / "Mine-v0.toml").write_text(LINKED)
    return folder, private


def test_links_inside_a_cards_folder_and_into_the_users_data_are_followed(linked, tmp_path):
    folder, _ = linked
    (folder / "q.jsonl").rename(folder / "real.jsonl")
    (folder / "q.jsonl").symlink_to("real.jsonl")
    (folder / "c.jsonl").unlink()
    (folder / "c.jsonl").symlink_to(tmp_path / "user" / "sub" / "c.jsonl")
    assert load(folder / "Mine-v0.toml").split == "test"


@pytest.mark.parametrize("name", ["q.jsonl", "c.jsonl", "q.jsonl.gz", "sub"])
def test_a_link_beside_a_strangers_card_that_leads_out_is_refused(name, linked):
    folder, private = linked
    (folder / name.removesuffix(".gz")).unlink(missing_ok=True)
    if name == "sub":
        (folder / "q.jsonl").unlink()
        (folder / "sub").symlink_to(private)
    else:
        (folder / name).symlink_to(private / name.removesuffix(".gz"))
    with pytest.raises(CardError, match=rf"leads out of the folder of .*Mine-v0\.toml, to {private}.*--trust-card"):
        load_tasks(folder / "Mine-v0.toml")
    if not name.endswith(".gz"):  # which these files are not
        assert load_tasks(env_card(folder / "Mine-v0.toml", trust=True)).tasks
        assert load_tasks(folder / "Mine-v0.toml", root=folder).tasks  # the user named the folder


def test_links_in_the_users_own_data_folder_lead_anywhere(linked, tmp_path):
    folder, private = linked
    for name in ("q.jsonl", "c.jsonl"):
        (folder / name).unlink()
        (tmp_path / "user" / "sub" / name).unlink()
        (tmp_path / "user" / "sub" / name).symlink_to(private / name)
    assert load_tasks(folder / "Mine-v0.toml").source.startswith(str(tmp_path / "user"))
