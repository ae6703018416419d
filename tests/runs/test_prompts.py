"""Recorded prompts: stored once, resumable, and shown again."""

import json

import pytest
from typer.testing import CliRunner

from fake_server import FakeServer, says, status
from raggym_env.cli import app
from raggym_env.errors import DataError, MalformedData
from raggym_env.evaluation import Run, build_leaderboard, evaluate
from raggym_env.evaluation.report.content import report_content
from raggym_env.evaluation.scored_run import ScoredRun
from raggym_env.runs.prompts import PromptWriter, read_prompts
from towns import write_towns

PATIENT = {"retries": 0, "backoff": 0.01, "timeout": 5}


def run(towns, server, out, **options):
    settings = {"policy.options.llm": f"openai:model@{server.url}", "policy.options.llm_options": PATIENT}
    return evaluate(towns, "direct", out=out, settings=settings, in_flight=4, **options)[0]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_distinct_message_is_stored_once_and_every_step_refers_to_its_own(tmp_path):
    towns = write_towns(tmp_path / "towns")
    with FakeServer(after=says('{"answer": "River1"}')) as server:
        recorded = run(towns, server, tmp_path / "run", record_prompts=True)
        sent = {message["content"] for body in server.bodies for message in body["messages"]}
    stored = lines(recorded.prompts_file)
    assert {message["content"] for message in stored} == sent
    assert len(stored) == len({message["id"] for message in stored}) == len(sent)
    scored = ScoredRun.read(recorded.path)
    for task in scored.tasks:
        messages = scored.messages(scored.episodes[task.id].steps[0])
        assert [message["role"] for message in (messages[0], messages[-1])] == ["system", "user"]
        assert task.question.text in messages[-1]["content"]
    assert all("messages" not in step for record in recorded.records() for step in record["steps"])


def test_recording_prompts_is_no_part_of_the_run_and_a_resumed_run_adds_what_is_missing(tmp_path):
    towns = write_towns(tmp_path / "towns")
    with FakeServer(*[says('{"answer": "River1"}')] * 5, after=status(503, "down")) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        first = run(towns, server, tmp_path / "run", record_prompts=True)
    before = lines(first.prompts_file)
    shared = len(before) - 5  # the system's message and the examples
    with first.prompts_file.open("a") as file:
        file.write('{"id": "torn')
    with FakeServer(after=says('{"answer": "River1"}'), port=port) as server:
        second = run(towns, server, tmp_path / "run", record_prompts=True)
        assert len(server.bodies) == 7
    assert "record_prompts" not in json.dumps(second.config)
    after = lines(second.prompts_file)
    assert (after[: len(before)], len(after)) == (before, shared + 12)
    scored = ScoredRun.read(second.path)
    assert all(len(scored.messages(episode.steps[0])) == shared + 1 for episode in scored.episodes.values())


def test_a_run_without_prompts_has_no_file_and_the_same_records(tmp_path):
    towns = write_towns(tmp_path / "towns")
    with FakeServer(after=says('{"answer": "River1"}')) as server:
        plain = run(towns, server, tmp_path / "plain")
        recorded = run(towns, server, tmp_path / "recorded", record_prompts=True)
    assert not plain.prompts_file.exists()
    # As they would be without the ids.
    same = [step | {"usage": 0} for record in plain.records() for step in record["steps"]]
    others = [step | {"usage": 0} for record in recorded.records() for step in record["steps"]]
    for step in others:
        assert len(step.pop("prompt")) > 1
    assert others == same
    # A run of a policy without prompts.
    assert not evaluate(towns, "lexical", out=tmp_path / "lexical", record_prompts=True)[0].prompts_file.exists()


def test_show_and_report_show_the_prompts_and_also_that_of_an_unreadable_output(tmp_path):
    towns = write_towns(tmp_path / "towns")
    with FakeServer(*[says("no idea")] * 8, after=says('{"answer": "River1"}')) as server:
        recorded = run(towns, server, tmp_path / "run", record_prompts=True)
    content = report_content(build_leaderboard([recorded.path]))
    episodes = content["boards"][0]["runs"]["run"]["episodes"]
    holders = [episode if episode["stop"] == "no_action" else episode["steps"][0] for episode in episodes]
    assert {episode["stop"] for episode in episodes} == {"no_action", "answer"}
    for holder in holders:
        assert (holder["m"][0]["role"], holder["m"][-1]["role"]) == ("system", "user")
    for task, holder in zip(ScoredRun.read(recorded.path).tasks, holders, strict=True):
        result = CliRunner().invoke(app, ["show", str(recorded.path), task.id, "--prompt"])
        assert result.exit_code == 0
        assert "prompt, system:" in result.output
        assert "no prompt recorded" not in result.output
        assert holder["m"][-1]["content"].splitlines()[0][:40] in result.output


def test_a_prompt_that_is_missing_is_said_to_be(tmp_path):
    towns = write_towns(tmp_path / "towns")
    with FakeServer(after=says('{"answer": "River1"}')) as server:
        recorded = run(towns, server, tmp_path / "run", record_prompts=True)
    recorded.prompts_file.unlink()
    assert (
        "This message is not in prompts.jsonl"
        in CliRunner().invoke(app, ["show", str(recorded.path), "1", "--prompt"]).output
    )


@pytest.mark.parametrize("line", ["5", '{"id": "a", "role": "user"}', '{"id": 1, "role": "user", "content": "x"}', "{"])
def test_a_damaged_line_is_an_error_that_names_it(tmp_path, line):
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"id": "a", "role": "user", "content": "x"}}\n{line}\n')
    with pytest.raises(MalformedData, match="line 2"):
        read_prompts(file)


def test_a_link_is_neither_read_nor_written(tmp_path):
    (tmp_path / "target").write_text("")
    (tmp_path / "prompts.jsonl").symlink_to(tmp_path / "target")
    with pytest.raises(DataError, match="link"):
        read_prompts(tmp_path / "prompts.jsonl")
    with pytest.raises(DataError, match="link"):
        PromptWriter(tmp_path / "prompts.jsonl")


def test_any_text_is_stored_and_read_back(tmp_path):
    messages = [{"role": "user", "content": text} for text in ("", "\n", "\ud800", "\x00\u2028", "a", "a")]
    record = {"id": "q", "messages": messages, "steps": []}
    with PromptWriter(tmp_path / "prompts.jsonl") as writer:
        writer.take_from([record])
    prompts = read_prompts(tmp_path / "prompts.jsonl")
    mended = [{**message, "content": message["content"].replace("\ud800", "\ufffd")} for message in messages]
    assert [prompts[name] for name in record["prompt"]] == mended
    assert len(prompts) == 5
    assert Run(tmp_path, {}).prompts_file == tmp_path / "prompts.jsonl"
