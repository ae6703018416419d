"""The resources server of NeMo Gym, with its released base class, agent and client over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import pytest

pytest.importorskip("nemo_gym", reason="needs nemo-gym, in an environment of its own with Python 3.12")

import uvicorn
from aiohttp import ClientResponseError
from fastapi import FastAPI
from nemo_gym import server_utils
from nemo_gym.config_types import BaseServerConfig, ModelServerRef, ResourcesServerRef
from nemo_gym.server_utils import ServerClient
from omegaconf import OmegaConf
from responses_api_agents.gymnasium_agent.app import GymnasiumAgent, GymnasiumAgentConfig, GymnasiumAgentRunRequest

from raggym_env.core import Answer, Search
from raggym_env.errors import RetrievalError
from raggym_env.integrations.nemo_gym import TOOLS, SearchServer, SearchServerConfig, rows
from raggym_env.integrations.session import load_world
from raggym_env.mdp.records import Episode

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]
ENV = "RAGGym-Synth-v0"
EXAMPLE = Path(__file__).parents[2] / "examples" / "nemo_gym" / "resources_servers" / "raggym"


@contextmanager
def serving(app):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield {"host": "127.0.0.1", "port": listener.getsockname()[1]}
        finally:
            server.should_exit = True
            thread.join()


def model_app(replies):
    """A model server whose n-th response of an episode is the n-th of `replies`, and then the last."""
    app = FastAPI()

    @app.post("/v1/responses")
    async def responses(body: dict):
        number = sum(item.get("type") == "function_call" or item.get("role") == "assistant" for item in body["input"])
        reply = replies[min(number, len(replies) - 1)]
        if isinstance(reply, str):
            text = {"type": "output_text", "text": reply, "annotations": []}
            item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
        else:
            item = {"type": "function_call", "call_id": f"call-{number}", "name": reply[0], "arguments": reply[1]}
        about = {"id": "r", "object": "response", "created_at": 0, "model": "m", "tool_choice": "auto", "tools": []}
        return {**about, "parallel_tool_calls": False, "output": [item]}

    return app


def server_of(**config):
    about = {"host": "", "port": 0, "entrypoint": "", "name": "raggym"}
    return SearchServer(config=SearchServerConfig(**about, card=ENV, **config), server_client=client({}))


def client(servers):
    config = {name: {kind: {name: address}} for name, (kind, address) in servers.items()}
    return ServerClient(
        head_server_config=BaseServerConfig(host="127.0.0.1", port=1), global_config_dict=OmegaConf.create(config)
    )


@pytest.fixture(scope="module")
def server():
    return server_of()


def run(server, *replies, row=0, max_steps=12, **about):
    """Run an episode with NeMo Gym's agent, which calls the resources server and a scripted model."""
    with serving(server.setup_webserver()) as resources, serving(model_app(replies)) as model:
        servers = {"raggym": ("resources_servers", resources), "policy": ("responses_api_models", model)}
        config = GymnasiumAgentConfig(
            host="",
            port=0,
            entrypoint="",
            name="agent",
            resources_server=ResourcesServerRef(type="resources_servers", name="raggym"),
            model_server=ModelServerRef(type="responses_api_models", name="policy"),
            max_steps=max_steps,
        )
        agent = GymnasiumAgent(config=config, server_client=client(servers))
        request = next(iter(rows(server._world))) | {"row": row} | about
        body = GymnasiumAgentRunRequest.model_validate(request)
        return asyncio.run(drive(agent, body))


async def drive(agent, body):
    # NeMo Gym's client belongs to the event loop, and would read the command line of the tests for its settings.
    session = server_utils.set_global_aiohttp_client(server_utils.GlobalAIOHTTPAsyncClientConfig())
    try:
        return await agent.run(SimpleNamespace(cookies={}), body)
    finally:
        await session.close()
        server_utils._GLOBAL_AIOHTTP_CLIENT = None


def call(name, text):
    return name, json.dumps({"query" if name == "search" else "text": text})


def test_the_reward_and_its_parts_are_those_of_the_environment(server):
    env = gym.make(ENV).unwrapped
    for row in range(3):
        result = run(server, call("search", "landmark"), call("search", "publisher"), call("answer", "yes"), row=row)
        observation, _ = env.reset(options={"index": row})
        steps = [env.step(action) for action in (Search("landmark"), Search("publisher"), Answer("yes"))]
        episode = Episode.from_json(result.info["episode"])
        assert [step.outcome for step in episode.steps] == [info["outcome_reward"] for *_, info in steps]
        assert [step.process_reward for step in episode.steps] == [info["process_reward"] for *_, info in steps]
        assert any(step.process_reward for step in episode.steps)
        assert result.reward == pytest.approx(sum(reward for _, reward, *_ in steps))
        assert (result.terminated, result.truncated) == (True, False)
        assert observation["question"] in str(result.responses_create_params.input)


def test_the_process_reward_can_be_left_out_of_the_reward():
    result = run(server_of(settings={"process_weight": 0.0}), call("search", "landmark"), call("answer", "no idea"))
    assert result.reward == 0
    assert result.info["episode"]["steps"][0]["process_reward"]


def test_the_searches_end_and_then_the_episode_does():
    result = run(server_of(settings={"max_searches": 2}), call("search", "landmark"))
    assert (result.terminated, result.truncated) == (False, True)
    assert len(result.info["episode"]["steps"]) == 3


@pytest.mark.parametrize(
    "reply",
    ["It is yes.", ("guess", "{}"), ("search", "{"), ("search", '{"query": 1}'), ("search", '{"query": " "}'),
     ("answer", "[]"), ("search", "[" * 100_000), ("search", '{"query": "x", "k": 9}')],
)  # fmt: skip
def test_what_is_no_step_is_answered_and_changes_nothing(server, reply):
    result = run(server, reply, call("answer", "yes"))
    assert [next(iter(step)) for step in result.info["episode"]["steps"]] == ["answer"]
    said = [item for item in result.response.output if item.type in ("function_call_output", "message")]
    assert any("Not a step" in str(item) or "Call one of the tools" in str(item) for item in said)


def test_a_search_that_fails_fails_the_rollout(monkeypatch):
    broken = server_of()

    class Broken:
        def search(self, queries, k):
            raise RetrievalError("the index is gone")

    broken._world.dynamics = type(broken._world.dynamics)(Broken(), k=2, max_searches=2)
    with pytest.raises(ClientResponseError, match="500"):
        run(broken, call("search", "x"), call("answer", "yes"))


@pytest.mark.parametrize("row", [None, -1, 10**9, "0", 1.5, True])
def test_a_row_that_names_no_question_is_refused(server, row):
    with pytest.raises(ClientResponseError, match="422"):
        run(server, call("answer", "yes"), row=row)


def test_the_oldest_session_makes_room_and_its_next_step_is_refused():
    small = server_of(max_sessions=2)

    async def sessions():
        for name in ("a", "b", "c"):
            await small.reset({"row": 0}, name)

    asyncio.run(sessions())
    assert list(small.session_state) == ["b", "c"]


def test_rows_name_each_question_once_and_hold_no_gold():
    world = load_world(ENV)
    written = list(rows(world))
    assert [row["row"] for row in written] == list(range(len(world.tasks)))
    for row, task in zip(written, world.tasks, strict=True):
        assert row["responses_create_params"]["tools"] == TOOLS
        assert task.answers[0] not in json.dumps(row) or len(task.answers[0]) < 4


def test_the_example_configuration_names_the_server_and_fits_its_class():
    config = OmegaConf.to_container(OmegaConf.load(EXAMPLE / "configs" / "raggym.yaml"))
    about = config["raggym"]["resources_servers"]["raggym"]
    assert (EXAMPLE / about["entrypoint"]).is_file()
    SearchServerConfig(host="", port=0, name="raggym", **about)
    agent = config["raggym_agent"]["responses_api_agents"]["gymnasium_agent"]
    assert agent["resources_server"]["name"] == "raggym"
    assert next(iter(rows(load_world(ENV))))["agent_ref"]["name"] == "raggym_agent"
