import importlib
import inspect
from pathlib import Path

import pytest

from raggym_env.build import load_mdp
from raggym_env.cards import env_card, override, policy_card
from raggym_env.data.catalogue import named_card
from raggym_env.errors import CardError, DataNotFound, UnknownName
from raggym_env.retrieval import RETRIEVERS
from raggym_env.storage.paths import card_names
from raggym_env.testing import ScriptedRetriever

CARD = """
title = "Mine"
[dataset]
format = "jsonl"
[[dataset.splits.test]]
questions = "q.jsonl"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "Mine-v0.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", card_names("envs"))
def test_every_shipped_environment_card_loads(name):
    card = env_card(name)
    assert card.name == name
    assert "test" in card.dataset.splits


@pytest.mark.parametrize("name", card_names("policies"))
def test_every_shipped_policy_card_loads(name):
    assert policy_card(name).description


def test_a_card_is_named_after_its_file_and_filled_with_defaults(tmp_path):
    card = env_card(write(tmp_path, CARD))
    assert (card.name, card.retrieval.name, card.episode.metric) == ("Mine-v0", "bm25", "em")


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(UnknownName, match=r"Did you mean 'RAGGym-HotpotQA-v0'\?"):
        env_card("RAGGym-HotPotQA-v0")
    with pytest.raises(LookupError, match="No policy card named 'lexicl'"):
        policy_card("lexicl")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("title = ", "not TOML: "),
        (CARD.replace("title", "titel"), "titel"),
        (CARD.replace('"jsonl"', '"csv"'), "dataset.format"),
        (CARD + 'rows = "middle 3"', "rows"),
        (CARD + "[retrieval]\nk = 0", "retrieval.k"),
        (CARD.replace("splits.test", "splits.dev"), "default_split"),
        (CARD.replace('format = "jsonl"', 'format = "jsonl"\nfolder = "../elsewhere"'), "dataset.folder"),
        (CARD.replace('format = "jsonl"', 'format = "jsonl"\nfolder = "/etc"'), "dataset.folder"),
        ('name = "../evil"\n' + CARD, "remove ['name']"),
    ],
)
def test_a_bad_card_names_its_file_and_what_is_wrong(tmp_path, text, fault):
    with pytest.raises(CardError) as error:
        env_card(write(tmp_path, text))
    assert "Mine-v0.toml" in str(error.value)
    assert fault in str(error.value)


def test_a_missing_card_file_says_where_it_looked(tmp_path):
    with pytest.raises(CardError, match=r"No card at .*Gone-v0\.toml"):
        env_card(tmp_path / "Gone-v0.toml")


def test_override_changes_a_copy_by_dotted_key():
    card = env_card("RAGGym-Synth-v0")
    changed = override(card, {"retrieval.k": 10, "retrieval.options.k1": 1.2})
    assert (changed.retrieval.k, changed.retrieval.options) == (10, {"k1": 1.2})
    assert card.retrieval.k == 5


@pytest.mark.parametrize("key", ["retrival.k", "retrieval.kk", "retrieval.k.x"])
def test_override_refuses_what_is_no_setting(key):
    with pytest.raises(CardError, match="RAGGym-Synth-v0"):
        override(env_card("RAGGym-Synth-v0"), {key: 1})


PAPER = {
    "RAGGym-HotpotQA-Wiki-v0": ["lucene", "dense"],
    "RAGGym-2WikiMultihopQA-Wiki-v0": ["lucene", "dense"],
    "RAGGym-Bamboogle-Wiki-v0": ["lucene", "dense"],
    "RAGGym-MedQA-MedText-v0": ["bm25", "dense"],
    "RAGGym-MedQA-Textbooks-v0": ["bm25", "dense"],
}
"""Cards of the paper's settings, and the retrievers that each fuses. Their corpora are nobody's to ship."""

QUESTIONS = {
    "hotpotqa": '[{"_id": "q", "question": "Who?", "answer": "Ant", "supporting_facts": [["Ant", 0]], "context": []}]',
    "2wikimultihopqa": '[{"_id": "q", "question": "Who?", "answer": "Ant", "supporting_facts": [["Ant", 0]]}]',
    "bamboogle": "Question\tAnswer\tAnswer 2\nWho?\tAnt\t\n",
    "medqa": '{"question": "Who?", "answer": "Ant", "options": {"A": "Ant", "B": "Bee"}, "answer_idx": "A"}\n',
}


def test_every_card_but_the_papers_searches_with_bm25():
    assert {name for name in card_names("envs") if env_card(name).retrieval.name != "bm25"} == set(PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_cards_fuse_32_passages_of_retrievers_that_take_their_options(name):
    retrieval = env_card(name).retrieval
    members = retrieval.options["retrievers"]
    fusion = {"rrf_k": 60, "depth": 100, "retrievers": members}
    assert (retrieval.name, retrieval.k, retrieval.options) == ("rrf", 32, fusion)
    assert [member["name"] for member in members] == PAPER[name]
    for member in members:
        module, _, attribute = RETRIEVERS[member["name"]].partition(":")
        options = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters
        assert member.keys() - {"name"} <= options.keys()


@pytest.mark.parametrize("name", PAPER)
def test_a_papers_card_runs_over_files_of_ones_own(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path))
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    dataset = env_card(name).dataset
    source = dataset.sources_of("test")[0]
    folder = tmp_path / dataset.folder
    folder.mkdir()
    (folder / source.questions).write_text(QUESTIONS[dataset.folder])
    (folder / source.corpus).write_text('{"id": "1", "title": "Ant", "content": "An ant.", "contents": "Ant. An ant."}')

    mdp = load_mdp(name, "test", retriever=ScriptedRetriever({}, default=["Ant"]))

    assert (len(mdp.tasks), mdp.dataset.corpus[0].title, mdp.dynamics.k) == (1, "Ant", 32)
    assert source.corpus in mdp.dataset.source


@pytest.mark.parametrize("name", PAPER)
def test_without_the_corpus_a_papers_card_says_which_file_was_looked_for_where_and_what_to_do(
    name, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("raggym_env.data.hub._load", offline)
    dataset = env_card(name).dataset
    folder = tmp_path / dataset.folder
    folder.mkdir()
    sources = dataset.sources_of("test")
    (folder / sources[0].questions).write_text(QUESTIONS[dataset.folder])

    with pytest.raises(DataNotFound) as caught:
        load_mdp(name, "test")

    message = str(caught.value)
    assert sources[0].corpus in message
    assert str(folder) in message
    assert f"into $RAGGYM_DATA/{dataset.folder}" in message
    hub = [source.corpus for source in sources if source.corpus.startswith("hub:")]
    if hub:
        assert f"{hub[0]}: there is no network" in message
        assert f"`raggym data get {name}`" in message
    else:
        assert "raggym data get" not in message  # which would get nothing


def offline(name):
    raise DataNotFound("there is no network")


@pytest.mark.parametrize("folder", ["hotpotqa", "2wikimultihopqa", "bamboogle", "medqa"])
def test_a_data_sets_folder_still_names_the_plain_card(folder):
    assert named_card(folder).retrieval.name == "bm25"


def test_another_retriever_does_not_get_the_options_of_the_cards_own():
    card = env_card("RAGGym-HotpotQA-Wiki-v0")
    assert override(card, {"retrieval.name": "bm25"}).retrieval.options == {}
    assert override(card, {"retrieval.options.k1": 2.0, "retrieval.name": "bm25"}).retrieval.options == {"k1": 2.0}
    assert override(card, {"retrieval.name": "rrf", "retrieval.k": 5}).retrieval.options == card.retrieval.options
