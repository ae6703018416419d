"""Labels of a language model that sees the gold answer and the whole episode."""

import json
import re

import pytest
from typer.testing import CliRunner

from raggym_env.cli import app
from raggym_env.core import Answer, Search
from raggym_env.errors import LLMError, OptionError, RunError
from raggym_env.llm.scripted import ScriptedLLM
from raggym_env.training import Collection, collect, relabel
from towns import write_jsonl, write_towns

pytestmark = pytest.mark.slow  # its package loads torch


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towns")
    towns = write_towns(folder / "data")
    return collect(towns, "lexical", critic="random", n=4, keep="all", limit=4, out=folder / "run")


def candidates_of(text):
    return re.findall(r"^\[\d+\] (.*)$", text.partition("<candidates>")[2], re.MULTILINE)


def verdict(messages):
    """Rates the gold answer 10, other answers 1, and searches 6."""
    text = messages[-1]["content"]
    gold = re.search(r"^Correct answer: (.*)$", text, re.MULTILINE)[1]
    ratings = [
        10 if line == f"answer: {gold}" else 1 if line.startswith("answer") else 6 for line in candidates_of(text)
    ]
    return f'Because.\n{{"ratings": {ratings}}}'


def test_the_scores_of_all_candidates_become_the_judges_and_the_rest_stays(collection, tmp_path):
    again = relabel(collection, ScriptedLLM(verdict), out=tmp_path / "out")
    assert again.settings == {**collection.settings, "critic": "hindsight"}
    assert again.run.status == "complete"
    before = {row.question.id: row for row in collection.trajectories()}
    after = {row.question.id: row for row in again.trajectories()}
    assert before.keys() == after.keys()
    scores = set()
    for question, row in after.items():
        assert (row.answer, row.outcome) == (before[question].answer, before[question].outcome)
        for step, old in zip(row.steps, before[question].steps, strict=True):
            assert (step.state, step.action) == (old.state, old.action)
            assert {option.action for option in step.candidates} == {option.action for option in old.candidates}
            assert [option.score for option in step.candidates] == sorted(
                (option.score for option in step.candidates), reverse=True
            )
            for option in step.candidates:
                is_search = isinstance(option.action, Search)
                assert option.score == (0.6 if is_search else 1.0 if option.outcome == 1 else 0.1)
                scores.add(option.score)
    assert scores == {0.1, 0.6, 1.0}
    assert Collection.read(again.run.path).settings["critic"] == "hindsight"


def test_the_judge_sees_the_gold_answer_and_the_whole_episode_at_every_step(collection, tmp_path):
    llm = ScriptedLLM(verdict)
    relabel(collection, llm, out=tmp_path / "out")
    prompts = [call.text for call in llm.calls]
    row = next(row for row in collection.trajectories() if len(row.steps) > 1)
    own = [text for text in prompts if row.question.text in text]
    assert len(own) == len(row.steps)
    queries = [step.action.query for step in row.steps if isinstance(step.action, Search)]
    for text in own:
        assert all(f'<passages query="{query}">' in text for query in queries)
        assert f"It ended with: the answer {row.answer}" in text
    assert [re.search(r"when the first (\d+) of", text)[1] for text in own] == [str(at) for at in range(len(own))]


def test_a_reply_that_cannot_be_read_fails_its_episode_which_the_same_call_tries_again(collection, tmp_path):
    bad = next(collection.trajectories()).question.text

    def broken(messages):
        return "Good step, I guess." if any(bad in message["content"] for message in messages) else verdict(messages)

    first = relabel(collection, ScriptedLLM(broken), out=tmp_path / "out")
    assert (first.failed, first.run.status) == (1, "incomplete")
    total = len(list(collection.trajectories()))
    assert len(list(first.trajectories())) == total - 1
    (record,) = [record for record in first.run.records() if record["error"]]
    assert 'does not end with a JSON object that has the key "ratings"' in record["error"]
    llm = ScriptedLLM(verdict)
    again = relabel(collection, llm, out=tmp_path / "out")
    assert (again.failed, again.run.status, len(list(again.trajectories()))) == (0, "complete", total)
    assert all(bad in call.text for call in llm.calls)  # nothing else was judged again


def test_an_interrupted_relabelling_goes_on_where_it_was(collection, tmp_path):
    calls = []

    def dies(messages):
        calls.append(messages)
        if len(calls) > 3:
            raise LLMError("the server is gone")
        return verdict(messages)

    with pytest.raises(LLMError):
        relabel(collection, ScriptedLLM(dies), out=tmp_path / "out", in_flight=1)
    done = len(Collection.read(tmp_path / "out").run.records())
    assert 0 < done < 4
    again = relabel(collection, ScriptedLLM(verdict), out=tmp_path / "out", in_flight=1)
    assert len(again.run.records()) == 4
    whole = relabel(collection, ScriptedLLM(verdict), out=tmp_path / "whole")
    assert list(again.trajectories()) == list(whole.trajectories())


def test_other_options_or_other_data_are_another_relabelling(collection, tmp_path):
    relabel(collection, ScriptedLLM(verdict), out=tmp_path / "out")
    with pytest.raises(RunError, match=r"relabel\.seed is 0 there and 1 here"):
        relabel(collection, ScriptedLLM(verdict), out=tmp_path / "out", seed=1)
    with pytest.raises(RunError, match="holds another run"):
        relabel(collection, ScriptedLLM(verdict), out=collection.run.path)
    with pytest.raises(OptionError, match="in_flight"):
        relabel(collection, ScriptedLLM(verdict), out=tmp_path / "x", in_flight=0)


def test_failed_episodes_of_the_source_are_left_out_and_records_keep_no_gold(collection, tmp_path):
    records = collection.run.records()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "run.json").write_bytes((collection.run.path / "run.json").read_bytes())
    write_jsonl(tmp_path / "data" / "episodes.jsonl", [{**records[0], "error": "RetrievalError: down"}, *records[1:]])
    again = relabel(tmp_path / "data", ScriptedLLM(verdict), out=tmp_path / "out")
    assert {record["id"] for record in again.run.records()} == {record["id"] for record in records[1:]}
    assert {key for record in again.run.records() for key in record} == {key for record in records for key in record}


def test_the_command_relabels_a_folder(collection, tmp_path):
    script = tmp_path / "script.jsonl"
    script.write_text(
        "\n".join(
            json.dumps({"pattern": rf"candidates \({n} in all\)", "reply": f'{{"ratings": {[5] * n}}}'})
            for n in range(1, 9)
        )
    )
    arguments = ["collect", "--relabel", str(collection.run.path), "--llm", f"scripted:{script}"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out"), "--set", "passage_chars=50"])
    assert result.exit_code == 0, result.output
    made = Collection.read(tmp_path / "out")
    assert made.run.config["relabel"]["passage_chars"] == 50
    steps = [step for row in made.trajectories(kept=False) for step in row.steps]
    assert {option.score for step in steps for option in step.candidates} == {0.5}
    assert any(isinstance(step.action, Answer) for step in steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs the language model that judges"),
        (["--llm", "scripted:x.json", "--set", "colour=1"], "has no option 'colour'"),
        (["RAGGym-Synth-v0"], "Name an environment to collect on, --inspect FOLDER or --relabel FOLDER"),
    ],
)
def test_a_command_that_makes_no_sense_is_one_message(collection, arguments, message):
    result = CliRunner().invoke(app, ["collect", "--relabel", str(collection.run.path), *arguments])
    assert result.exit_code == 1
    assert message in result.output
