import importlib
import inspect
import json
import pickle
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raggym_env.build import load_mdp
from raggym_env.cards import EnvCard, PolicyCard, check_authority, env_card, override, policy_card, recorded_card
from raggym_env.data.catalogue import named_card
from raggym_env.data.sources import places
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
    assert "test" in card.dataset.splits or name.endswith("-Train-v0")


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
    # What is missing belongs beside what is there; if that comes from elsewhere, into the data folder.
    assert f"into {folder}, beside" in message or f"into $RAGGYM_DATA/{dataset.folder}" in message
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


# -- cards from somebody else -----------------------------------------------------------------------------------------

QUESTIONS_AND_CORPUS = {"questions": "q.jsonl", "corpus": "c.jsonl"}


def env_content(**parts: Any) -> dict[str, Any]:
    return {"title": "Mine", "dataset": {"format": "jsonl", "splits": {"test": [QUESTIONS_AND_CORPUS]}}, **parts}


def retrieval(name: str = "bm25", **options: Any) -> dict[str, Any]:
    return env_content(retrieval={"name": name, "options": options})


def reward(name: str = "mini", **options: Any) -> dict[str, Any]:
    return env_content(reward={"process_reward": name, "options": options})


def critic(name: str = "judge", **options: Any) -> dict[str, Any]:
    return {"policy": "lexical", "search": {"best_of": 2, "critic": name, "critic_options": options}}


def agent(**options: Any) -> dict[str, Any]:
    return {"policy": "prompt", "options": {"prompts": {"system": "Question:x", "user": "https://a b"}, **options}}


def toml(value: Any) -> str:
    """A value in TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def write_card(folder: Path, content: dict[str, Any], name: str = "Mine-v0") -> Path:
    path = folder / f"{name}.toml"
    path.write_text("".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in content.items()))
    return path


def load(path: Path, content: dict[str, Any], **options: Any) -> EnvCard | PolicyCard:
    return (env_card if "title" in content else policy_card)(path, **options)


URL = "http://somewhere.example/v1"
AUTHORITY = {
    # code
    "retriever": (retrieval("subprocess:Popen"), "retrieval.name names code"),
    "inner retriever": (retrieval("rrf", retrievers=["bm25", {"name": "os:abort"}]), "retrievers[1].name names code"),
    "reranked retriever": (retrieval("rerank", retriever={"name": "os:abort"}), "retriever.name names code"),
    "reranker": (retrieval("rerank", model="os:abort"), "retrieval.options.model names code"),
    "process reward": (reward("os:abort"), "reward.process_reward names code"),
    "critic": (critic("os:abort"), "search.critic names code"),
    "policy": ({"policy": "os:abort"}, "policy names code"),
    "policy of a reward": (reward("rollout", policy="os:abort"), "reward.options.policy names code"),
    "critic of a policy of a reward": (
        reward("rollout", policy="lexical", policy_options={"best_of": 2, "critic": "os:abort"}),
        "reward.options.policy_options.critic names code",
    ),
    "model": (agent(llm="os:abort:x"), "options.llm names code"),
    "trust in another card": (
        reward("rollout", policy="inner.toml", policy_options={"trust": True}),
        "policy_options.trust decides",
    ),
    "trust in the code of a model": (retrieval("dense", trust_remote_code=True), "trust_remote_code decides"),
    # servers, keys and what is sent
    "search server": (retrieval("http", url=URL), "retrieval.options.url decides"),
    "search server without a scheme": (retrieval("http", url="somewhere.example/"), "retrieval.options.url decides"),
    "inner search server": (retrieval("rrf", retrievers=["bm25", {"name": "http", "url": URL}]), "retrievers[1].url"),
    "token": (retrieval("http", **{"token_env": "AWS_SECRET"}), "token_env decides"),
    "model at a URL": (agent(llm=f"openai:m@{URL}"), "options.llm names a server"),
    "model at a host": (agent(llm="openai:m@somewhere.example:8000/v1"), "options.llm names a server"),
    "judge at a URL": (critic(llm=f"openai:m@{URL}"), "search.critic_options.llm names a server"),
    "judge of a reward": (reward("judge", llm=f"openai:m@{URL}"), "reward.options.llm names a server"),
    "key": (agent(llm_options={"key_env": "AWS_SECRET_ACCESS_KEY"}), "options.llm_options.key_env decides"),
    "key of a judge": (critic(llm_options={"key_env": "HOME"}), "search.critic_options.llm_options.key_env decides"),
    "key in the card": (agent(llm_options={"api_key": "sk-1"}), "api_key decides"),
    "further fields": (agent(llm_options={"extra_body": {"model": "dear"}}), "extra_body decides"),
    "headers": (agent(llm_options={"headers": {"Authorization": "x"}}), "headers decides"),
    "address of a server": (agent(llm_options={"base_url": "somewhere"}), "base_url decides"),
    "proxy": (agent(llm_options={"proxy": "somewhere"}), "proxy decides"),
    "path of another system's share": (retrieval("dense", model="\\\\somewhere\\share"), "names a path outside"),
    # files
    "store": (retrieval("bm25", store="index"), "retrieval.options.store decides"),
    "store of an inner one": (retrieval("rrf", retrievers=[{"name": "bm25", "store": "/x"}, "bm25"]), "store decides"),
    "absolute path": (retrieval("dense", model="/etc"), "retrieval.options.model names a path outside"),
    "path upwards": (retrieval("dense", model="../model"), "names a path outside"),
    "hidden path upwards": (retrieval("dense", model="a/../../model"), "names a path outside"),
    "home folder": (reward("mini", weights="~/weights.safetensors"), "reward.options.weights names a path outside"),
    "home folder after a dot": (reward("mini", weights="./~/weights.safetensors"), "names a path outside"),
    "other user's home folder": (reward("model", path="~root/x"), "names a path outside"),
    "drive": (reward("mini", weights="C:\\weights"), "names a path outside"),
    "index": (retrieval("lucene", index="/etc"), "retrieval.options.index names a path outside"),
    "model's path": (agent(llm="hf:../../x"), "options.llm names a path outside"),
    "adapter's path": (agent(llm="hf:smollm2+../x"), "options.llm names a path outside"),
    "adapter's absolute path": (agent(llm="hf:smollm2+/etc"), "options.llm names a path outside"),
    "script": (agent(llm="scripted:/etc/passwd"), "options.llm names a path outside"),
    "null character": (reward("mini", weights="a\u0000b"), "names a path outside"),
    "other card": (reward("rollout", policy="../other.toml"), "reward.options.policy names a path outside"),
}


@pytest.mark.parametrize("case", AUTHORITY)
def test_a_strangers_card_cannot_use_the_users_authority(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, problem = AUTHORITY[case]
    path = write_card(tmp_path, content)
    with pytest.raises(CardError) as error:
        load(path, content)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert problem in message
    assert "--trust-card (trust=True in Python)" in message
    assert load(path, content, trust=True).trusted


HARMLESS = {
    "names": retrieval(
        "rrf", retrievers=["bm25", {"name": "dense", "model": "BAAI/bge-base-en-v1.5", "index": "hnsw"}]
    ),
    "store": retrieval("bm25", store=True, stemmer="english", backend="auto"),
    "no store": retrieval("bm25", store=False),
    "server of the user": retrieval("http", timeout=5, retries=1),
    "numbers": retrieval("lucene", k1=0.9, heap="1g", threads=2),
    "reward": reward("evidence_value", metric="f1", expected_score=[0.2, 1.0]),
    "weights beside the card": reward("mini", weights="weights.safetensors"),
    "policy of a reward": reward("rollout", policy="react", policy_options={"llm": "hf:smollm2", "max_tokens": 48}),
    "card beside the card": reward("rollout", policy="inner.toml"),
    "local model": agent(llm="hf:smollm2", llm_options={"device": "cpu", "token_budget": 1000}),
    "model of the hub": agent(llm="hf:HuggingFaceTB/SmolLM2-135M-Instruct+OWNER/adapter.v1", max_tokens=64),
    "model of the user's server": agent(llm="openai:Qwen/Qwen3-8B", llm_options={"timeout": 60, "omit": ["seed"]}),
    "examples": agent(examples=[{"question": "Is os:abort code?", "reply": "See http://a.b, ~/x and ../y @ 5."}]),
    "judge": critic(llm="hf:smollm2", mode="rate", prompts={"rate": "Rate os:abort at http://a.b/../~ {{ n }}"}),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_a_strangers_card_without_authority_is_loaded_as_it_is(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bm25").mkdir()  # a folder of the name of a plug-in means nothing
    content = HARMLESS[case]
    path = write_card(tmp_path, content)
    card = load(path, content)
    assert not card.trusted
    assert card == type(card).model_validate({**content, "name": "Mine-v0", "path": path})


def test_the_users_own_settings_may_use_what_a_card_may_not(tmp_path):
    content = retrieval("http")
    card = override(load(write_card(tmp_path, content), content), {"retrieval.options.url": URL})
    assert card.retrieval.options == {"url": URL}
    card = override(policy_card("direct"), {"options.llm": f"openai:m@{URL}", "options.llm_options.key_env": "MINE"})
    assert card.options["llm_options"] == {"key_env": "MINE"}


def test_a_shipped_card_is_trusted_by_its_place_and_a_copy_of_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("raggym_env.storage.paths._CARDS", tmp_path)
    (tmp_path / "envs").mkdir()
    content = retrieval("http", url=URL)
    write_card(tmp_path / "envs", content, "RAGGym-Served-v0")
    assert env_card("RAGGym-Served-v0").retrieval.options == {"url": URL}
    assert env_card(tmp_path / "envs" / "RAGGym-Served-v0.toml").retrieval.options == {"url": URL}
    with pytest.raises(CardError, match="url decides"):
        env_card(write_card(tmp_path, content, "RAGGym-Served-v0"))


@pytest.mark.parametrize("name", ["../Mine-v0", "../envs/RAGGym-Synth-v0", "/etc/passwd", "", ".", "a\\b", "x\0"])
def test_a_name_with_a_path_in_it_names_no_shipped_card(name, tmp_path, monkeypatch):
    monkeypatch.setattr("raggym_env.storage.paths._CARDS", tmp_path)
    (tmp_path / "envs").mkdir()
    write_card(tmp_path, retrieval("os:abort"))
    with pytest.raises(UnknownName):
        env_card(name)


def test_trust_is_kept_by_a_card_and_is_no_part_of_its_content(tmp_path):
    content = retrieval("http", url=URL)
    card = load(write_card(tmp_path, content), content, trust=True)
    changed = override(card, {"retrieval.k": 3})
    assert (card.trusted, changed.trusted, pickle.loads(pickle.dumps(changed)).trusted) == (True, True, True)  # noqa: S301
    assert "trusted" not in card.model_dump()
    assert "trusted" not in card.model_dump_json()
    assert (env_card(env_card("RAGGym-Synth-v0"), trust=True).trusted, env_card("RAGGym-Synth-v0").trusted) == (
        True,
        False,
    )


@pytest.mark.parametrize("key", ["trusted", "name", "path"])
def test_neither_a_card_nor_a_setting_can_give_a_card_its_place_or_trust(key, tmp_path):
    with pytest.raises(CardError, match="remove"):
        env_card(write_card(tmp_path, {**retrieval("http", url=URL), key: True}))
    with pytest.raises(CardError, match="cannot be set"):
        override(env_card("RAGGym-Synth-v0"), {key: True})


@pytest.mark.parametrize("option", ["model", "passage_model"])
@pytest.mark.parametrize("start", ["card's folder", "elsewhere"])
def test_a_link_beside_a_card_must_not_lead_out(option, start, tmp_path, monkeypatch):
    folder, private = tmp_path / "card", tmp_path / "private"
    for path in (folder / "inside", private / "model"):
        path.mkdir(parents=True)
    (folder / "good").symlink_to("inside")
    (folder / "out").symlink_to(private)
    (folder / "loop").symlink_to("loop")
    (folder / "gone").symlink_to(private / "gone")
    monkeypatch.chdir(folder if start == "card's folder" else tmp_path)
    for name, good in {"good": 1, "inside": 1, "new": 1, "out": 0, "out/model": 0, "loop": 0, "gone": 0}.items():
        content = retrieval("dense", **{option: name})
        path = write_card(folder, content)
        if good:
            assert load(path, content).retrieval.options == {option: name}
        else:
            with pytest.raises(CardError, match="names a path outside"):
                load(path, content)


def test_a_path_is_read_from_the_current_folder_and_must_lie_in_the_cards_or_a_data_folder(tmp_path, monkeypatch):
    for name in ("card/mine", "elsewhere/mine", "data/mine", "cache/datasets/mine"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    content = retrieval("dense", model="mine")
    path = write_card(tmp_path / "card", content)
    for start in ("card", "data", "cache/datasets"):
        monkeypatch.chdir(tmp_path / start)
        load(path, content)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(CardError, match="names a path outside"):
        load(path, content)
    for name in ("card/mine", "data/mine", "data/new"):
        inside = retrieval("dense", model=str(tmp_path / name))
        assert load(write_card(tmp_path / "card", inside), inside)
    for name in ("elsewhere/mine", "card/../elsewhere/mine", "card2", "cache"):
        outside = retrieval("dense", model=str(tmp_path / name))
        with pytest.raises(CardError, match="names a path outside"):
            load(write_card(tmp_path / "card", outside), outside)


PIECES = st.sampled_from(
    ["..", ".", "a", "b.c", "~", "~root", "", "link", "C:", "C:\\", "\\\\h", " ", "\0", "é", "x" * 300]
)
KEYS = st.sampled_from(["model", "weights", "path", "index", "adapter", "anything"])
PREFIXES = st.sampled_from(["", "hf:", "scripted:", "hf:m+", "/", "./", "~/"])


@given(PREFIXES, st.lists(PIECES, max_size=5), st.sampled_from(["/", "\\"]), KEYS, st.integers(0, 3))
@settings(max_examples=400)
def test_no_spelling_of_a_path_leads_out_at_any_depth_of_options(
    strangers_folder, prefix, pieces, separator, key, depth
):
    name = f"{prefix}{separator.join(pieces)}"
    content: dict[str, Any] = {key: name}
    for level in range(depth):
        content = {"inner": content} if level % 2 else {"list": ["bm25", content]}
    try:
        load(write_card(strangers_folder, retrieval("dense", **content)), {"title": ""})
    except CardError:
        return
    model = name.partition(":")[2] if name.startswith(("hf:", "scripted:")) else name
    for part in (model, *model.split("+")):
        place = (strangers_folder / Path(part).expanduser()).resolve()
        assert place.is_relative_to(strangers_folder)
        assert ".." not in PureWindowsPath(part).parts


@pytest.fixture(scope="module")
def strangers_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strangers").resolve()
    (folder / "link").symlink_to("/etc")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../q.jsonl",
            "a/../../q.jsonl",
            "/etc/passwd",
            "~/q.jsonl",
            "C:\\q.jsonl",
            "..\\q.jsonl",
            "\\\\host\\q",
            "a\0b",
        ),
        *("hub:a/b:x/../../y", "hub:../b:test", "hub:a/..:test", "hub:a/.:test", "hub:.a/b:test", "hub:a/b..c:test"),
        *("hub:a/b:..", "hub:a/b:c/d:test", "hub:/etc:test", "hub:~/b:test", "hub:a\\b:test", "hub:a/b/c:test"),
        *("hub:a/b:", "hub:", "hub:a/b:c:d:e", "hub:a b/c:test", "hub:C:test:\\"),
    ],
)
@pytest.mark.parametrize("key", ["questions", "corpus"])
@pytest.mark.parametrize("trust", [True, False])
def test_no_data_file_of_a_card_lies_outside_its_folder(key, name, trust, tmp_path):
    content = env_content()
    content["dataset"] = {"format": "jsonl", "splits": {"test": [{**QUESTIONS_AND_CORPUS, key: name}]}}
    with pytest.raises(CardError, match=r"dataset\.splits\.test\.sources\.0\."):
        env_card(write_card(tmp_path, content), trust=trust)


@pytest.mark.parametrize(
    "name", ["hub:hotpotqa/hotpot_qa:distractor:validation", "hub:squad:train", "hub:a/b.c-d_e:v1.0:t+u"]
)
def test_a_name_on_the_hub_has_single_dots_inside(name, tmp_path):
    content = env_content()
    content["dataset"] = {"format": "jsonl", "splits": {"test": [{"questions": name}]}}
    assert env_card(write_card(tmp_path, content)).dataset.sources_of("test")[0].questions == name


@pytest.mark.parametrize(
    "text",
    [
        *(
            CARD + "x = " + "[" * 100_000,
            CARD + "[" + "a." * 20_000 + "b]",
            CARD + f"k = 1{'0' * 400}",
            CARD + "k = nan",
        ),
        *(CARD.replace("Mine", "\0"), CARD + "#" * (2 << 20), "\ud800"),
    ],
    ids=["nested", "dotted", "huge", "nan", "null", "large", "surrogate"],
)
def test_hostile_toml_is_one_error(text, tmp_path):
    path = tmp_path / "Mine-v0.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CardError, match="cannot be read"):
        env_card(path)


# -- the card that a run folder records -------------------------------------------------------------------------------


def recorded(card: EnvCard, **changes: Any) -> dict[str, Any]:
    return {**card.model_dump(mode="json", exclude={"path"}), **changes}


def test_a_recorded_card_has_its_folder_only_if_the_card_there_names_the_same_files(tmp_path):
    content = env_content()
    card = env_card(write_card(tmp_path, content))
    assert recorded_card(recorded(card), str(card.path)) == card
    changed = recorded(card, title="Changed", retrieval={"name": "os:abort"})
    assert recorded_card(changed, str(card.path)).path == card.path
    other = recorded(card)
    other["dataset"]["splits"]["test"][0]["questions"] = "diary.jsonl"
    assert recorded_card(other, str(card.path)).path == Path("Mine-v0")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "Mine-v0.toml", "/dev/zero", "", "//host/x.toml", "\\\\host\\x.toml", "a\0"]
)
def test_a_recorded_path_that_is_no_such_card_stands_for_no_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = env_card(write_card(tmp_path, env_content()))
    found = recorded_card(recorded(card), path)
    assert (found.path, found.trusted) == (Path("Mine-v0"), False)
    assert tmp_path not in places(found)


def test_a_recorded_shipped_card_is_the_shipped_one_wherever_it_lay(tmp_path):
    card = env_card("RAGGym-HotpotQA-v0")
    assert recorded_card(recorded(card), "/other/machine/RAGGym-HotpotQA-v0.toml").path == card.path


def test_a_record_cannot_say_that_it_is_trusted(tmp_path):
    card = env_card(write_card(tmp_path, env_content()))
    found = recorded_card(recorded(card, trusted=True, retrieval={"name": "os:abort"}), str(card.path))
    assert not found.trusted
    with pytest.raises(CardError, match="names code"):
        check_authority(found)
