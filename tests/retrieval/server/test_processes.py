"""Several processes that are one server: `raggym serve --processes N`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from raggym_env.errors import OptionError
from raggym_env.retrieval.server import bind, serve_processes
from waiting import wait_until

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

# Its queries are words: to wait, to end the process, or to fail the start.
SERVER = """
import os, sys, time
from raggym_env.core import Passage
from raggym_env.errors import DataError
from raggym_env.retrieval import Hit
from raggym_env.retrieval.server import Limits, ServerOptions, bind, serve_processes

class Retriever:
    def search(self, queries, k):
        if "end" in queries:
            os._exit(7)
        if "wait" in queries:
            time.sleep(1)
        return [[Hit(Passage(str(os.getpid()), query, "text"), 1.0)] for query in queries]

class Source:
    def __call__(self):
        if "fail" in sys.argv:
            raise DataError("There is no corpus.")
        if "crash" in sys.argv:
            os._exit(9)
        if "slow" in sys.argv:
            print("building", flush=True)
            time.sleep(300)
        return Retriever(), ServerOptions(passages=5, limits=Limits(requests=20), token=os.environ.get("TOKEN"))

if __name__ == "__main__":
    from raggym_env.errors import RAGGymError
    try:
        serve_processes(Source(), bind(port=0), 2, ready=lambda url, n: print(url, n, flush=True))
    except RAGGymError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


@contextmanager
def server(tmp_path, *arguments, **env):
    """Run the server in a process group of its own; yields the process and its first line."""
    file = tmp_path / "served.py"
    file.write_text(SERVER, encoding="utf-8")
    command = [sys.executable, str(file), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, env={**os.environ, **env}, **pipes) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def post(url, query, **options):
    return httpx.post(url, json={"query": query, "topk": 1}, trust_env=False, timeout=60, **options)


def found(reply):
    return reply.json()["result"][0][0]


def get(url, path):
    return httpx.get(url.replace("/retrieve", path), trust_env=False)


def children(process):
    command = ["/bin/ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)]
    listed = subprocess.run(command, capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_both_processes_answer_and_their_counts_are_added_up(tmp_path):
    with server(tmp_path, TOKEN="s3cret") as (process, line), ThreadPoolExecutor(16) as pool:  # noqa: S106
        url, passages = line.split()
        assert passages == "5"
        headers = {"Authorization": "Bearer s3cret"}
        assert post(url, "a").status_code == 401
        answered = set()
        sent = 0
        while len(answered) < 2:
            assert sent < 2000, "one process got all connections"
            replies = list(pool.map(lambda query: post(url, query, headers=headers), ["a"] * 20))
            answered |= {found(reply)["id"] for reply in replies}
            sent += 20
        assert answered == {str(pid) for pid in children(process)}
        page = httpx.get(url.replace("retrieve", "metrics"), headers=headers, trust_env=False).text
        assert f'raggym_requests_total{{status="200"}} {sent}\n' in page
        assert 'raggym_requests_total{status="401"} 1\n' in page
        assert "raggym_in_flight 0\n" in page
        workers = children(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
        assert all(map(gone, workers))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_all_after_all_accepted_requests_are_answered(tmp_path, number):
    with server(tmp_path) as (process, line), ThreadPoolExecutor(12) as pool:
        url = line.split()[0]
        replies = [pool.submit(post, url, "wait") for _ in range(12)]
        wait_until(lambda: re.search("raggym_in_flight 12\n", get(url, "/metrics").text))
        workers = children(process)
        os.killpg(process.pid, number)
        assert [reply.result().status_code for reply in replies] == [200] * 12
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
        with pytest.raises(httpx.ConnectError):
            post(url, "a")
        assert all(map(gone, workers))


@pytest.mark.slow
def test_the_limit_of_requests_holds_for_all_processes_together(tmp_path):
    with server(tmp_path) as (_, line), ThreadPoolExecutor(40) as pool:
        url = line.split()[0]
        statuses = [reply.status_code for reply in pool.map(lambda _: post(url, "wait"), range(40))]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 20  # one that arrives after the first ones were answered is taken, too


@pytest.mark.slow
def test_a_process_that_ends_ends_the_server_with_an_error_after_the_others_have_answered(tmp_path):
    with server(tmp_path) as (process, line), ThreadPoolExecutor(8) as pool:
        url = line.split()[0]
        workers = children(process)
        replies = [pool.submit(post, url, "wait") for _ in range(8)]
        time.sleep(0.3)
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait(60) == 1
        error = process.stderr.read()
        assert f"RetrievalError: The process {workers[0]} of the server ended by signal 9" in error
        assert "Traceback" not in error
        lost = [reply for reply in replies if reply.exception() is not None]
        assert all(reply.result().status_code == 200 for reply in replies if reply not in lost)
        assert all(map(gone, workers))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "message"), [("fail", "RetrievalError: There is no corpus."), ("crash", "ended with exit code 9")]
)
def test_a_process_that_cannot_start_ends_the_server_with_its_error(tmp_path, argument, message):
    with server(tmp_path, argument) as (process, line):
        assert line == ""
        assert process.wait(60) == 1
        error = process.stderr.read()
        assert message in error
        assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_first_one_is_gone(tmp_path, number):
    for arguments in ((), ("slow",)):
        with server(tmp_path, *arguments) as (process, line):
            assert line
            workers = children(process)
            assert len(workers) == (1 if arguments else 2)
            process.send_signal(number)
            process.wait(60)
            wait_until(lambda workers=workers: all(map(gone, workers)))


@pytest.mark.parametrize("processes", [0, -1, True, 1.5, "2"])
def test_a_number_of_processes_that_is_none_is_refused(processes):
    with bind(port=0) as listener, pytest.raises(OptionError, match="processes of a server"):
        serve_processes(lambda: None, listener, processes, ready=print)
