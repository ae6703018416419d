"""Environments behind OpenEnv's own server, driven by its own client."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import gymnasium as gym
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from code_blocks import check_command
from raggym_env.core import Answer, Search
from raggym_env.errors import OptionError
from raggym_env.retrieval.server import Batching, Limits, ServerOptions, bind
from sessions import Engine, gold_steps, played, small_world

pytestmark = pytest.mark.integrations
pytest.importorskip("openenv", reason="needs the extra openenv")

from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from raggym_env.integrations.openenv import RAGAction, RAGClient, RAGEnvironment, application, running_openenv  # noqa: E402
from raggym_env.integrations.serving import Service, ServiceOptions  # noqa: E402
from raggym_env.integrations.session import load_world  # noqa: E402

ENV = "RAGGym-Synth-v0"
EXAMPLE = Path(__file__).parents[2] / "examples" / "openenv"


@pytest.fixture(scope="module")
def world():
    return load_world(ENV, split="train", process_reward="evidence")


@pytest.fixture(scope="module")
def synth(world):
    """A server of the generated world; no test may leave a session in it."""
    with running_openenv(Service(world, ENV, "train")) as url:
        yield url


@contextmanager
def serving(engine, *, server=None, **options):
    service = Service(small_world(engine), "Small-v0", "test", ServiceOptions(server or ServerOptions(), **options))
    with running_openenv(service) as url:
        yield url


def action_of(step):
    if isinstance(step, Search):
        return RAGAction(kind="search", text=step.query, draft=step.draft)
    return RAGAction(kind="answer", text=step.text)


def parts(observation):
    return observation.reward, observation.outcome_reward, observation.process_reward, observation.done


def expected(world, row):
    """What `RAGEnv` gives for the gold steps of a row: the reward, its two parts and the end, for each."""
    env = gym.make(ENV, split="train", process_reward="evidence")
    return [rewards for _, rewards, _ in played(env, world, row)]


def test_an_episode_has_the_question_and_both_rewards_of_the_environment(world, synth):
    env = gym.make(ENV, split="train", process_reward="evidence")
    with RAGClient(synth).sync() as client:
        for seed in range(3):
            obs, info = env.reset(seed=seed)
            result = client.reset(seed=seed, episode_id=f"episode {seed}")
            assert obs["question"] in result.observation.text
            state = client.state()
            assert (state.index, state.question_id) == (info["index"], info["question_id"])
            assert (state.episode_id, state.step_count) == (f"episode {seed}", 0)
            for step, rewards in zip(gold_steps(world, state.index), expected(world, state.index), strict=True):
                obs, *_ = env.step(step)
                result = client.step(action_of(step))
                assert parts(result.observation) == rewards
                assert (result.reward, result.done) == (rewards[0], rewards[3])
                assert result.observation.searches_left == obs["searches_left"]
                if not result.done:
                    titles = [passage.title for passage in obs["history"][-1].passages]
                    assert [title in result.observation.text for title in titles] == [True] * len(titles)
            assert result.observation.stop_reason == "answer"
            assert client.state().step_count == 3


def test_256_sessions_at_the_same_time_are_neither_lost_nor_mixed_up(world, synth):
    async def episode(row):
        async with RAGClient(synth) as client:
            result = await client.reset(split="train", index=row)
            assert world.tasks[row].question.text in result.observation.text
            steps = []
            for step in gold_steps(world, row):
                steps.append(parts((await client.step(action_of(step))).observation))
            state = await client.state()
            assert (state.index, state.step_count) == (row, 3)
            return steps

    async def main():
        return await asyncio.gather(*(episode(row) for row in range(256)))

    env = gym.make_vec(ENV, 256, split="train", process_reward="evidence", autoreset_mode="Disabled")
    for row in range(256):
        env.unwrapped._tasks[row] = task = world.tasks[row]
        env.unwrapped._states[row] = world.dynamics.start(task.question)
    vector = []
    for turn in range(3):
        _, rewards, terminated, truncated, info = env.step([gold_steps(world, row)[turn] for row in range(256)])
        vector.append((rewards, info["outcome_reward"], info["process_reward"], terminated | truncated))
    steps = [[tuple(column[row] for column in vector[turn]) for turn in range(3)] for row in range(256)]
    assert asyncio.run(main()) == steps


def test_the_steps_of_sessions_share_searches():
    engine = Engine()

    async def main(url):
        engine.gate.clear()  # the first search waits until the other clients have sent theirs
        threading.Timer(1.0, engine.gate.set).start()
        await asyncio.gather(*(episode(url, number) for number in range(32)))

    async def episode(url, number):
        async with RAGClient(url) as client:
            await client.reset(index=number % 4)
            result = await client.step(RAGAction(kind="search", text=f"a {number}"))
            assert f"Title of a {number}: " in result.observation.text

    with serving(engine) as url:
        asyncio.run(main(url))
    assert len(engine.calls) < 16  # 33 one by one


def messages(url):
    """Return an open WebSocket, and a function that sends a message and returns the answer."""
    client = connect(url.replace("http", "ws") + "/ws", proxy=None)

    def send(message):
        client.send(message if isinstance(message, str | bytes) else json.dumps(message))
        return json.loads(client.recv(timeout=10))

    return client, send


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["search", "answer", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(
    ["kind", "text", "draft", "metadata", "seed", "index", "split", "episode_id", "self", "type", "timeout_s"]
)
data = st.dictionaries(fields, values, max_size=4) | values


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=st.fixed_dictionaries({"type": st.sampled_from(["reset", "step", "state", "mcp", "x"]), "data": data}))
def test_whatever_a_client_sends_is_answered_and_the_server_goes_on(synth, message):
    client, send = messages(synth)
    with client:
        answer = send(message)
        assert answer["type"] in ("observation", "state", "error", "mcp")
    client, send = messages(synth)
    with client:
        assert send({"type": "reset", "data": {"index": 5}})["type"] == "observation"
        assert send({"type": "step", "data": {"kind": "search", "text": "x"}})["type"] == "observation"


@pytest.mark.parametrize(
    "message",
    ["", "x", "[]", "5", "null", "[" * 100_000, '{"type": []}', "1" * 10_000, '{"type": "step"}', b"\x00\xff"],
)
def test_a_message_that_is_no_object_ends_its_own_session_at_most(synth, message):
    client, send = messages(synth)
    with client, suppress(ConnectionClosed):
        assert send(message)["type"] == "error"
    client, send = messages(synth)
    with client:
        assert send({"type": "reset", "data": {}})["type"] == "observation"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"index": -1}, "in [0, 4)"),
        ({"index": 4}, "in [0, 4)"),
        ({"index": "2"}, "whole number"),
        ({"index": True}, "whole number"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 10**400}, "seed must be"),
        ({"split": "train"}, "the split 'test' alone"),
        ({"split": ["test"]}, "the split 'test' alone"),
        ({"episode_id": "x" * 256}, "at most 255"),
        ({"idx": 2}, "reset takes seed, episode_id, split and index"),
    ],
)
def test_a_reset_that_is_wrong_is_refused_and_the_episode_goes_on(arguments, error):
    with serving(Engine()) as url, RAGClient(url).sync() as client:
        client.reset(index=1)
        with pytest.raises(RuntimeError) as caught:
            client.reset(**arguments)
        assert error in str(caught.value)
        assert client.step(RAGAction(kind="answer", text="answer 1")).reward == 1.0


@pytest.mark.parametrize("action", [{"kind": "search", "text": " "}, {"kind": "answer", "text": "\n"}])
def test_a_blank_action_is_refused_and_the_episode_goes_on(action):
    with serving(Engine()) as url, RAGClient(url).sync() as client:
        with pytest.raises(RuntimeError, match="No episode is running"):
            client.step(RAGAction(kind="search", text="a"))
        client.reset()
        with pytest.raises(RuntimeError, match="not blank"):
            client.step(RAGAction(**action))
        assert client.state().step_count == 0


@pytest.mark.parametrize(
    "data", [{"kind": "search", "text": "x" * 16_385}, {"kind": "look", "text": "x"}, {"text": "x"}]
)
def test_an_action_that_breaks_the_schema_is_refused_and_the_session_goes_on(data):
    with serving(Engine()) as url:
        client, send = messages(url)
        with client:
            send({"type": "reset"})
            answer = send({"type": "step", "data": data})
            assert (answer["type"], answer["data"]["code"]) == ("error", "VALIDATION_ERROR")
            assert send({"type": "step", "data": {"kind": "search", "text": "x"}})["type"] == "observation"


def test_a_failed_search_tells_the_client_nothing_of_the_machine(caplog):
    engine = Engine()
    engine.secret = "/home/me/index of key-123"  # noqa: S105
    with serving(engine) as url, RAGClient(url).sync() as client:
        client.reset()
        with pytest.raises(RuntimeError) as caught:
            client.step(RAGAction(kind="search", text="reject"))
        assert "The step failed and the episode is unchanged. The server's log says why" in str(caught.value)
        assert engine.secret not in str(caught.value)
        assert engine.secret in caplog.text
        assert client.step(RAGAction(kind="search", text="a")).observation.searches_left == 2


def test_a_search_that_hangs_ends_with_an_error_and_the_health_says_so():
    engine = Engine()
    options = ServerOptions(limits=Limits(search_seconds=0.3), batching=Batching(spares=0), grace=1)
    with serving(engine, server=options) as url, RAGClient(url).sync() as client:
        client.reset()
        assert health(url) == (200, "healthy")
        engine.gate.clear()
        with pytest.raises(RuntimeError, match="took longer"):
            client.step(RAGAction(kind="search", text="a"))
        assert health(url) == (503, "unhealthy")
        engine.gate.set()
        while health(url)[0] != 200:
            time.sleep(0.01)
        assert client.step(RAGAction(kind="search", text="a")).observation.searches_left == 2


def health(url):
    reply = httpx.get(url + "/health", trust_env=False)
    return reply.status_code, reply.json()["status"]


def test_one_session_more_than_allowed_is_told_so_and_a_closed_one_makes_room():
    with serving(Engine(), sessions=2) as url:
        with RAGClient(url).sync() as first, RAGClient(url).sync() as second:
            first.reset(), second.reset()
            client, _ = messages(url)
            with client:
                answer = json.loads(client.recv(timeout=10))
                assert (answer["data"]["code"], answer["data"]["max_sessions"]) == ("CAPACITY_REACHED", 2)
        opened(url, 2)


def opened(url, sessions):
    """Open so many sessions at the same time, once there is room for them."""
    deadline = time.monotonic() + 10
    while True:
        with ExitStack() as stack:
            try:
                for _ in range(sessions):
                    client, send = messages(url)
                    stack.enter_context(client)
                    assert send({"type": "reset"})["type"] == "observation"
                return
            except (AssertionError, ConnectionClosed):
                assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sessions_of_clients_that_are_gone_or_silent_are_freed():
    with serving(Engine(), sessions=4, idle_seconds=1.0) as url, ExitStack() as stack:
        clients = []
        for _ in range(4):
            client, send = messages(url)
            stack.enter_context(client)
            send({"type": "reset"})
            clients.append(client)
        clients[0].socket.shutdown(socket.SHUT_RDWR)  # its process was killed
        clients[1].close()
        opened(url, 2)
        for client in clients[2:]:
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(timeout=5)
            assert caught.value.rcvd.code == 1001
        opened(url, 4)


def test_nothing_of_a_session_stays_in_memory(monkeypatch):
    made = weakref.WeakSet()
    original = RAGEnvironment.__init__

    def recorded(self, service):
        original(self, service)
        made.add(self)

    monkeypatch.setattr(RAGEnvironment, "__init__", recorded)
    with serving(Engine()) as url:
        opened(url, 8)
        deadline = time.monotonic() + 10
        while made:
            gc.collect()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_server_that_ends_answers_the_steps_that_have_arrived():
    engine = Engine()
    with ExitStack() as stack:
        with serving(engine) as url:
            client, send = messages(url)
            stack.enter_context(client)
            send({"type": "reset"})
            engine.gate.clear()
            client.send(json.dumps({"type": "step", "data": {"kind": "search", "text": "a"}}))
            while len(engine.calls) < 2:  # the first is the warm-up
                time.sleep(0.01)
            stack.callback(engine.gate.set)
            threading.Timer(0.5, engine.gate.set).start()
        assert "Title of a" in json.loads(client.recv(timeout=5))["data"]["observation"]["text"]
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=5)
        assert caught.value.rcvd.code == 1012


def test_a_token_is_required_and_the_client_can_send_it():
    token = "s3cret"  # noqa: S105
    with serving(Engine(), server=ServerOptions(token=token)) as url:
        assert health(url) == (200, "healthy")
        for path in ("/schema", "/metadata", "/state", "/docs"):
            assert httpx.get(url + path, trust_env=False).status_code == 401
        with pytest.raises(InvalidStatus):
            messages(url)
        with RAGClient(url, headers={"Authorization": f"Bearer {token}"}).sync() as client:
            client.reset(index=3)
            assert client.step(RAGAction(kind="answer", text="answer 3")).reward == 1.0


def test_the_tasks_can_be_listed_without_their_answers():
    with serving(Engine()) as url:
        base = f"{url}/Small-v0"

        def post(path, **body):
            reply = httpx.post(f"{base}/{path}", json=body, trust_env=False)
            return reply.status_code, reply.json()

        assert httpx.get(f"{base}/splits", trust_env=False).json() == [{"name": "test", "type": "test"}]
        assert post("num_tasks", split="test") == (200, {"num_tasks": 4})
        question = {"id": "q2", "index": 2, "question": "Question 2?", "options": []}
        assert post("task", split="test", index=2) == (200, {"task": question})
        assert post("task", split="test", index=-1)[0] == 400
        assert post("task", split="train", index=0) == (
            422,
            {"error": "This server has the split 'test' alone, got 'train'."},
        )
        schema = httpx.get(f"{url}/schema", trust_env=False).json()
        assert schema["action"]["properties"]["kind"]["enum"] == ["search", "answer"]
        assert "process_reward" in schema["observation"]["properties"]


def test_a_step_without_a_session_says_what_to_do():
    with serving(Engine()) as url:
        body = {"action": {"kind": "search", "text": "a"}}
        reply = httpx.post(url + "/step", json=body, trust_env=False)
        assert (reply.status_code, reply.json()) == (422, {"error": "No episode is running: reset first."})
        assert httpx.post(url + "/reset", json={"index": 1}, trust_env=False).json()["observation"]["text"]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def command(*arguments):
    """Run `raggym serve` in another process, which must end well; yields its URL and the process."""
    words = [sys.executable, "-m", "raggym_env", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield re.search(r"http://\S+", process.stdout.readline())[0], process
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_the_command_serves_a_card_with_its_changes_until_it_is_told_to_end(world):
    changes = ("--split", "train", "--set", "reward.process_reward=evidence", "--sessions", "1")
    with command("--openenv", ENV, *changes) as (url, _):
        with RAGClient(url).sync() as client:
            client.reset(index=9)
            received = [parts(client.step(action_of(step)).observation) for step in gold_steps(world, 9)]
            assert received == expected(world, 9)
            other, _ = messages(url)
            with other:
                assert json.loads(other.recv(timeout=10))["data"]["code"] == "CAPACITY_REACHED"
        assert httpx.get(url + "/web", trust_env=False).status_code == 404


def test_a_person_can_play_an_episode_on_the_page():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with command("--openenv", ENV, "--web") as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        # What the page of OpenEnv asks other hosts for does not arrive, as on a machine without a network.
        page.route(lambda address: not address.startswith(url), lambda route: route.abort())
        page.goto(url + "/web")
        page.get_by_role("button", name="Reset").click()
        page.wait_for_selector("text=Searches left: 8")
        page.get_by_label("text").first.fill("the <b>sea</b>")
        page.get_by_role("button", name="Run step").click()
        page.wait_for_selector("text=<information>")
        assert page.locator("b", has_text="sea").count() == 0
        browser.close()


def test_the_page_is_for_this_machine():
    service = Service(small_world(Engine()), "Small-v0", "test", ServiceOptions(ServerOptions(token="s3cret")))  # noqa: S106
    with pytest.raises(OptionError, match="without a token"), running_openenv(service, web=True):
        pass
    service = Service(small_world(Engine()), "Small-v0", "test")
    with (
        pytest.raises(OptionError, match="is for this machine"),
        running_openenv(service, bind("0.0.0.0", 0), web=True),  # noqa: S104
    ):
        pass


def test_the_environment_of_the_process_stays_as_it_is(monkeypatch):
    monkeypatch.setenv("ENABLE_WEB_INTERFACE", "maybe")
    before = dict(os.environ)
    service = Service(small_world(Engine()), "Small-v0", "test")
    application(service)
    service.close()
    assert dict(os.environ) == before


def test_the_manifest_is_read_by_openenv_and_the_image_starts_a_server_with_a_token():
    from openenv.core.containers.runtime._server_config import parse_dockerfile_cmd
    from openenv.validation.parsers.openenv_yaml import OpenEnvYamlParser

    manifest = OpenEnvYamlParser().parse(EXAMPLE)
    assert manifest.name == "raggym_synth"
    words = parse_dockerfile_cmd((EXAMPLE / "Dockerfile").read_text()).split()
    check_command(words)
    assert words[:4] == ["raggym", "serve", "--openenv", ENV]
    assert "--token-file" in words
    assert "--host" in words


def test_the_answers_of_other_clients_of_openenv_have_the_two_parts_too(synth, world):
    """What generic clients read: plain JSON."""
    client, send = messages(synth)
    with client:
        send({"type": "reset", "data": {"index": 7}})
        for step, rewards in zip(gold_steps(world, 7), expected(world, 7), strict=True):
            kind, text = ("answer", step.text) if isinstance(step, Answer) else ("search", step.query)
            answer = send({"type": "step", "data": {"kind": kind, "text": text}})["data"]
            observation = answer["observation"]
            received = answer["reward"], observation["outcome_reward"], observation["process_reward"], answer["done"]
            assert received == rewards
