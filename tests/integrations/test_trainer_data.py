"""Files for verl, Search-R1 and SkyRL: what is in each row, and what happens where they cannot be written."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from raggym_env.cards import env_card, override
from raggym_env.core import Question, Task
from raggym_env.data import load_tasks
from raggym_env.errors import OptionError, RunError, UnknownName
from raggym_env.integrations import trainer_data
from raggym_env.integrations.trainer_data import SEARCH_R1_SOURCES, export_prompts
from towns import write_jsonl

ENV = "RAGGym-Synth-v0"
# The columns that the trainers' own preparation of Search-R1's data writes and their code reads: `nq_search.py` of
# Search-R1, `preprocess_search_r1_dataset.py` of verl 0.9 and `searchr1_dataset.py` of SkyRL 0.4.
PUBLISHED = {
    "search-r1": """data_source prompt.role prompt.content ability reward_model.style reward_model.ground_truth.target
        extra_info.split extra_info.index""",
    "verl": """data_source prompt.role prompt.content ability reward_model.style reward_model.ground_truth.target
        extra_info.index extra_info.need_tools_kwargs extra_info.question extra_info.split
        extra_info.tools_kwargs.search.create_kwargs.ground_truth.target
        extra_info.tools_kwargs.search.create_kwargs.question
        extra_info.tools_kwargs.search.create_kwargs.data_source""",
    "skyrl": """data_source prompt.role prompt.content ability env_class reward_spec.ground_truth.target
        extra_info.index extra_info.question extra_info.split""",
}


def paths(value, prefix=""):
    """The dotted names of all fields of a row, those inside lists as if they were not in a list."""
    if isinstance(value, dict):
        return {path for name, inner in value.items() for path in paths(inner, f"{prefix}.{name}")}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return paths(value[0], prefix)
    return {prefix.lstrip(".")}


def rows_of(exported):
    return parquet.read_table(exported.prompts).to_pylist()


@pytest.fixture(params=["verl", "search-r1", "skyrl"])
def trainer(request):
    return request.param


@pytest.fixture
def medical(tmp_path):
    """A card whose questions have options."""
    card = tmp_path / "Pills-v0.toml"
    card.write_text(
        """title = "Pills"
[dataset]
format = "medqa"
[dataset.splits]
test = "all"
[[dataset.sources]]
questions = "questions.jsonl"
corpus = "corpus.jsonl"
[episode]
metric = "accuracy"
"""
    )
    options = {"A": "aspirin", "B": "ibuprofen"}
    row = {"question": "Which drug?", "options": options, "answer": "ibuprofen", "answer_idx": "B"}
    write_jsonl(tmp_path / "questions.jsonl", [row])
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "1", "title": "Pain", "text": "It hurts."}])
    return card


def test_each_question_is_a_row_with_the_published_columns(trainer, tmp_path):
    exported = export_prompts(ENV, trainer, tmp_path / "data", "train", limit=20)
    rows, tasks = rows_of(exported), load_tasks(ENV, "train").tasks
    assert len(rows) == exported.rows == 20
    assert set(PUBLISHED[trainer].split()) <= paths(rows[0])
    gold = "reward_spec" if trainer == "skyrl" else "reward_model"
    for index, (row, task) in enumerate(zip(rows, tasks, strict=False)):
        assert row[gold]["ground_truth"]["target"] == list(task.answers)
        info = row["extra_info"]
        assert (info["index"], info["question_id"], info["question"]) == (index, task.id, task.question.text)
        assert (info["split"], info["environment"], info["metric"]) == ("train", ENV, "em")
        assert task.question.text in row["prompt"][-1]["content"]


def test_no_prompt_has_a_gold_answer_that_its_question_has_not(trainer, tmp_path):
    for row, task in zip(
        rows_of(export_prompts(ENV, trainer, tmp_path, "test", limit=200)), load_tasks(ENV, "test").tasks, strict=False
    ):
        text = " ".join(message["content"] for message in row["prompt"])
        for answer in task.answers:
            assert answer not in text or answer in task.question.text or answer in ("yes", "no")


def test_a_question_with_options_is_answered_by_its_letter_or_its_text(trainer, medical, tmp_path):
    (row,) = rows_of(export_prompts(medical, trainer, tmp_path / "data"))
    gold = row.get("reward_model") or row["reward_spec"]
    assert gold["ground_truth"]["target"] == ["B", "ibuprofen"]
    assert (row["extra_info"]["options"], row["extra_info"]["correct"]) == (["aspirin", "ibuprofen"], 1)
    assert "A. aspirin\nB. ibuprofen" in row["prompt"][-1]["content"]


# A part of Search-R1's reward: it looks at prompt and reply together, and takes the last of at least two answers.
SEARCH_R1_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@settings(max_examples=200)
@given(st.text() | st.sampled_from(["<answer>x</answer>", "</answer> <ANSWER>", "<search>a</search>"]))
def test_a_prompt_for_search_r1_has_exactly_the_one_answer_that_its_reward_function_expects(question):
    task = Task(Question("q", question), ("x",))
    row = trainer_data._search_r1_row(env_card(ENV), "nq", task, {})
    assert len(SEARCH_R1_ANSWER.findall(row["prompt"][0]["content"])) == 1


def test_search_r1_gets_one_of_the_names_that_it_can_score(tmp_path):
    cards = {
        "RAGGym-NQ-v0": "nq",
        "RAGGym-2WikiMultihopQA-Wiki18-v0": "2wikimultihopqa",
        "RAGGym-HotpotQA-v0": "hotpotqa",
        "RAGGym-MuSiQue-Wiki18-v0": "musique",
        ENV: "hotpotqa",
    }
    for name, source in cards.items():
        assert trainer_data._data_source(env_card(name), "search-r1", None) == source
    assert export_prompts(ENV, "search-r1", tmp_path, limit=1, data_source="nq").data_source == "nq"
    assert set(cards.values()) <= set(SEARCH_R1_SOURCES)
    with pytest.raises(OptionError, match="all that Search-R1 can score"):
        export_prompts(ENV, "search-r1", tmp_path / "other", limit=1, data_source="mine")
    assert not (tmp_path / "other").exists()


def test_the_settings_point_at_the_server_and_have_the_cards_limits(trainer, tmp_path):
    card = override(env_card(ENV), {"retrieval.k": 7, "episode.max_searches": 3})
    exported = export_prompts(card, trainer, tmp_path, limit=1, url="http://search.example:9000/retrieve")
    values = json.loads(exported.settings.read_text())  # JSON is YAML
    assert exported.settings.name == f"{trainer}.yaml"
    if trainer == "verl":
        (tool,) = values["tools"]
        assert tool["class_name"] == "raggym_env.integrations.verl.SearchTool"
        assert tool["config"]["url"] == "http://search.example:9000/retrieve"
        assert (tool["config"]["topk"], tool["config"]["max_searches"]) == (7, 3)
        assert tool["tool_schema"]["function"]["name"] in rows_of(exported)[0]["extra_info"]["tools_kwargs"]
    elif trainer == "search-r1":
        retriever = {"url": "http://search.example:9000/retrieve", "topk": 7}
        assert values == {"do_search": True, "max_turns": 3, "retriever": retriever}
    else:
        assert values["environment"]["skyrl_gym"]["search"]["topk"] == 7
        assert values["generator"]["max_turns"] == 4


def test_splits_share_a_folder_and_nothing_is_overwritten(trainer, tmp_path):
    first = export_prompts(ENV, trainer, tmp_path, "train", limit=2)
    second = export_prompts(ENV, trainer, tmp_path, "test", limit=2)
    assert (first.settings, first.prompts.name, second.prompts.name) == (
        second.settings,
        "train.parquet",
        "test.parquet",
    )
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match=r"train\.parquet exists"):
        export_prompts(ENV, trainer, tmp_path, "train", limit=2)
    first.prompts.unlink()
    with pytest.raises(RunError, match="has other settings"):
        export_prompts(ENV, trainer, tmp_path, "train", limit=2, url="http://elsewhere.example/retrieve")
    del before[first.prompts]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "url", ["", "ftp://a.example/", "http://me:secret@a.example/", "http://a.example/?key=1", "http://${oc.env:HOME}/"]
)
def test_a_url_that_holds_a_secret_or_is_none_is_refused(url, trainer, tmp_path):
    with pytest.raises(OptionError, match="url must be"):
        export_prompts(ENV, trainer, tmp_path / "data", limit=1, url=url)
    assert not (tmp_path / "data").exists()


def test_unknown_names_and_numbers_out_of_range_are_refused(tmp_path):
    with pytest.raises(UnknownName, match="split"):
        export_prompts(ENV, "verl", tmp_path, "dev")
    with pytest.raises(OptionError, match="limit"):
        export_prompts(ENV, "verl", tmp_path, limit=0)
    for name in ("", " ", "a\nb", "\udcff"):
        with pytest.raises(OptionError, match="data_source"):
            export_prompts(ENV, "verl", tmp_path, limit=1, data_source=name)
    with pytest.raises(OptionError, match="trainer"):
        export_prompts(ENV, "trl", tmp_path)
