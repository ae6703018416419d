"""Runs of prompt agents: a server that dies, what they cost, and a card of one's own."""

import json

import pytest

from fake_server import FakeServer, says, status
from raggym_env.cards import policy_card
from raggym_env.errors import LLMError
from raggym_env.evaluation import build_leaderboard, evaluate
from raggym_env.storage.paths import card_file
from towns import write_towns

ANSWER = says('{"answer": "River1"}')
PATIENT = {"retries": 1, "backoff": 0.01, "timeout": 5}


def run(towns, server, out, policy="direct", **settings):
    chosen = {"policy.options.llm": f"openai:model@{server.url}", "policy.options.llm_options": PATIENT, **settings}
    return evaluate(towns, policy, out=out, settings=chosen, in_flight=4)


def test_a_server_that_dies_fails_the_affected_episodes_and_a_resumed_run_completes_them(tmp_path):
    towns = write_towns(tmp_path / "towns")
    with FakeServer(*[ANSWER] * 5, after=status(503, "going down")) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        first, scores = run(towns, server, tmp_path / "run")
    assert (scores.scored, scores.failed, scores.complete) == (5, 7, False)
    assert {record["error"].split(":")[0] for record in first.records() if record["error"]} == {"PolicyError"}
    with FakeServer(after=ANSWER, port=port) as server:
        _, scores = run(towns, server, tmp_path / "run")
        assert len(server.bodies) == 7
    assert (scores.scored, scores.failed, scores.complete) == (12, 0, True)
    assert scores.usage.prompt_tokens == 12 * 10


def test_a_server_that_was_never_there_stops_the_run_with_one_error(tmp_path):
    with FakeServer() as server:
        pass
    with pytest.raises(LLMError, match=r"127\.0\.0\.1"):
        run(write_towns(tmp_path / "towns"), server, tmp_path / "run")


def test_an_unreadable_reply_is_scored_as_no_answer_and_not_asked_for_again(tmp_path):
    towns = write_towns(tmp_path / "towns")
    with FakeServer(after=says("no idea")) as server:
        first, scores = run(towns, server, tmp_path / "run")
        asked = len(server.bodies)
        _, again = run(towns, server, tmp_path / "run")
        assert len(server.bodies) == asked
    assert (scores.no_action, scores.metrics["em"].mean, scores.complete) == (12, 0.0, True)
    assert again == scores
    assert first.records()[0]["output"] == "no idea"


def test_the_leaderboard_shows_the_model_its_tokens_and_its_cost(tmp_path):
    towns = write_towns(tmp_path / "towns")
    with FakeServer(after=ANSWER) as server:
        folder, scores = run(towns, server, tmp_path / "run", **{"policy.price": {"prompt": 100, "completion": 200}})
    assert scores.cost == pytest.approx(12 * (10 * 100 + 2 * 200) / 1e6)
    text = build_leaderboard([folder.path]).to_markdown()
    assert f"| 1 | direct (openai:model@{server.url}, llm_options changed) |" in text
    assert "| 144 | 0.0168 |" in text


def test_a_card_of_ones_own_with_one_prompt_changed_runs_by_its_path(tmp_path):
    shipped = card_file("policies", "direct")
    prompt = policy_card("direct").options["prompts"]["system"]
    mine = tmp_path / "pirate.toml"
    mine.write_text(
        shipped.read_text(encoding="utf-8").replace(prompt.strip().splitlines()[0], "Answer like a pirate.")
    )
    with FakeServer(after=ANSWER) as server:
        folder, _ = run(write_towns(tmp_path / "towns"), server, tmp_path / "run", policy=str(mine))
        assert all("Answer like a pirate." in json.dumps(body["messages"]) for body in server.bodies)
    assert folder.config["policy"]["name"] == "pirate"


def test_no_key_is_ever_written_to_a_run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-0123456789")
    with FakeServer(*[ANSWER] * 3, after=status(503, "key sk-very-secret-0123456789 refused")) as server:
        folder, _ = run(write_towns(tmp_path / "towns"), server, tmp_path / "run")
    assert all(b"sk-very-secret" not in path.read_bytes() for path in folder.path.iterdir())
