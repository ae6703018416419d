"""Cards as tasks of inspect_ai, and runs as its logs, with inspect_ai's own package."""

from __future__ import annotations

import json
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import gymnasium as gym
import pytest

pytest.importorskip("inspect_ai", reason="needs the extra inspect")

import tomllib

from inspect_ai import eval as run_inspect
from inspect_ai.log import list_eval_logs, read_eval_log, recompute_metrics
from inspect_ai.model import ChatMessageAssistant, ModelOutput, ModelUsage, get_model
from inspect_ai.solver import generate
from typer.testing import CliRunner

from raggym_env.cli import app
from raggym_env.core import Answer, Search
from raggym_env.errors import RetrievalError, RunError, UnknownName
from raggym_env.evaluation import evaluate
from raggym_env.evaluation.scored_run import ScoredRun
from raggym_env.evaluation.scores import score_record
from raggym_env.integrations.inspect import EPISODE, export_log, search_qa
from raggym_env.mdp.records import Episode
from raggym_env.runs.run import Run
from towns import Reader, write_towns

pytestmark = [
    pytest.mark.integrations,
    # pydantic and anyio warn in code of inspect_ai's own.
    pytest.mark.filterwarnings("default"),
]
ENV = "RAGGym-Synth-v0"


@pytest.fixture(autouse=True)
def _quiet_logs(tmp_path, monkeypatch):
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.setenv("INSPECT_DISPLAY", "none")


def call(name, **arguments):
    return ModelOutput.for_tool_call("mockllm/model", name, arguments)


def play(task, replies, **options):
    """Evaluate with a model that gives the n-th of `replies` (outputs or functions of the question) as its n-th."""

    def reply(messages, tools, tool_choice, config):
        assert [tool.name for tool in tools] == ["search", "answer"]
        number = sum(isinstance(message, ChatMessageAssistant) for message in messages)
        output = replies[min(number, len(replies) - 1)]
        output = output(messages[1].text) if callable(output) else output
        # Without its own usage, the mock model would load a tokenizer from the network.
        return output.model_copy(deep=True, update={"usage": ModelUsage(input_tokens=1, output_tokens=1)})

    model = get_model("mockllm/model", custom_outputs=reply)
    (log,) = run_inspect(task, model=model, **{"limit": 4, "display": "none", **options})
    return read_eval_log(log.location)


def steps_of(sample):
    return Episode.from_json(sample.store[EPISODE]).steps


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluate(ENV, "lexical", out=tmp_path_factory.mktemp("synth") / "run", limit=12)[0].path


# -- a card as a task ---------------------------------------------------------------------------------------------


def question(text):
    return call("search", query=text.splitlines()[0].removeprefix("Question: "))


def test_a_sample_has_the_rewards_of_the_environment_for_the_same_actions():
    log = play(search_qa(ENV), [question, call("search", query="landmark"), call("answer", text="yes")])
    assert log.status == "success", log.error
    env = gym.make(ENV).unwrapped
    for row, sample in enumerate(log.samples):
        observation, _ = env.reset(options={"index": row})
        actions = [Search(observation["question"]), Search("landmark"), Answer("yes")]
        steps = steps_of(sample)
        assert [step.action for step in steps] == actions
        for step, action in zip(steps, actions, strict=True):
            *_, info = env.step(action)
            assert (step.outcome, step.process_reward) == (info["outcome_reward"], info["process_reward"])
        assert any(step.process_reward for step in steps)


def test_the_scores_are_those_of_the_evaluation():
    log = play(search_qa(ENV), [question, call("answer", text="yes")], limit=8)
    env = gym.make(ENV).unwrapped
    expected = {
        sample.id: score_record(Episode.from_json(sample.store[EPISODE]), env.episodes.tasks[row])
        for row, sample in enumerate(log.samples)
    }
    for sample in log.samples:
        assert {name: score.value for name, score in sample.scores.items()} == pytest.approx(expected[sample.id])
    for score in log.results.scores:
        values = [scores[score.name] for scores in expected.values() if score.name in scores]
        assert score.metrics["mean"].value == pytest.approx(sum(values) / len(values))
    assert {score.name for score in log.results.scores} >= {"em", "f1", "recall"}


def test_the_searches_end_and_then_the_episode_does():
    log = play(search_qa(ENV, max_searches=2), [question], limit=1)
    (sample,) = log.samples
    record = Episode.from_json(sample.store[EPISODE])
    assert (record.stop, record.answer, len(record.steps)) == ("search_budget", None, 3)
    assert sample.scores["em"].value == 0


def test_a_model_that_never_acts_or_sends_blank_texts_is_reminded_three_times_and_scores_0():
    for useless in (ModelOutput.from_content("mockllm/model", "I think so."), call("search", query=" ")):
        log = play(search_qa(ENV, max_searches=1), [useless], limit=1)
        assert log.status == "success"
        (sample,) = log.samples
        assert sum(message.role == "assistant" for message in sample.messages) == 1 + 1 + 3
        assert steps_of(sample) == ()
        assert sample.scores["em"].value == 0
        assert sample.scores["em"].answer is None


def test_a_step_after_the_end_is_refused_and_changes_nothing_with_any_solver():
    both = call("answer", text="yes")
    both.choices[0].message.tool_calls += call("search", query="x").choices[0].message.tool_calls
    for options in ({}, {"solver": generate()}):
        (sample,) = play(search_qa(ENV), [both], limit=1, **options).samples
        assert [step.action for step in steps_of(sample)] == [Answer("yes")]
        assert sample.messages[-1].error.message == "The episode has ended."


def test_a_search_that_fails_fails_the_sample_and_is_not_scored(tmp_path, monkeypatch):
    task = search_qa(str(write_towns(tmp_path / "towns")))
    monkeypatch.setattr(
        "raggym_env.retrieval.bm25.retriever.BM25Retriever.search",
        lambda self, queries, k: (_ for _ in ()).throw(RetrievalError("the index is gone")),
    )
    log = play(task, [question], limit=2, fail_on_error=False)
    assert all("the index is gone" in sample.error.message and not sample.scores for sample in log.samples)


def test_questions_with_options_show_them_and_are_scored_by_accuracy(tmp_path):
    card = write_towns(tmp_path / "towns")
    rows = [json.loads(line) for line in (tmp_path / "towns" / "questions.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"options": [*row["golden_answers"], "another"]}
    (tmp_path / "towns" / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card.write_text(card.read_text() + '\n[episode]\nmetric = "accuracy"\n')
    log = play(search_qa(str(card)), [call("answer", text="A")], limit=2)
    assert "A. River0" in log.samples[0].input
    assert {score.name for score in log.results.scores} == {"accuracy", "recall"}


def test_no_gold_is_in_what_the_model_reads():
    log = play(search_qa(ENV), [call("search", query="x"), call("answer", text="unknown")], limit=3)
    for sample in log.samples:
        texts = [message.text for message in sample.messages if message.role in ("system", "user")]
        assert not any(answer in text for text in texts for answer in sample.target if answer not in sample.input)


def test_a_name_that_no_card_has_is_one_clear_error():
    with pytest.raises(UnknownName, match="No environment"):
        search_qa("RAGGym-Nothing-v0")


def test_the_entry_point_names_the_module_with_the_task():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    name, value = next(iter(project["entry-points"]["inspect_ai"].items()))
    assert name == "raggym_env"
    assert EntryPoint(name, value, "inspect_ai").load().search_qa is search_qa


# -- a run as a log -----------------------------------------------------------------------------------------------


def test_an_exported_run_is_read_back_with_our_scores(run, tmp_path):
    log = read_eval_log(str(export_log(run, tmp_path / "log")))
    scored = ScoredRun.read(run)
    assert log.status == "success"
    means = {score.name: score.metrics["mean"].value for score in log.results.scores}
    assert means == pytest.approx({name: estimate.mean for name, estimate in scored.scores.metrics.items()})
    assert [sample.metadata["question_id"] for sample in log.samples] == [task.id for task in scored.tasks]
    for sample in log.samples:
        scores = {name: score.value for name, score in sample.scores.items()}
        assert scores == scored.by_question[sample.metadata["question_id"]]
    recompute_metrics(log)
    assert {score.name: score.metrics["mean"].value for score in log.results.scores} == pytest.approx(means)


def test_an_exported_sample_shows_each_step_with_its_rewards(run, tmp_path):
    log = read_eval_log(str(export_log(run, tmp_path / "log")))
    episodes = ScoredRun.read(run).episodes
    for sample in log.samples:
        episode = episodes[sample.metadata["question_id"]]
        acted = [message for message in sample.messages if message.role == "assistant"]
        assert len(acted) == len(episode.steps)
        for message, step in zip(acted, episode.steps, strict=True):
            (taken,) = message.tool_calls
            expected = {"query": step.action.query} if isinstance(step.action, Search) else {"text": step.action.text}
            assert taken.arguments == expected
            assert message.metadata["outcome"] == step.outcome
            assert message.metadata["process_reward"] == step.process_reward
        assert Episode.from_json(sample.store[EPISODE]) == episode


def test_a_failed_question_has_an_error_and_no_score_and_the_log_is_no_success(tmp_path):
    card = write_towns(tmp_path / "towns")
    run = evaluate(card, Reader(fails=("q1",)), out=tmp_path / "run")[0].path
    log = read_eval_log(str(export_log(run, tmp_path / "log")))
    assert log.status == "error"
    assert (log.results.total_samples, log.results.completed_samples) == (12, 11)
    (failed,) = [sample for sample in log.samples if sample.error]
    assert failed.metadata["question_id"] == "q1"
    assert "the server is down" in failed.error.message
    assert not failed.scores


def test_the_usage_of_a_model_is_in_the_log(tmp_path):
    replies = tmp_path / "replies.jsonl"
    replies.write_text('{"contains": "<question>", "reply": "{\\"answer\\": \\"River1\\"}"}\n')
    run = evaluate(
        write_towns(tmp_path / "towns"),
        "react",
        settings={"policy.options.llm": f"scripted:{replies}"},
        out=tmp_path / "run",
    )[0].path
    log = read_eval_log(str(export_log(run, tmp_path / "log")))
    assert log.eval.model.startswith("scripted:")
    usage = ScoredRun.read(run).scores.usage
    assert log.stats.model_usage[log.eval.model].output_tokens == usage.completion_tokens
    assert sum(sample.model_usage[log.eval.model].input_tokens for sample in log.samples) == usage.prompt_tokens


def test_ids_that_are_paths_or_alike_stay_inside_the_log_and_apart(tmp_path):
    card = write_towns(tmp_path / "towns", questions=3)
    file = tmp_path / "towns" / "questions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    ids = ["../../x", "..-..-x", "a\x00b \x1b[2J/c"]
    file.write_text("".join(json.dumps({**row, "id": id}) + "\n" for row, id in zip(rows, ids, strict=True)))
    path = export_log(evaluate(card, Reader(), out=tmp_path / "run")[0].path, tmp_path / "log")
    log = read_eval_log(str(path))
    assert len({sample.id for sample in log.samples}) == 3
    names = zipfile.ZipFile(path).namelist()
    assert len(names) == len(set(names))
    assert not any(".." in Path(name).parts or "\x1b" in name for name in names)


def test_the_command_writes_a_log_that_inspect_lists_and_refuses_an_existing_folder(run, tmp_path):
    out = tmp_path / "logs" / "first"
    result = CliRunner().invoke(app, ["export", str(run), "--to", "inspect", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "inspect view --log-dir" in result.output
    (listed,) = list_eval_logs(str(tmp_path / "logs"))
    assert listed.task == ENV
    again = CliRunner().invoke(app, ["export", str(run), "--to", "inspect", "--out", str(out)])
    assert (again.exit_code, "exists" in again.output) == (1, True)


def test_process_data_and_what_is_no_run_are_refused(run, tmp_path):
    with pytest.raises(RunError, match="exists"):
        export_log(run, tmp_path)
    with pytest.raises(RunError):
        export_log(tmp_path, tmp_path / "log")
    assert Run.read(run).status == "complete"
