"""The search engine and the episodes as MCP tools, called by the SDK's own client."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress

import gymnasium as gym
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raggym_env.core import Search
from raggym_env.retrieval.server import Batching, Limits, ServerOptions
from sessions import Engine, gold_steps, played, small_world
from towns import write_towns

pytestmark = pytest.mark.integrations
pytest.importorskip("mcp", reason="needs the extra mcp")

import mcp  # noqa: E402
from mcp import ClientSession, StdioServerParameters  # noqa: E402
from mcp.client.stdio import stdio_client  # noqa: E402
from mcp.client.streamable_http import streamable_http_client  # noqa: E402

from raggym_env.integrations.mcp import mcp_server, running_mcp  # noqa: E402
from raggym_env.integrations.serving import Service, ServiceOptions  # noqa: E402
from raggym_env.integrations.session import load_world  # noqa: E402

ENV = "RAGGym-Synth-v0"
MCPError = getattr(mcp, "MCPError", None) or mcp.McpError  # its name in the SDK's second and first version


@pytest.fixture(scope="module")
def world():
    return load_world(ENV, split="train", process_reward="evidence")


@pytest.fixture(scope="module")
def synth(world):
    with running_mcp(Service(world, ENV, "train")) as url:
        yield url


@contextmanager
def serving(engine, *, server=None, **options):
    service = Service(small_world(engine), "Small-v0", "test", ServiceOptions(server or ServerOptions(), **options))
    with running_mcp(service) as url:
        yield url


@asynccontextmanager
async def client_of(streams):
    async with streams as (read, write, *_), ClientSession(read, write) as client:
        await client.initialize()
        yield Client(client)


class Client:
    """The SDK's client, whose names differ between its two versions."""

    def __init__(self, client):
        self.client = client

    async def call(self, tool, **arguments):
        """Return the text of a tool, its structured content, and whether it is an error."""
        result = await self.client.call_tool(tool, arguments)
        content = result.model_dump(by_alias=True)
        return content["content"][0]["text"], content.get("structuredContent"), content.get("isError", False)

    async def tools(self):
        return {tool.name: tool.model_dump(by_alias=True) for tool in (await self.client.list_tools()).tools}


def run(url, play):
    """Run a coroutine function with a client of the server."""

    async def main():
        async with client_of(streamable_http_client(url)) as client:
            return await play(client)

    return asyncio.run(main())


async def play_gold(client, world, row):
    """Play the gold steps of a row; returns the rewards and the texts."""
    text, start, _ = await client.call("start_episode", row=row)
    assert world.tasks[row].question.text in text
    steps, texts = [], []
    for step in gold_steps(world, row):
        tool, argument = ("search", "query") if isinstance(step, Search) else ("answer", "text")
        value = step.query if isinstance(step, Search) else step.text
        text, result, failed = await client.call(tool, **{argument: value, "episode": start["episode"]})
        assert not failed, text
        steps.append((result["reward"], result["outcome_reward"], result["process_reward"], result["done"]))
        texts.append(text)
    return steps, texts


def check_episode(world, row, steps, texts):
    env = gym.make(ENV, split="train", process_reward="evidence")
    for rewards, text, (step, expected, obs) in zip(steps, texts, played(env, world, row), strict=True):
        assert rewards == expected
        if isinstance(step, Search):
            assert all(passage.title in text for passage in obs["history"][-1].passages)


def test_an_episode_has_the_question_and_both_rewards_of_the_environment(world, synth):
    for row in (0, 11):
        check_episode(world, row, *run(synth, lambda client, row=row: play_gold(client, world, row)))


def test_a_seed_draws_the_question_that_the_environment_draws(synth):
    obs, _ = gym.make(ENV, split="train").reset(seed=4)
    text, _, _ = run(synth, lambda client: client.call("start_episode", seed=4))
    assert obs["question"] in text


def test_episodes_at_the_same_time_are_not_mixed_up(world, synth):
    async def play(client):
        return await asyncio.gather(*(play_gold(client, world, row) for row in range(24)))

    for row, (steps, texts) in enumerate(run(synth, play)):
        check_episode(world, row, steps, texts)


def test_a_search_without_an_episode_finds_passages_and_has_no_reward(synth, world):
    title = world.tasks[0].gold_titles[0]
    text, result, failed = run(synth, lambda client: client.call("search", query=title))
    assert text.startswith("[1] ")
    assert title in text
    assert (result, failed) == (None, False)


def test_searches_at_the_same_time_share_a_search():
    engine = Engine()

    async def play(client):
        engine.gate.clear()  # the first search waits until the others have arrived
        threading.Timer(1.0, engine.gate.set).start()
        return await asyncio.gather(*(client.call("search", query=f"q{number}") for number in range(24)))

    with serving(engine) as url:
        results = run(url, play)
    assert [text for text, _, _ in results] == [f"[1] Title of q{number}: text" for number in range(24)]
    assert len(engine.calls) < 13  # 25 one by one, the warm-up included


def test_the_tools_are_described_for_a_model(synth):
    tools = run(synth, lambda client: client.tools())
    assert sorted(tools) == ["answer", "search", "start_episode"]
    for tool in tools.values():
        assert tool["description"]
        assert all("description" in field for field in tool["inputSchema"]["properties"].values())
    assert tools["search"]["inputSchema"]["required"] == ["query"]
    assert "maxLength" in tools["search"]["inputSchema"]["properties"]["query"]


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers())
names = st.sampled_from(["query", "episode", "text", "row", "seed", "self", "x"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["search", "start_episode", "answer", "none"]), st.dictionaries(names, values)),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_a_client_calls_is_answered_and_the_server_goes_on(synth, calls):
    async def play(client):
        for tool, arguments in calls:
            # What the client itself cannot send, or an error of JSON-RPC.
            with suppress(ValueError, UnicodeError, MCPError):
                await client.client.call_tool(tool, arguments)
        return await client.call("search", query="a")

    assert run(synth, play)[2] is False


@pytest.mark.parametrize(
    ("tool", "arguments", "error"),
    [
        ("search", {"query": " "}, "not blank"),
        ("search", {"query": ""}, "at least 1 character"),
        ("search", {"query": "x" * 16_385}, "at most 16384 characters"),
        ("search", {"query": "a", "episode": "other"}, "No episode named 'other' is running. Call start_episode."),
        ("answer", {"text": "a", "episode": "other"}, "No episode named 'other'"),
        ("answer", {"text": "a"}, "episode"),
        ("start_episode", {"row": 4}, "in [0, 4)"),
        ("start_episode", {"row": -1}, "greater than or equal to 0"),
        ("start_episode", {"seed": 2**64}, "less than or equal to"),
    ],
)
def test_a_call_that_is_wrong_says_what_is_wrong(tool, arguments, error):
    with serving(Engine()) as url:
        text, _, failed = run(url, lambda client: client.call(tool, **arguments))
    assert failed
    assert error in text


def test_an_episode_that_has_ended_is_freed_and_says_so():
    async def play(client):
        _, start, _ = await client.call("start_episode", row=1)
        _, result, _ = await client.call("answer", text="answer 1", episode=start["episode"])
        assert (result["reward"], result["done"]) == (1.0, True)
        text, _, failed = await client.call("search", query="a", episode=start["episode"])
        assert failed
        assert "No episode named" in text
        return await client.call("start_episode", row=1)

    with serving(Engine(), sessions=1) as url:
        assert run(url, play)[2] is False


def test_an_idle_episode_is_freed_and_no_more_are_kept_than_allowed():
    with serving(Engine(), sessions=2, idle_seconds=1.0) as url:
        start = lambda: run(url, lambda client: client.call("start_episode"))  # noqa: E731
        assert not start()[2]
        assert not start()[2]
        text, _, failed = start()
        assert failed
        assert "2 episodes are running" in text
        time.sleep(1.1)
        assert not start()[2]


def test_a_failed_search_tells_the_client_nothing_of_the_machine(caplog):
    engine = Engine()
    engine.secret = "/home/me/index of key-123"  # noqa: S105
    with serving(engine) as url:
        text, _, failed = run(url, lambda client: client.call("search", query="reject"))
    assert failed
    assert "The server's log says why" in text
    assert engine.secret not in text
    assert engine.secret in caplog.text


def test_a_search_that_hangs_ends_with_an_error_and_the_health_says_so():
    engine = Engine()
    options = ServerOptions(limits=Limits(search_seconds=0.3), batching=Batching(spares=0), grace=1)
    with serving(engine, server=options) as url:
        health = url.replace("/mcp", "/health")
        assert httpx.get(health, trust_env=False).json() == {"status": "healthy"}
        engine.gate.clear()
        text, _, failed = run(url, lambda client: client.call("search", query="a"))
        assert failed
        assert "took longer" in text
        assert httpx.get(health, trust_env=False).status_code == 503
        engine.gate.set()


def test_the_checks_of_the_server_stand_before_the_tools():
    token = "s3cret"  # noqa: S105
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Accept": "application/json, text/event-stream"}
    with serving(Engine(), server=ServerOptions(token=token)) as url:
        assert httpx.post(url, json=body, headers=headers, trust_env=False).status_code == 401
        allowed = {**headers, "Authorization": f"Bearer {token}"}
        assert httpx.post(url, json=body, headers=allowed, trust_env=False).json()["result"]["tools"]
    with serving(Engine()) as url:
        assert httpx.post(url, json=body, headers={**headers, "Host": "evil"}, trust_env=False).status_code == 421
        assert (
            httpx.post(url, json=body, headers={**headers, "Origin": "http://a.b"}, trust_env=False).status_code == 403
        )
        assert httpx.post(url, content=b"x" * (5 << 20), headers=headers, trust_env=False).status_code == 413
        assert httpx.post(url, content=b"[" * 100_000, headers=headers, trust_env=False).status_code == 400


def over_stdio(*arguments):
    command = StdioServerParameters(command=sys.executable, args=["-m", "raggym_env", "serve", "--mcp", *arguments])
    command.env = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    return client_of(stdio_client(command))


def test_a_client_can_start_the_server_as_a_process(world):
    async def main():
        settings = ("--split", "train", "--set", "reward.process_reward=evidence")
        async with over_stdio("--stdio", ENV, *settings) as client:
            return await play_gold(client, world, 3)

    check_episode(world, 3, *asyncio.run(main()))


def test_a_corpus_file_is_searched_with_no_environment(tmp_path):
    write_towns(tmp_path)

    async def main():
        corpus = str(tmp_path / "corpus.jsonl")
        async with over_stdio("--stdio", "--corpus", corpus, "--topk", "1") as client:
            return await client.tools(), await client.call("search", query="Town7")

    tools, (text, _, failed) = asyncio.run(main())
    assert list(tools) == ["search"]
    assert text.startswith("[1] Town7: ")
    assert "\n" not in text
    assert not failed


def test_a_server_can_be_made_without_being_served():
    service = Service(small_world(Engine()), "Small-v0", "test")
    assert mcp_server(service).name == "Small-v0"
    service.close()
