from __future__ import annotations

import copy
import gzip
import json
import pickle
import re
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from fake_server import FakeServer, cut, drip, hang, raw, status
from raggym_env.build import load_mdp
from raggym_env.cards import env_card, override
from raggym_env.core import Passage, Search
from raggym_env.errors import IndexMismatch, OptionError, RetrievalError
from raggym_env.retrieval import make, server
from raggym_env.retrieval.http import HTTPRetriever
from raggym_env.testing import ScriptedRetriever, check_retriever
from raw_server import head, raw_server
from towns import write_towns


def good(handler, body):
    rows = [[{"document": {"id": q, "contents": f'"{q}"\ntext'}, "score": 1.0}] for q in body["queries"]]
    handler.send(200, json.dumps({"result": rows}).encode())


def client(server, **options):
    return HTTPRetriever(url=server.url.replace("/v1", "/retrieve"), **{"backoff": 0.0, "timeout": 5, **options})


def titles(results):
    return [[hit.passage.title for hit in hits] for hits in results]


def test_a_request_is_search_r1s_and_long_lists_are_sent_in_parts():
    with FakeServer(after=good) as server:
        assert titles(client(server, max_queries=2).search(["a", "b", "c"], 4)) == [["a"], ["b"], ["c"]]
    assert server.bodies == [
        {"queries": ["a", "b"], "topk": 4, "return_scores": True},
        {"queries": ["c"], "topk": 4, "return_scores": True},
    ]


def test_requests_for_many_passages_have_fewer_queries():
    with FakeServer(after=good) as server:
        client(server).search(["a"] * 20, 1000)
    assert [len(body["queries"]) for body in server.bodies] == [8, 8, 4]


def test_no_queries_send_no_request():
    with FakeServer(after=good) as server:
        assert client(server).search([], 4) == []
    assert server.bodies == []


def test_half_a_character_is_sent_as_a_replacement():
    with FakeServer(after=good) as server:
        client(server).search(["\ud800x \U0001f600"], 1)
    assert server.bodies[0]["queries"] == ["\ufffdx \U0001f600"]


@pytest.mark.parametrize("trouble", [cut, *(status(number) for number in (429, 502, 503, 504))])
def test_a_temporary_failure_is_retried(trouble):
    with FakeServer(trouble, trouble, after=good) as server:
        assert titles(client(server, retries=2).search(["a"], 1)) == [["a"]]
    assert len(server.bodies) == 3


def test_retries_are_bounded_and_the_failure_names_the_url_and_the_answer():
    with FakeServer(after=status(503, "full")) as server, pytest.raises(RetrievalError) as failure:
        client(server, retries=2).search(["a"], 1)
    assert len(server.bodies) == 3
    assert all(
        part in str(failure.value) for part in (server.url.replace("/v1", "/retrieve"), "3 times", "503", "full")
    )


@pytest.mark.parametrize("number", [400, 401, 413, 422, 500, 307])
def test_a_permanent_failure_is_not_retried(number):
    with FakeServer(after=status(number, "because", {"location": "/elsewhere"})) as server:
        retriever = client(server)
        with pytest.raises(RetrievalError, match=f"{number}: .*because"):
            retriever.search(["a"], 1)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("trouble", [hang, drip])
def test_a_slow_answer_is_a_failure_after_the_time_out(trouble):
    with FakeServer(after=trouble) as server:
        retriever, start = client(server, timeout=1.0), time.monotonic()
        with pytest.raises(RetrievalError, match="did not answer within 1 s"):
            retriever.search(["a"], 1)
        assert time.monotonic() - start < 10
    assert len(server.bodies) == 1


def test_retry_after_is_honoured_but_not_for_ever():
    with FakeServer(status(503, headers={"retry-after": "1"}), after=good) as server:
        client(server).search(["a"], 1)
        assert server.times[1] - server.times[0] >= 1
    with FakeServer(after=status(503, headers={"retry-after": "3600"})) as server:
        retriever = client(server)
        with pytest.raises(RetrievalError, match="tried 1 times"):
            retriever.search(["a"], 1)


def test_an_answer_that_is_too_long_is_not_read():
    with (
        FakeServer(after=raw(b" " * 100_000)) as server,
        pytest.raises(RetrievalError, match="longer than 1,000 bytes"),
    ):
        client(server, max_bytes=1000).search(["a"], 1)


def items(*rows):
    return lambda handler, body: handler.send(200, json.dumps({"result": rows}).encode())


@pytest.mark.parametrize("scores", [True, False])
def test_servers_that_send_more_than_asked_for_and_no_scores_are_back_ends(scores):
    """As Search-R1's servers for web search do."""
    documents = [{"contents": f'"T{i}"\ntext {i}'} for i in range(5)]
    row = [{"document": document, **({"score": 1 - i / 9} if scores else {})} for i, document in enumerate(documents)]
    with FakeServer(after=items(row)) as server:
        (hits,) = client(server).search(["a"], 3)
    assert [hit.passage.title for hit in hits] == ["T0", "T1", "T2"]
    assert [hit.score for hit in hits] == ([1, 1 - 1 / 9, 1 - 2 / 9] if scores else [1, 1 / 2, 1 / 3])


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "index not loaded", "result": [[]]},
        {"error": "index not loaded"},
        {"detail": "Not Found"},
        {"result": [[{"document": {"contents": "quota exceeded"}, "url": "", "type": "error"}]]},
    ],
    ids=str,
)
def test_a_failure_told_with_status_200_is_a_failure(answer):
    with FakeServer(after=raw(json.dumps(answer).encode())) as server, pytest.raises(RetrievalError):
        client(server).search(["a"], 1)


@pytest.mark.parametrize("end", ["", "/"])
def test_a_slash_at_the_end_of_the_url_changes_nothing(end):
    local = ScriptedRetriever({}, default=["x"])
    with server.running(local) as url:
        remote = HTTPRetriever(url=url + end)
        assert titles(remote.search(["a"], 1)) == [["x"]]
        assert remote.fingerprint == local.fingerprint


def test_a_malformed_answer_names_the_url():
    with (
        FakeServer(after=raw(b"{}")) as server,
        pytest.raises(RetrievalError, match="/retrieve: the answer has no list"),
    ):
        client(server).search(["a"], 1)


def test_a_server_that_does_not_run_is_reported_by_the_constructor():
    with pytest.raises(RetrievalError, match=r"http://127\.0\.0\.1:9/health is not available, tried 2 times"):
        HTTPRetriever(url="http://127.0.0.1:9", retries=1, backoff=0)


def test_the_token_of_the_environment_is_sent(monkeypatch):
    monkeypatch.setenv("RAGGYM_RETRIEVER_TOKEN", "s3cret")
    with FakeServer(after=good) as server:
        client(server).search(["a"], 1)
    assert server.keys == ["Bearer s3cret"]


def test_no_proxy_is_used_for_this_machine(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with FakeServer(after=good) as server:
        assert titles(client(server).search(["a"], 1)) == [["a"]]


def test_a_head_that_drips_is_a_failure_after_the_time_out():
    def drips(connection):
        while not server.closing.wait(0.05):
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    with raw_server(drips) as server:
        start = time.monotonic()
        with pytest.raises(RetrievalError, match=r"/health did not answer within 0\.3 s"):
            client(server, timeout=0.3)
        assert time.monotonic() - start < 10


def test_a_compressed_answer_is_read_up_to_the_limit():
    def answer(connection, size=0):
        rows = {"result": [[{"document": {"id": "1", "contents": "a\nx" + " " * size}, "score": 1.0}]]}
        packed = gzip.compress(json.dumps(rows).encode())
        connection.sendall(head("Content-Encoding: gzip", "Connection: close", length=len(packed)) + packed)

    with raw_server(answer) as server:
        assert titles(client(server).search(["a"], 1)) == [["a"]]
    with raw_server(lambda connection: answer(connection, 10 << 20)) as server:
        assert len(server.requests) == 0
        with pytest.raises(RetrievalError, match="longer than 2,000 bytes"):
            client(server, max_bytes=2000).search(["a"], 1)


def test_a_token_is_in_no_message(monkeypatch):
    token = "s3cret-0123456789"  # noqa: S105  # nobody's
    monkeypatch.setenv("RAGGYM_RETRIEVER_TOKEN", token)
    for answer in (status(401, f"bad {token}"), status(503, "x" * 490 + token), raw(f"<{token}".encode())):
        with FakeServer(after=answer) as server, pytest.raises(RetrievalError) as failure:
            client(server, retries=0).search(["a"], 1)
        chain = "".join(traceback.format_exception(failure.value))
        assert token[:9] not in chain.replace("".join(traceback.format_tb(failure.tb)), "")
    monkeypatch.setenv("RAGGYM_RETRIEVER_TOKEN", f"{token}\n")
    with FakeServer(after=good) as server, pytest.raises(OptionError, match="line break") as refused:
        client(server)
    assert token not in str(refused.value)
    assert server.bodies == []


@pytest.mark.parametrize("proxy", ["socks5://user:hunter2@127.0.0.1:9", "http://user:hunter2@host:port"])
def test_a_proxy_that_cannot_be_used_is_one_clear_error(proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(RetrievalError, match=r"cannot be created: .*ALL_PROXY") as failure:
        HTTPRetriever(url="http://server.invalid/retrieve")
    assert "hunter2" not in str(failure.value)


def test_another_servers_redirect_gets_neither_token_nor_query(monkeypatch):
    monkeypatch.setenv("RAGGYM_RETRIEVER_TOKEN", "s3cret-0123456789")
    with FakeServer(after=good) as other:
        elsewhere = status(307, "moved", {"Location": f"{other.url}/retrieve"})
        with FakeServer(after=elsewhere) as server, pytest.raises(RetrievalError, match="307"):
            client(server).search(["a"], 1)
    assert other.bodies == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://x"}, "url of the 'http' retriever"),
        ({"url": "http://user:hunter2@x"}, "url of the 'http' retriever"),
        ({"url": "http://x:port"}, "url of the 'http' retriever"),
        ({"url": "http://x\\@y"}, "url of the 'http' retriever"),
        ({"url": "http://x\n.y"}, "url of the 'http' retriever"),
        ({"url": 7}, "url of the 'http' retriever"),
        ({"token_env": "AWS_SECRET_ACCESS_KEY"}, "starts with RAGGYM_"),
        ({"token_env": "OPENAI_API_KEY"}, "starts with RAGGYM_"),
        ({"token_env": ["RAGGYM_X"]}, "token_env of the 'http' retriever must be a text"),
        ({"timeout": 0}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"max_queries": 0}, "max_queries"),
        ({"timeout": "30"}, "timeout of the 'http' retriever must be a number"),
        ({"timeout": float("nan")}, "timeout"),
        ({"retries": None}, "retries of the 'http' retriever must be a whole number"),
        ({"retries": 1.5}, "retries of the 'http' retriever must be a whole number"),
        ({"retries": True}, "retries of the 'http' retriever must be a whole number"),
        ({"backoff": [1]}, "backoff of the 'http' retriever must be a number"),
        ({"token_env": 7}, "token_env of the 'http' retriever must be"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_before_anything_is_sent(options, message):
    with pytest.raises(OptionError, match=message) as failure:
        HTTPRetriever(**{"url": "http://127.0.0.1:9", **options})
    assert "hunter2" not in str(failure.value)


# Our own server.

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


def test_it_keeps_the_contract_of_a_retriever_and_agrees_with_the_served_one():
    corpus = [Passage(str(i), f'"Town" {i}\n', f"Town {i}\nlies on the river {i % 5}.") for i in range(50)]
    local = make("bm25", corpus, store=False)
    with server.running(local) as url:
        remote = make("http", corpus, url=url)
        check_retriever(remote, ["town 7", "river 3", "nothing"])
        assert remote.search(["town 7", "river"], 9) == local.search(["town 7", "river"], 9)
        assert remote.fingerprint == local.fingerprint


@pytest.mark.slow
def test_many_threads_share_one_retriever():
    local = ScriptedRetriever({str(i): [f"T{i}"] for i in range(200)})
    with server.running(local) as url, ThreadPoolExecutor(16) as pool:
        remote = HTTPRetriever(url=url, connections=4)
        results = list(pool.map(lambda i: titles(remote.search([str(i)], 1)), range(200)))
    assert results == [[[f"T{i}"]] for i in range(200)]


def test_a_failure_of_the_served_retriever_is_a_failure_here_and_names_its_line_in_the_servers_log(caplog):
    with server.running(ScriptedRetriever({}, fails=["bad"], default=["x"])) as url:
        remote = HTTPRetriever(url=url)
        with pytest.raises(RetrievalError, match="500: The search failed") as failure:
            remote.search(["bad"], 1)
    name = re.search(r"at ([0-9a-f]{4}-[0-9]+)\.", str(failure.value))[1]
    assert re.search(rf"{name} failed.*Scripted to fail on \['bad'\]", caplog.text)


def test_another_index_behind_the_url_is_refused():
    local = ScriptedRetriever({}, default=["x"])
    listener = server.bind(port=0)
    port = listener.getsockname()[1]
    with server.running(local, listener) as url:
        remote = HTTPRetriever(url=url)
        remote.search(["a"], 1)
    local.fingerprint = "other"
    with (
        server.running(local, server.bind(port=port)),
        pytest.raises(IndexMismatch, match="'scripted' before, and now 'other'"),
    ):
        remote.search(["a"], 1)


def test_without_a_fingerprint_of_the_server_the_url_is_it():
    with FakeServer(after=good) as one, FakeServer(after=good) as two:
        prints = [client(one).fingerprint, client(one).fingerprint, client(two).fingerprint]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("copied", [copy.copy, lambda retriever: pickle.loads(pickle.dumps(retriever))])  # noqa: S301
def test_a_copy_opens_its_own_connections(copied):
    with server.running(ScriptedRetriever({}, default=["x"])) as url:
        remote = HTTPRetriever(url=url, max_queries=3)
        other = copied(remote)
        remote.close()
        assert titles(other.search(["a"] * 4, 1)) == titles(remote.search(["a"] * 4, 1)) == [["x"]] * 4


def test_an_environment_over_a_served_corpus_equals_one_over_the_corpus(tmp_path):
    card = write_towns(tmp_path / "towns")
    local = load_mdp(card, "train", process_reward="evidence")
    with server.running(local.dynamics.retriever) as url:
        remote = load_mdp(
            override(env_card(card), {"retrieval.name": "http", "retrieval.options.url": url}),
            "train",
            process_reward="evidence",
        )
        state, search = local.dynamics.start(local.tasks[3].question), Search(local.tasks[3].question.text)
        assert remote.dynamics.transition([state], [search]) == local.dynamics.transition([state], [search])
        for mdp in (local, remote):
            assert mdp.reward.process_reward.score([state], [[search]])[0][0] > 0.9
