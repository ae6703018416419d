from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from raggym_env.cli import app
from towns import write_towns

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@contextmanager
def serving(*arguments, env=None):
    """Run `raggym serve` in another process; yields its URL, its first line and the process."""
    command = [sys.executable, "-m", "raggym_env", "serve", *map(str, arguments), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as process:
        try:
            line = process.stdout.readline()
            yield re.search(r"http://\S+", line)[0], line, process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def titles(url, **request):
    reply = httpx.post(url, json=request, trust_env=False, timeout=60)
    return [[document["title"] for document in row] for row in reply.json()["result"]]


def raggym(*arguments):
    return CliRunner().invoke(app, ["serve", *map(str, arguments)])


@pytest.fixture
def towns(tmp_path):
    return write_towns(tmp_path / "towns")


@pytest.mark.slow
def test_an_environments_corpus_is_served_by_its_retriever_with_the_changed_options(towns):
    settings = ("--retriever", "rank-bm25", "--set", "retrieval.options.title_weight=1", "--topk", "2")
    with serving(towns, "--split", "train", *settings) as (url, line, _):
        health = httpx.get(url.replace("/retrieve", "/health"), trust_env=False).json()
        assert line == f"Serving rank-bm25 over 12 passages at {url}\n"
        assert (health["retriever"], health["passages"]) == ("rank-bm25", 12)
        assert titles(url, queries=["Town3", "lies River1"])[0] == ["Town3"]
        assert len(titles(url, query="River1 town lies")[0]) == 2


@pytest.mark.slow
def test_a_corpus_file_is_served_with_no_environment(towns):
    with serving("--corpus", towns.parent / "corpus.jsonl") as (url, _, _):
        assert titles(url, query="Town7", topk=1) == [["Town7"]]


@pytest.mark.slow
def test_several_processes_are_one_server(towns):
    with serving(towns, "--split", "train", "--processes", "2", "--topk", "1") as (url, line, _):
        assert line == f"Serving bm25 over 12 passages at {url}\n"
        assert titles(url, query="Town3") == [["Town3"]]
        assert httpx.get(url.replace("/retrieve", "/health"), trust_env=False).json()["passages"] == 12


@pytest.mark.slow
def test_the_token_comes_from_a_file_and_never_from_the_command_line(towns, tmp_path):
    file = tmp_path / "token"
    file.write_text("s3cret\n", encoding="utf-8")
    with serving(towns, "--token-file", file) as (url, _, _):
        assert httpx.post(url, json={"query": "x"}, trust_env=False).status_code == 401
        headers = {"Authorization": "Bearer s3cret"}
        assert httpx.post(url, json={"query": "x"}, headers=headers, trust_env=False).status_code == 200
    assert "--token " not in raggym("--help").output


@pytest.mark.slow
def test_a_warning_says_that_a_server_without_a_token_is_open_to_the_network(towns):
    with serving(towns, "--host", "0.0.0.0") as (url, _, process):  # noqa: S104
        assert url.startswith("http://0.0.0.0:")
        process.terminate()
        assert "Warning: anyone who can reach 0.0.0.0 can search" in process.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name an environment"),
        (["--corpus", "none.jsonl"], "none.jsonl"),
        (["--corpus", "none.jsonl", "--retriever", "bm52"], "none.jsonl"),
        (["--corpus", "none.jsonl", "--set", "retrieval.j=3"], "retrieval.j"),
        (["RAGGym-Sinth-v0"], "Did you mean 'RAGGym-Synth-v0'?"),
        (["RAGGym-Synth-v0", "--token-file", "/dev/null"], "/dev/null contains no token"),
        (["RAGGym-Synth-v0", "--host", "no.such.host.invalid"], "Cannot serve on no.such.host.invalid port 8000"),
        (["RAGGym-Synth-v0", "--openenv", "--mcp"], "Pass --openenv or --mcp"),
        (["RAGGym-Synth-v0", "--web"], "--web does nothing without --openenv or --mcp"),
        (["RAGGym-Synth-v0", "--idle-timeout", "9"], "--idle-timeout does nothing without --openenv or --mcp"),
        (["RAGGym-Synth-v0", "--openenv", "--stdio"], "--stdio does nothing with --openenv"),
        (["--openenv", "--corpus", "none.jsonl"], "--corpus does nothing with --openenv"),
        (["RAGGym-Synth-v0", "--mcp", "--max-topk", "9"], "--max-topk does nothing with --mcp"),
        (["RAGGym-Synth-v0", "--openenv", "--processes", "2"], "--processes does nothing with --openenv"),
    ],
    ids=str,
)
def test_a_mistake_is_one_message_and_exit_code_1(arguments, message):
    result = raggym(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_corpus_that_is_no_regular_file_is_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        result = raggym("--corpus", path)
        assert (result.exit_code, result.stderr) == (1, f"raggym: {path} is not a regular file.\n")


def test_a_token_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "token"
    file.write_bytes(b"\xff\xfe\x00")
    result = raggym("RAGGym-Synth-v0", "--token-file", file)
    assert (result.exit_code, result.stderr) == (1, f"raggym: {file} is not UTF-8 text, so it contains no token.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allow-host", "box:8000"], "a name or an address"),
        (["--max-topk", "2"], "default_k must be from 1 to 2, got 3"),
        (["--max-memory", "8"], "memory of a server's limits must be at least"),
        (["--search-timeout", "0"], "search_seconds of a server's limits"),
        (["--search-timeout", "nan"], "search_seconds of a server's limits"),
    ],
    ids=str,
)
def test_a_limit_out_of_range_is_reported_before_any_index_is_built(arguments, message, towns):
    result = raggym(towns, "--retriever", "no-such", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.slow
def test_limits_and_hosts_are_options(towns):
    limits = ("--max-queries", "2", "--max-topk", "5", "--max-passages", "8", "--allow-host", "box.example")
    with serving(towns, *limits) as (url, _, _):

        def status(headers=None, **request):
            reply = httpx.post(url, json=request, headers=headers, trust_env=False)
            return reply.status_code, reply.json().get("error", "")

        assert status(queries=["a"] * 3) == (422, "3 queries in one request; at most 2 are answered.")
        assert status(query="a", topk=6) == (422, "topk must be a whole number from 1 to 5, got 6.")
        assert "10 passages in one answer; at most 8" in status(queries=["a", "b"], topk=5)[1]
        assert status({"host": "box.example"}, query="a")[0] == 200
        assert status({"host": "evil.example"}, query="a")[0] == 421


SLOW_START = """
import time

class Slow:
    def __init__(self, corpus, **options):
        print("building", flush=True)
        time.sleep(300)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_slow_start_can_be_interrupted(towns, tmp_path, number, code):
    (tmp_path / "slow_start.py").write_text(SLOW_START, encoding="utf-8")
    command = [sys.executable, "-m", "raggym_env", "serve", str(towns), "--retriever", "slow_start:Slow", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen([*command, "--trust-card"], env={**os.environ, "PYTHONPATH": path}, **pipes) as process:
        try:
            assert process.stdout.readline() == "building\n"
            process.send_signal(number)
            assert process.wait(60) == code
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_without_the_extra_the_error_has_the_command_to_install_it(towns, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert re.search(r"pip install -c \S+constraints\.txt -e '\S+\[serve\]'", raggym(towns).stderr)


@pytest.mark.parametrize(("option", "package"), [("--openenv", "openenv"), ("--mcp", "mcp.server")])
def test_without_a_framework_the_error_has_the_command_to_install_it(option, package, towns, monkeypatch):
    monkeypatch.delitem(sys.modules, f"raggym_env.integrations.{option[2:]}", raising=False)
    loaded = [name for name in sys.modules if name.startswith(f"{package}.")]  # by another test
    for name in (package, *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    result = raggym(towns, option, "--retriever", "no-such")
    assert re.search(rf"pip install -c \S+constraints\.txt -e '\S+\[{option[2:]}\]'", result.stderr)


def test_a_port_in_use_is_reported_before_any_index_is_built(towns):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = raggym(towns, "--port", taken.getsockname()[1], "--retriever", "no-such")
    assert "Address already in use" in result.stderr


@pytest.mark.slow
def test_raggym_itself_searches_a_served_corpus(towns, tmp_path):
    with serving(towns) as (url, _, _):
        command = ["eval", str(towns), "--policy", "lexical", "--out", str(tmp_path / "run")]
        settings = ["--set", "retrieval.name=http", "--set", f"retrieval.options.url={url}"]
        result = CliRunner().invoke(app, [*command, *settings])
    assert "12 of 12 questions scored" in result.stdout, result.output
    steps = json.loads((tmp_path / "run" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()[0])["steps"]
    assert "River" in json.dumps(steps)
