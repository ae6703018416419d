"""Tests against a real server, `transformers serve`, on the small model that comes as a package.

`make test-server` installs what they need. Without it they fail and do not skip, since they only run by name. The
server may be installed in another environment: set RAGGYM_TRANSFORMERS to its `transformers` command.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from raggym_env import llm
from raggym_env.core import Usage
from raggym_env.evaluation import evaluate
from raggym_env.llm import Sampling
from raggym_env.models import catalogue
from towns import write_towns

pytestmark = pytest.mark.server

START_SECONDS = 240
# Looked up before the session gets its own cache. Only read.
MODEL = catalogue.folder("smollm2")
# Without `do_sample` in the model's own configuration this server decodes greedily at any temperature.
SAMPLE = {"generation_config": json.dumps({"do_sample": True})}


class RealServer:
    """`transformers serve` in another process, always at the same port."""

    def __init__(self, command: str, model: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.model, self.log = str(model), log
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu", "--dtype", "float32"]
        self.command = [command, "serve", self.model, *options]

    @property
    def spec(self) -> str:
        return f"openai:{self.model}@http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)
        wait_for(self.answers, START_SECONDS)

    def answers(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"the server ended: {self.log.read_text(errors='replace')[-2000:]}")
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def answered(self) -> int:
        return self.log.read_text(errors="replace").count('"POST /v1/chat/completions HTTP/1.1" 200')

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s for nothing"
        time.sleep(0.1)


def command() -> str:
    """Return the `transformers` command of RAGGYM_TRANSFORMERS, or of this environment."""
    if elsewhere := os.environ.get("RAGGYM_TRANSFORMERS"):
        return shutil.which(elsewhere) or pytest.fail(f"RAGGYM_TRANSFORMERS is no command: {elsewhere}")
    for package in ("transformers", "fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.fail(f'needs {package}: pip install "transformers[serving]"')
    return str(Path(sys.executable).with_name("transformers"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    if MODEL is None:
        pytest.fail("needs the small model: raggym models get smollm2")
    server = RealServer(command(), MODEL, tmp_path_factory.mktemp("server") / "log")
    server.start()
    yield server
    server.kill()


def ask(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def test_greedy_completions_come_with_their_cost(server):
    model = llm.make(server.spec)
    [first], [second] = model.generate(ask("Say hello.", "Name a colour."), Sampling(max_tokens=6))
    assert first.text != second.text
    assert first.failure is second.failure is None
    assert (first.usage.calls, first.finish) == (1, "length")
    assert 20 < first.usage.prompt_tokens < 60
    assert 1 <= first.usage.completion_tokens <= 6
    assert first.usage.seconds > 0


def test_n_samples_are_drawn_by_seed_although_the_server_ignores_n(server):
    model = llm.make(server.spec, concurrency=1, extra_body=SAMPLE)
    params = Sampling(n=3, temperature=1.0, max_tokens=6, seed=5)
    [row] = model.generate(ask("Tell me of a town."), params)
    assert [completion.failure for completion in row] == [None] * 3
    assert len({completion.text for completion in row}) > 1
    assert sum((completion.usage for completion in row), Usage()).calls == 3
    assert [c.text for c in model.generate(ask("Tell me of a town."), params)[0]] == [c.text for c in row]


def test_tree_search_ends_and_every_request_is_counted_once(server, tmp_path):
    replies = server.answered()
    # Twelve tokens are rarely an action, so there is mostly a search for the question to look ahead from.
    options = {"llm": server.spec, "llm_options": {"extra_body": SAMPLE}, "max_tokens": 12, "on_failure": "search"}
    search = {"tree": {"width": 2, "depth": 2, "n": 2}, "critic": "evidence"}
    run, scores = evaluate(
        write_towns(tmp_path / "towns"),
        "react",
        split="train",
        limit=2,
        out=tmp_path / "run",
        settings={
            "episode.max_searches": 1,
            **{f"policy.options.{key}": value for key, value in options.items()},
            **{f"policy.search.{key}": value for key, value in search.items()},
        },
    )
    assert scores.complete
    assert scores.usage.calls == server.answered() - replies
    assert all(record["steps"][0]["candidates"] for record in run.records())


def test_a_wrong_model_name_fails_with_what_the_server_says(server):
    [[completion]] = llm.make(server.spec.replace("openai:", "openai:not-")).generate(ask("a"), Sampling())
    assert "Server is pinned to" in completion.failure


def test_a_server_killed_in_the_middle_fails_what_it_did_not_finish_and_all_works_after_a_restart(server):
    model = llm.make(server.spec, concurrency=1, retries=1, backoff=0.1)
    prompts = ask(*(f"Write a story about the number {i}." for i in range(4)))
    replies = server.answered()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(model.generate, prompts, Sampling(max_tokens=8))
        wait_for(lambda: server.answered() > replies, 120)
        server.kill()
        rows = running.result(60)
    failed = [prompt for prompt, [completion] in zip(prompts, rows, strict=True) if completion.failure]
    assert 1 <= len(failed) < len(prompts)

    server.start()

    again = model.generate(failed, Sampling(max_tokens=8))
    assert all(completion.failure is None and completion.text for [completion] in again)
