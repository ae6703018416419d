"""The taskset of verifiers, driven by its own evaluation command, chat harness and tool server."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import pytest

pytest.importorskip("verifiers.v1", reason="needs verifiers, in an environment of its own")

import verifiers.v1 as vf
from verifiers.v1.cli.eval.main import main
from verifiers.v1.cli.init import scaffold
from verifiers.v1.configs.cli.init import InitConfig
from verifiers.v1.runtimes.base import Runtime

from raggym_env.core import Answer, Search
from raggym_env.envs.episodes import Episodes
from raggym_env.errors import InvalidAction, RetrievalError, UnknownName
from raggym_env.integrations.batching import StepBatcher
from raggym_env.integrations.verifiers import EPISODE, SearchConfig, SearchState, SearchTaskset, SearchTools
from raggym_env.mdp.records import Episode
from towns import write_towns
from worlds import BOTH, FILM, dynamics

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]
ENV = "RAGGym-Synth-v0"
PACKAGE = Path(__file__).parents[2] / "examples" / "verifiers" / "raggym_search"


class Script:
    """A chat-completions server whose n-th reply in a conversation is the n-th of `replies`, and then the last."""

    def __init__(self, *replies):
        self.replies, self.bodies = replies, []

    def __enter__(self):
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                script.bodies.append(body)
                events = [json.dumps(script.chunk(body)), "[DONE]"]
                content = "".join(f"data: {event}\n\n" for event in events).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def chunk(self, body):
        number = sum(message["role"] == "assistant" for message in body["messages"])
        reply = self.replies[min(number, len(self.replies) - 1)]
        delta = {"role": "assistant", "content": reply if isinstance(reply, str) else None}
        if isinstance(reply, tuple):
            function = {"name": reply[0], "arguments": json.dumps(reply[1])}
            delta["tool_calls"] = [{"index": 0, "id": f"call-{number}", "type": "function", "function": function}]
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if isinstance(reply, str) else "tool_calls"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        about = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        return {**about, "choices": [choice], "usage": usage}


async def prepared(self, script, env=None, *, activate=True):
    """Stand in for `uv`, which would fetch packages: the script runs in this Python, which has them."""
    path = f"{self.workdir}/program.py"
    await self.write(path, script.encode() if isinstance(script, str) else script)
    return [sys.executable, path]


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Return a function that runs `vf-eval` on the first tasks with scripted replies, and returns the episodes."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    monkeypatch.setattr(Runtime, "prepare_uv_script", prepared)
    monkeypatch.setenv("SCRIPT_KEY", "none")

    def run(*replies, tasks=2, options=()):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        with Script(*replies) as script:
            main(
                ["raggym-search", "-n", str(tasks), "--no-push", "--no-rich", "--output-dir", str(out), "-m", "m",
                 "--client.base-url", script.url, "--client.api-key-var", "SCRIPT_KEY",
                 "--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess", *options]
            )  # fmt: skip
        (file,) = out.rglob("traces.jsonl")
        episodes = [vf.WireEpisode.model_validate_json(line) for line in file.read_text().splitlines()]
        return sorted(episodes, key=lambda episode: episode.task.data.idx)

    return run


def test_outcome_and_process_rewards_are_those_of_the_environment(play):
    actions = [("search", {"query": "landmark"}), ("search", {"query": "publisher"}), ("answer", {"text": "yes"})]
    env = gym.make(ENV).unwrapped
    for row, episode in enumerate(play(*actions)):
        (trace,) = episode.traces
        record = Episode.from_json(trace.info[EPISODE])
        env.reset(options={"index": row})
        infos = [env.step(action)[-1] for action in (Search("landmark"), Search("publisher"), Answer("yes"))]
        assert [step.outcome for step in record.steps] == [info["outcome_reward"] for info in infos]
        assert [step.process_reward for step in record.steps] == [info["process_reward"] for info in infos]
        assert any(info["process_reward"] for info in infos)
        assert trace.rewards["outcome"].value == infos[-1]["outcome_reward"]
        mean = sum(info["process_reward"] for info in infos) / 3
        assert trace.metrics["process_reward"] == pytest.approx(mean)
        assert trace.metrics["searches"] == 2


def test_a_right_answer_is_rewarded_and_the_rollout_ends_with_it(play, tmp_path):
    card = write_towns(tmp_path / "towns")
    (episode,) = play(("search", {"query": "Town0"}), ("answer", {"text": "River0"}), tasks=1,
                      options=["--env.taskset.card", str(card)])  # fmt: skip
    (trace,) = episode.traces
    assert trace.rewards["outcome"].value == 1
    assert (trace.metrics["em"], trace.metrics["recall"]) == (1, 1)
    assert trace.stop_condition == "episode_over"
    assert not trace.errors


def test_a_model_that_only_writes_has_not_answered(play):
    (episode,) = play("It is yes.", tasks=1)
    (trace,) = episode.traces
    assert trace.rewards["outcome"].value == 0
    assert Episode.from_json(trace.info[EPISODE]).steps == ()
    assert not trace.errors


# -- parts, without a model -----------------------------------------------------------------------------------------


def tools(row=0, tasks=(FILM, BOTH), **options):
    world = Episodes(tasks, dynamics(**options)[0])
    server = SearchTools(SearchTaskset.toolsets(SearchConfig(id="raggym-search"))[0].config)
    server._world, server._batcher = world, StepBatcher(world)
    server._inert_state = SearchState(row=row)  # that of a call without a rollout
    return server


def call(server, name, text):
    return asyncio.run(getattr(server, name)(text))


def outcome(server):
    task = next(iter(SearchTaskset(SearchConfig(id="raggym-search")).load()))
    trace = SimpleNamespace(state=server.state, info={})
    assert asyncio.run(task.episode_over(trace))
    return asyncio.run(task.outcome(trace)), trace.info


def test_the_searches_end_and_then_the_episode_does():
    server = tools(max_searches=2)
    assert "Searches left: 1" in call(server, "search", "Dawn")
    assert "Searches left: 0" in call(server, "search", "Ada Berg")
    assert "episode has ended" in call(server, "search", "Dusk")
    reward, info = outcome(server)
    assert (reward, info[EPISODE]["stop"], info[EPISODE]["answer"]) == (0.0, "search_budget", None)
    assert server.state.scores["recall"] == 1
    for name in ("search", "answer"):
        with pytest.raises(ValueError, match="has ended"):
            call(server, name, "Oslo")


def test_a_blank_text_is_refused_and_changes_nothing():
    server = tools()
    with pytest.raises(InvalidAction):
        call(server, "search", " ")
    assert server.state == SearchState(row=0)
    call(server, "answer", "Oslo")
    assert outcome(server)[0] == 1


def test_a_search_that_fails_fails_the_rollout_and_is_not_scored():
    class Broken:
        def search(self, queries, k):
            raise RetrievalError("the index is gone")

    server = tools()
    server._world.dynamics = type(server._world.dynamics)(Broken(), k=2, max_searches=2)
    assert "failed" in call(server, "search", "Dawn")
    with pytest.raises(RetrievalError, match="the index is gone"):
        outcome(server)
    with pytest.raises(ValueError, match="has ended"):
        call(server, "answer", "Oslo")


def test_a_call_that_belongs_to_no_rollout_is_refused():
    with pytest.raises(ValueError, match="names none"):
        call(tools(row=None), "search", "Dawn")


def test_no_gold_is_in_the_data_of_a_task(tmp_path):
    card = write_towns(tmp_path / "towns")
    for task in SearchTaskset(SearchConfig(id="raggym-search", card=str(card))).load():
        assert "River" not in task.data.model_dump_json()


def test_a_name_that_no_card_has_is_one_clear_error():
    with pytest.raises(UnknownName, match="No environment"):
        list(SearchTaskset(SearchConfig(id="raggym-search", card="RAGGym-Nothing-v0")).load())


def test_the_package_has_the_layout_that_verifiers_scaffolds(tmp_path, monkeypatch):
    scaffold(InitConfig(name="raggym-search", path=str(tmp_path)))
    (made,) = tmp_path.iterdir()
    assert made.name == PACKAGE.name
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    own = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*") if path.suffix != ".pyc"}
    assert files - {"raggym_search/taskset.py"} <= own  # the taskset is in our own package
    ours, theirs = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (PACKAGE, made))
    assert ours["project"]["name"] == theirs["project"]["name"]
    assert (ours["build-system"], ours["tool"]) == (theirs["build-system"], theirs["tool"])
    monkeypatch.syspath_prepend(str(PACKAGE))
    assert issubclass(vf.taskset_config_type("raggym-search"), SearchConfig)
