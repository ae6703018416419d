from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from raggym_env.core import Passage
from raggym_env.errors import IndexMismatch, OptionError, RetrievalError
from raggym_env.retrieval import Hit
from raggym_env.retrieval.server import Batching, Limits, ServerOptions, batching, bind, is_local, running
from waiting import wait_until

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


class Echo:
    """Finds `k` passages named after the query. Records its calls; fails on `poison`, waits while not `open`."""

    fingerprint = "echo-1"

    def __init__(self, poison: str = "", error: type[BaseException] = RetrievalError) -> None:
        self.calls: list[tuple[list[str], int]] = []
        self.poison = poison
        self.error = error
        self.open = threading.Event()
        self.open.set()

    def search(self, queries, k):
        self.calls.append((list(queries), k))
        self.open.wait(60)
        if self.poison and self.poison in queries:
            raise self.error(f"cannot take {self.poison!r}")
        return [
            [Hit(Passage(f"{query}-{rank}", query, f"about {query}"), 1 / rank) for rank in range(1, k + 1)]
            for query in queries
        ]

    @property
    def searches(self):
        """The calls after the first one, which is made before clients can connect."""
        return self.calls[1:]


def post(url, body, **options):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(url, content=content, trust_env=False, timeout=60, **options)


def served(retriever=None, **options):
    return running(retriever or Echo(), options=ServerOptions(**options))


def metric(url, name):
    page = httpx.get(url.replace("/retrieve", "/metrics"), trust_env=False).text
    line = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    return float(line[1]) if line else 0.0


def test_search_r1_and_verl_get_a_document_and_a_score_for_each_hit():
    with served() as url:
        reply = post(url, {"queries": ["a", "b"], "topk": 2, "return_scores": True})
    assert reply.json() == {
        "result": [
            [
                {"document": {"id": f"{q}-1", "title": q, "contents": f'"{q}"\nabout {q}'}, "score": 1.0},
                {"document": {"id": f"{q}-2", "title": q, "contents": f'"{q}"\nabout {q}'}, "score": 0.5},
            ]
            for q in "ab"
        ]
    }


def test_without_scores_the_documents_stand_alone():
    with served() as url:
        (row,) = post(url, {"queries": ["a"], "topk": 1}).json()["result"]
    assert row == [{"id": "a-1", "title": "a", "contents": '"a"\nabout a'}]


def test_skyrl_sends_one_query_and_gets_a_list_of_one():
    with served() as url:
        result = post(url, {"query": "a", "topk": 2, "return_scores": True}).json()["result"]
    assert [[hit["document"]["id"] for hit in row] for row in result] == [["a-1", "a-2"]]


@pytest.mark.parametrize("topk", [2, 2.0, "2", " 2 ", "2.0"])
def test_topk_may_be_sent_in_any_form_of_a_whole_number(topk):
    with served() as url:
        assert len(post(url, {"query": "a", "topk": topk}).json()["result"][0]) == 2


@pytest.mark.parametrize(
    ("flag", "scores"),
    [
        *[(flag, True) for flag in (True, 1, "true", "True", " TRUE ", "1")],
        *[(flag, False) for flag in (False, 0, "false", "0", None)],
    ],
)
def test_return_scores_may_be_sent_in_any_form_of_a_boolean(flag, scores):
    with served() as url:
        ((hit,),) = post(url, {"query": "a", "topk": 1, "return_scores": flag}).json()["result"]
    assert ("score" in hit) == scores


def test_half_a_surrogate_pair_in_a_query_is_searched_as_a_replacement_character(echo_server):
    url, _ = echo_server
    ((hit,),) = post(url, b'{"query": "a\\ud800", "topk": 1}').json()["result"]
    assert hit["title"] == "a\ufffd"


def test_equal_queries_are_all_answered():
    with served() as url:
        result = post(url, {"queries": ["a", "a", "b", "a"], "topk": 1}).json()["result"]
    assert [row[0]["title"] for row in result] == ["a", "a", "b", "a"]


@pytest.mark.parametrize("request_", [{"queries": ["a"]}, {"queries": ["a"], "topk": None}])
def test_topk_may_be_left_out(request_):
    with served(default_k=4) as url:
        assert len(post(url, request_).json()["result"][0]) == 4


def test_no_queries_and_blank_queries_are_answered_since_search_r1_sends_them():
    with served() as url:
        assert post(url, {"queries": []}).json() == {"result": []}
        assert len(post(url, {"queries": ["", "a"]}).json()["result"]) == 2


def test_the_first_line_of_contents_is_the_title_whatever_the_title_holds():
    """Search-R1's and verl's clients split there."""

    class Odd(Echo):
        def search(self, queries, k):
            return [[Hit(Passage("1", 'Line\nbreak "x"', "text\nmore"), 1.0)] for _ in queries]

    with served(Odd()) as url:
        document = post(url, {"query": "a"}).json()["result"][0][0]
    assert document["contents"].split("\n") == ['"Line break "x""', "text", "more"]
    assert document["title"] == 'Line\nbreak "x"'


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not JSON"),
        (b"{queries", 400, "not JSON"),
        (b'{"query": "\xff"}', 400, "not UTF-8"),
        (b"[" * 100_000, 400, "nested more than 64 deep"),
        (b"[" * 100 + b"]" * 100, 400, "nested more than 64 deep"),
        (b'{"query": "a", "topk": NaN}', 400, "NaN is not a JSON value"),
        (b'{"query": "a", "topk": 1e400}', 400, "infinite"),
        (b'{"query": "a", "topk": ' + b"9" * 400 + b"}", 400, "beyond 64 bits"),
        (b'{"topk": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        (b'["a"]', 400, "JSON object"),
        ({}, 422, "either queries"),
        ({"query": "a", "queries": ["a"]}, 422, "either queries"),
        ({"queries": "a"}, 422, "list of texts, got 'a'"),
        ({"queries": ["a", 7]}, 422, "queries[1] must be a text, got 7"),
        ({"query": None}, 422, "query must be a text, got None"),
        ({"queries": ["a", "x" * 51]}, 422, "queries[1] has 51 characters"),
        ({"queries": ["a"] * 9}, 422, "9 queries"),
        ({"query": "a", "topk": 0}, 422, "from 1 to 20, got 0"),
        ({"query": "a", "topk": 21}, 422, "from 1 to 20, got 21"),
        ({"query": "a", "topk": -3}, 422, "from 1 to 20, got -3"),
        ({"query": "a", "topk": 3.5}, 422, "topk must be a whole number from 1 to 20, got 3.5"),
        ({"query": "a", "topk": "3.5"}, 422, "topk must be a whole number"),
        ({"query": "a", "topk": "three"}, 422, "topk must be a whole number"),
        ({"query": "a", "topk": ""}, 422, "topk must be a whole number"),
        ({"query": "a", "topk": "٣"}, 422, "topk must be a whole number"),
        ({"query": "a", "topk": [3]}, 422, "topk must be a whole number"),
        ({"query": "a", "topk": True}, 422, "topk must be a whole number"),
        ({"queries": {"a": 1}}, 422, "list of texts"),
        ({"queries": [["a"]]}, 422, "queries[0] must be a text"),
        ({"queries": [None]}, 422, "queries[0] must be a text"),
        ({"query": "a", "return_scores": "yes"}, 422, "return_scores must be true or false"),
        ({"query": "a", "return_scores": 2}, 422, "return_scores must be true or false"),
        ({"query": "a", "return_scores": [True]}, 422, "return_scores must be true or false"),
        ({"queries": ["a"] * 8, "topk": 16}, 422, "8 queries with topk 16 are 128 passages in one answer; at most 100"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_answer_to_a_malformed_request_says_what_is_wrong_and_nothing_is_searched(
    echo_server, body, status, message
):
    url, echo = echo_server
    searches = len(echo.calls)
    reply = post(url, body)
    assert (reply.status_code, len(echo.calls)) == (status, searches)
    assert message in reply.json()["error"]


def test_an_amplifying_request_is_refused_with_its_numbers_before_anything_is_searched():
    echo = Echo()
    with served(echo) as url:
        reply = post(url, {"queries": ["a"] * 1024, "topk": 1000})
    assert reply.status_code == 422
    assert reply.json()["error"] == (
        "1,024 queries with topk 1,000 are 1,024,000 passages in one answer; at most 131,072 are sent. "
        "Send fewer queries at a time, or a smaller topk."
    )
    assert echo.searches == []


@pytest.mark.slow
def test_the_queries_of_a_training_batch_with_a_hundred_passages_each_are_answered():
    queries = [f"q{i}" for i in range(1024)]
    with served() as url:
        result = post(url, {"queries": queries, "topk": 100}).json()["result"]
    assert [(row[0]["title"], row[-1]["id"]) for row in result] == [(query, f"{query}-100") for query in queries]


class Long(Echo):
    """Finds passages of as many characters as the query says."""

    def search(self, queries, k):
        self.calls.append((list(queries), k))
        texts = ["x" * int(query) if query.isdigit() else "" for query in queries]
        return [[Hit(Passage(str(rank), "", text), 1.0) for rank in range(k)] for text in texts]


@pytest.mark.parametrize("size", [1, 512])
@pytest.mark.parametrize(
    ("queries", "status"), [(["3000"], 200), (["3000"] * 3, 200), (["3000"] * 4, 413), (["1000"] * 4 + ["9000"], 413)]
)
def test_an_answer_that_would_be_too_long_gets_413(queries, status, size):
    with served(Long(), limits=Limits(answer=10_000), batching=Batching(size=size)) as url:
        reply = post(url, {"queries": queries, "topk": 1})
        assert reply.status_code == status
        if status == 413:
            assert "longer than 10,000 bytes. Send fewer queries" in reply.json()["error"]
        assert metric(url, "raggym_reserved_bytes") == 0


def test_the_remaining_parts_of_an_answer_that_is_too_long_are_not_searched():
    retriever = Long()
    with served(retriever, limits=Limits(answer=10_000), batching=Batching(size=1)) as url:
        assert post(url, {"queries": ["6000"] * 50, "topk": 1}).status_code == 413
        assert post(url, {"query": "a"}).status_code == 200
        assert metric(url, "raggym_waiting_queries") == 0
    assert len(retriever.searches) < 6


def test_a_passage_that_exceeds_the_limit_is_not_written_at_all(monkeypatch):
    lengths = []
    monkeypatch.setattr(batching, "write_row", lambda hits, scores: lengths.append(len(hits[0].passage.text)) or b"[]")
    with served(Long(), limits=Limits(answer=10_000)) as url:
        assert post(url, {"queries": ["10", "20000"], "topk": 1}).status_code == 413
    assert lengths == [10]


def test_bodies_and_answers_beyond_the_memory_get_503_until_others_have_ended():
    limits = Limits(body=1000, answer=1000, memory=2000)
    head = b"POST /retrieve HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"
    with served(Long(), limits=limits) as url:
        connections = [raw(url, head + b" " * 900) for _ in range(2)]
        wait_until(lambda: metric(url, "raggym_reserved_bytes") == 1800)
        reply = post(url, {"query": "0" * 300})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert "1,800 bytes" in reply.json()["error"]
        assert post(url, {"query": "100", "topk": 3}).status_code == 503  # no room for its answer
        for connection in connections:
            connection.close()
        wait_until(lambda: metric(url, "raggym_reserved_bytes") == 0)
        assert post(url, {"query": "100", "topk": 3}).status_code == 200
        wait_until(lambda: metric(url, "raggym_reserved_bytes") == 0)


def test_a_client_that_does_not_read_its_answer_is_cut_off_and_delays_no_others():
    body = json.dumps({"query": "20000000", "topk": 1}).encode()
    head = b"POST /retrieve HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    with served(Long(), limits=Limits(send_seconds=0.5)) as url, raw(url, head + body):
        wait_until(lambda: metric(url, "raggym_reserved_bytes") > 20_000_000)
        assert post(url, {"query": "a"}).status_code == 200
        wait_until(lambda: metric(url, "raggym_reserved_bytes") == 0)


@pytest.mark.parametrize("length", [0, 64 * 1024 - 60, 64 * 1024, 64 * 1024 + 60, 5_000_000])
def test_long_answers_arrive_as_they_were_written(length):
    with served(Long()) as url:
        rows = post(url, {"queries": [str(length), "3"], "topk": 2}).json()["result"]
    texts = [[document["contents"] for document in row] for row in rows]
    assert texts == [['""\n' + "x" * count] * 2 for count in (length, 3)]


def test_the_server_answers_others_while_it_writes_an_answer(clients, monkeypatch):
    writing, go_on, write = threading.Event(), threading.Event(), batching.write_row

    def write_slowly(hits, **options):
        if hits[0].passage.title == "huge":
            writing.set()
            go_on.wait(60)
        return write(hits, **options)

    monkeypatch.setattr(batching, "write_row", write_slowly)
    with served(batching=Batching(threads=2)) as url:
        huge = clients.submit(post, url, {"query": "huge"})
        assert writing.wait(60)
        assert health(url) == (200, "ok")
        assert post(url, {"query": "a"}).status_code == 200
        assert post(url, {"query": "a", "topk": 0}).status_code == 422
        assert not huge.done()
        go_on.set()
        assert huge.result().status_code == 200


def test_others_get_their_turn_between_the_parts_of_a_long_request(clients):
    echo = Echo()
    with served(echo, batching=Batching(size=2)) as url:
        echo.open.clear()
        long = clients.submit(post, url, {"queries": list("abcdefgh"), "topk": 1})
        wait_until(lambda: len(echo.searches) == 1)
        short = clients.submit(post, url, {"query": "short", "topk": 2})
        wait_until(lambda: metric(url, "raggym_waiting_queries") == 7)
        echo.open.set()
        assert [row[0]["title"] for row in long.result().json()["result"]] == list("abcdefgh")
        assert short.result().status_code == 200
    assert [queries for queries, _ in echo.searches] == [["a", "b"], ["c", "d"], ["short"], ["e", "f"], ["g", "h"]]


def test_searches_for_many_passages_have_fewer_queries():
    echo = Echo()
    with served(echo) as url:
        assert post(url, {"queries": ["a"] * 20, "topk": 1000}).status_code == 200
    assert max(len(queries) for queries, _ in echo.searches) == 8


@pytest.mark.parametrize("path", ["/retrieve", "/retrieve/", "/health", "/health/", "/metrics", "/metrics/"])
def test_a_slash_at_the_end_of_a_path_changes_nothing(path, echo_server):
    url = echo_server[0].removesuffix("/retrieve") + path
    reply = post(url, {"query": "a"}) if "retrieve" in path else httpx.get(url, trust_env=False)
    assert reply.status_code == 200


def send_with(url, headers, path="/retrieve", method="POST"):
    """Return the status of a request with exactly these headers."""
    body = b'{"query": "a"}' if method == "POST" else b""
    lines = [f"{method} {path} HTTP/1.1", *headers, f"content-length: {len(body)}"]
    with raw(url, "\r\n".join([*lines, "", ""]).encode() + body) as connection:
        return int(connection.recv(1000).split()[1])


@pytest.mark.parametrize(("path", "method"), [("/retrieve", "POST"), ("/health", "GET"), ("/metrics", "GET")])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["host: 127.0.0.1:8000"], 200),
        (["Host: LOCALHOST:1"], 200),
        (["host: [::1]"], 200),
        (["host: box.example:8000"], 200),
        (["host: evil.example"], 421),
        (["host: 127.0.0.1.evil.example"], 421),
        (["host: 192.168.1.5"], 421),
        (["host:"], 421),
        (["host: localhost", "origin: http://localhost:3000"], 200),
        (["host: localhost", "origin: https://evil.example"], 403),
        (["host: localhost", "origin: null"], 403),
        ([], 400),
        (["host: localhost", "host: evil.example"], 400),
    ],
    ids=str,
)
def test_a_server_without_a_token_answers_for_its_own_names_only(named_server, headers, status, path, method):
    assert send_with(named_server, headers, path, method) == status


@pytest.fixture(scope="module")
def named_server():
    with served(hosts=("box.example",)) as url:
        yield url


def test_a_server_with_a_token_answers_for_every_name():
    with served(token="s3cret") as url:  # noqa: S106
        headers = ["host: box.example", "origin: https://page.example", "authorization: Bearer s3cret"]
        assert send_with(url, headers) == 200


def test_a_server_on_ipv6_answers_for_its_address():
    try:
        listener = bind("::1", 0)
    except RetrievalError:
        pytest.skip("no IPv6 here")
    with running(Echo(), listener) as url:
        assert url.startswith("http://[::1]:")
        assert post(url, {"query": "a"}).status_code == 200


@pytest.fixture(scope="module")
def echo_server():
    echo = Echo()
    with served(echo, limits=Limits(queries=8, query_length=50, topk=20, passages=100, body=200_000)) as url:
        yield url, echo


def test_other_paths_and_methods_are_refused_in_json(echo_server):
    url, _ = echo_server
    assert httpx.get(url, trust_env=False).json() == {"error": "Method Not Allowed"}
    assert post(url + "/more", {}).status_code == 404


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_gets_413_and_is_not_kept(echo_server, chunked):
    url, _ = echo_server
    body = b" " * 600_000
    reply = post(url, body) if not chunked else httpx.post(url, content=iter([body[:50_000]] * 12), trust_env=False)
    assert reply.status_code == 413
    assert "longer than 200,000 bytes" in reply.json()["error"]
    assert post(url, {"query": "a"}).status_code == 200


def test_an_endless_body_is_not_read_for_ever():
    with served(limits=Limits(body=1000)) as url:
        reply = httpx.post(url, content=iter(lambda: b" " * 1000, None), trust_env=False)
        assert reply.status_code == 413


def raw(url, content):
    """A connection on which that much was sent."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    connection.sendall(content)
    return connection


HALF = b"POST /retrieve HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n" + b'{"query": '


def test_slow_clients_get_408_and_delay_no_others():
    with served(limits=Limits(body_seconds=0.3)) as url:
        slow = [raw(url, HALF) for _ in range(20)] + [raw(url, HALF[:30]) for _ in range(20)]
        assert post(url, {"query": "a"}).status_code == 200
        assert slow[0].recv(1000).startswith(b"HTTP/1.1 408 ")
        for connection in slow:
            connection.close()


def test_clients_that_disconnect_within_a_body_are_counted_and_delay_no_others():
    with served() as url:
        for connection in [raw(url, HALF) for _ in range(20)]:
            connection.close()
        wait_until(lambda: metric(url, 'raggym_requests_total{status="499"}') == 20)
        assert post(url, {"query": "a"}).status_code == 200
        assert metric(url, "raggym_in_flight") == 0


@pytest.mark.slow
def test_256_clients_at_once_get_the_right_answers():
    with served() as url:
        answers = asyncio.run(_many(url, clients=256, requests=8))
    assert len(answers) == 256 * 8
    for (query, k), result in answers:
        assert [hit["document"]["id"] for hit in result[0]] == [f"{query}-{rank}" for rank in range(1, k + 1)]


async def _many(url, clients, requests):
    return [
        pair for pairs in await asyncio.gather(*(_client(url, i, requests) for i in range(clients))) for pair in pairs
    ]


async def _client(url, number, requests):
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    answers = []
    for i in range(requests):
        query, k = f"client {number} asks {i}", 1 + (number + i) % 3
        body = json.dumps({"queries": [query], "topk": k, "return_scores": True}).encode()
        writer.write(b"POST /retrieve HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        content = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        answers.append(((query, k), json.loads(content)["result"]))
    writer.close()
    return answers


@pytest.fixture
def clients():
    with ThreadPoolExecutor(32) as pool:
        yield pool


def replies_after_waiting(echo, url, clients, requests):
    """Return the replies to requests that all waited for the first search to end."""
    echo.open.clear()
    first = clients.submit(post, url, {"query": "first"})
    wait_until(lambda: len(echo.searches) == 1)
    rest = [clients.submit(post, url, request) for request in requests]
    waiting = sum(len(request.get("queries", ["one"])) for request in requests)
    wait_until(lambda: metric(url, "raggym_waiting_queries") == waiting)
    echo.open.set()
    assert first.result().status_code == 200
    return [future.result() for future in rest]


def test_waiting_requests_are_searched_together(clients):
    echo = Echo()
    with served(echo) as url:
        replies = replies_after_waiting(echo, url, clients, [{"queries": [f"{i}a", f"{i}b"]} for i in range(10)])
    assert [reply.json()["result"][1][0]["id"] for reply in replies] == [f"{i}b-1" for i in range(10)]
    assert [len(queries) for queries, _ in echo.searches] == [1, 20]


def test_after_a_search_of_several_requests_the_next_one_waits_for_as_many(clients):
    echo = Echo()
    with served(echo, batching=Batching(wait=1.0)) as url:
        replies_after_waiting(echo, url, clients, [{"query": f"{i}"} for i in range(3)])
        for reply in [clients.submit(post, url, {"query": f"{i}"}) for i in range(3)]:
            assert reply.result().status_code == 200
    assert [len(queries) for queries, _ in echo.searches] == [1, 3, 3]


def test_requests_with_another_k_are_searched_separately(clients):
    echo = Echo()
    with served(echo) as url:
        replies_after_waiting(echo, url, clients, [{"query": f"{i}", "topk": 1 + i % 2} for i in range(6)])
    assert sorted((len(queries), k) for queries, k in echo.searches) == [(1, 3), (3, 1), (3, 2)]


def test_a_long_request_is_searched_in_parts_and_answered_in_order():
    echo = Echo()
    with served(echo, batching=Batching(size=4)) as url:
        result = post(url, {"queries": [str(i) for i in range(10)], "topk": 1}).json()["result"]
    assert [row[0]["id"] for row in result] == [f"{i}-1" for i in range(10)]
    assert [len(queries) for queries, _ in echo.searches] == [4, 4, 2]


def test_one_client_alone_never_waits_for_others():
    with served(batching=Batching(wait=1.0)) as url, httpx.Client(trust_env=False, timeout=60) as client:
        start = time.monotonic()
        for _ in range(12):
            client.post(url, json={"query": "a"})
        assert time.monotonic() - start < 6  # half of what they would wait


@pytest.mark.parametrize("error", [RetrievalError, ValueError])
def test_a_query_that_the_retriever_cannot_take_fails_its_own_request_alone(clients, error):
    echo = Echo(poison="bad", error=error)
    with served(echo) as url:
        replies = replies_after_waiting(
            echo, url, clients, [{"query": "good"}, {"queries": ["bad", "other"]}, {"query": "too"}]
        )
    assert [reply.status_code for reply in replies] == [200, 500, 200]
    assert replies[1].json()["error"].startswith("The search failed.")


class Mute(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize("error", [RetrievalError, IndexMismatch, OSError, ValueError, SystemExit, Mute])
def test_what_went_wrong_is_in_the_log_under_the_name_that_the_client_gets(caplog, error):
    """The message of an error may hold paths and secrets of the server."""
    with served(Echo(poison="bad", error=error)) as url:
        reply = post(url, {"query": "bad"})
    assert reply.status_code == 500
    assert list(reply.json()) == ["error"]
    name = re.fullmatch(
        r"The search failed\. The server's log says why, at ([0-9a-f]{4}-[0-9]+)\.", reply.json()["error"]
    )[1]
    (line,) = [record.getMessage() for record in caplog.records if name in record.getMessage()]
    assert error.__name__ in line
    assert error is Mute or "cannot take 'bad'" in line


def test_a_query_writes_no_control_characters_and_no_lines_of_its_own_into_the_log(caplog):
    query = "\x1b[2Jx\nERROR forged\u202e"

    class Quoting(Echo):
        def search(self, queries, k):
            if query in queries:
                raise RetrievalError(f"cannot take {query}")
            return super().search(queries, k)

    with served(Quoting()) as url:
        assert post(url, {"query": query}).status_code == 500
    (line,) = [record.getMessage() for record in caplog.records if "cannot take" in record.getMessage()]
    assert not set("\x1b\n\u202e") & set(line)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "Broken.search must return one list for each of the queries, got 0 lists"),
        ([["x"]], "Broken.search must return hits, passages or dictionaries"),
        ([[Hit(Passage("1", "", ""), float("nan"))]], "The retriever gave"),
        ([[Hit(Passage("1", "", ""), 1.0)] * 4], "The retriever gave"),
        ([[Hit(Passage("1", None, ""), 1.0)]], "TypeError"),
        ([[Hit(Passage(1, "", object()), 1.0)]], "TypeError"),
    ],
    ids=["too few", "no hits", "no score", "too many passages", "no title", "no text"],
)
def test_malformed_results_are_a_failure(results, message, caplog):
    class Broken(Echo):
        def search(self, queries, k):
            return results if queries == ["a"] else super().search(queries, k)

    with served(Broken()) as url:
        reply = post(url, {"query": "a", "return_scores": True})
    assert reply.status_code == 500
    assert message in caplog.text


def test_a_retriever_may_return_bare_passages():
    class Bare(Echo):
        def search(self, queries, k):
            return [[Passage("1", "T", query), Passage("2", "U", query)] for query in queries]

    with served(Bare()) as url:
        (row,) = post(url, {"query": "a", "topk": 2, "return_scores": True}).json()["result"]
    assert [(hit["document"]["title"], hit["score"]) for hit in row] == [("T", 1.0), ("U", 0.5)]


def test_a_request_beyond_the_limit_of_waiting_queries_gets_503(clients):
    echo = Echo()
    with served(echo, batching=Batching(waiting=4)) as url:
        echo.open.clear()
        accepted = [clients.submit(post, url, {"query": "first"})]
        wait_until(lambda: len(echo.searches) == 1)
        accepted.append(clients.submit(post, url, {"queries": ["a"] * 4}))
        wait_until(lambda: metric(url, "raggym_waiting_queries") == 4)
        refused = post(url, {"query": "b"})
        echo.open.set()
        assert [reply.result().status_code for reply in accepted] == [200, 200]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_a_request_beyond_the_limit_of_requests_gets_503(clients):
    echo = Echo()
    with served(echo, limits=Limits(requests=2)) as url:
        echo.open.clear()
        accepted = [clients.submit(post, url, {"query": "a"}) for _ in range(2)]
        wait_until(lambda: metric(url, "raggym_in_flight") == 2)
        refused = post(url, {"query": "b"})
        echo.open.set()
        assert [reply.result().status_code for reply in accepted] == [200, 200]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError])
def test_no_exception_of_a_retriever_ends_the_thread_that_searches(error):
    with served(Echo(poison="bad", error=error), batching=Batching(threads=2)) as url:
        assert [post(url, {"query": query}).status_code for query in ["bad"] * 5 + ["good"]] == [500] * 5 + [200]
        assert httpx.get(url.replace("/retrieve", "/health"), trust_env=False).status_code == 200


class Stuck(Echo):
    """Waits for ever on queries that begin with `hang`, while not `open`."""

    def search(self, queries, k):
        if any(query.startswith("hang") for query in queries):
            self.open.wait(60)
        return Echo().search(queries, k)


@pytest.fixture
def stuck():
    retriever = Stuck()
    retriever.open.clear()
    yield retriever
    retriever.open.set()


def health(url):
    reply = httpx.get(url.replace("/retrieve", "/health"), trust_env=False, timeout=60)
    return reply.status_code, reply.json()["status"]


def test_a_search_that_hangs_gets_504_and_the_next_requests_are_answered(stuck, clients):
    with served(stuck, limits=Limits(search_seconds=0.4), batching=Batching(spares=3)) as url:
        hanging = [clients.submit(post, url, {"query": "hang", "topk": k}) for k in (1, 2, 3)]
        assert [reply.result().status_code for reply in hanging] == [504] * 3
        wait_until(lambda: metric(url, "raggym_hanging_searches") > 0)
        assert post(url, {"query": "a"}).status_code == 200
        assert health(url) == (200, "ok")


def test_once_all_threads_hang_the_server_says_so_until_one_of_them_returns(stuck):
    with served(stuck, limits=Limits(search_seconds=0.4), batching=Batching(threads=2, spares=1)) as url:
        for number in range(3):
            assert health(url) == (200, "ok")
            assert post(url, {"query": "hang"}).status_code == 504
            wait_until(lambda number=number: metric(url, "raggym_hanging_searches") == number + 1)
        assert health(url) == (503, "unhealthy")
        refused = post(url, {"query": "a"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        stuck.open.set()
        wait_until(lambda: metric(url, "raggym_hanging_searches") == 0)
        assert health(url) == (200, "ok")
        assert post(url, {"query": "a"}).status_code == 200


def test_a_server_that_hung_and_recovered_has_as_many_threads_as_before(stuck):
    others = set(threading.enumerate())  # of earlier tests, which may end meanwhile

    def threads():
        return sum(thread.name == "raggym-search" for thread in threading.enumerate() if thread not in others)

    with served(stuck, limits=Limits(search_seconds=0.4), batching=Batching(threads=2, spares=4)) as url:
        for _ in range(5):
            assert post(url, {"query": "hang"}).status_code == 504
        stuck.open.set()
        wait_until(lambda: metric(url, "raggym_hanging_searches") == 0)
        wait_until(lambda: threads() == 2)
        assert [post(url, {"query": "a"}).status_code for _ in range(5)] == [200] * 5
    wait_until(lambda: threads() == 0)


def test_a_token_is_required():
    with served(token="s3cret") as url:  # noqa: S106
        codes = [
            post(url, {"query": "a"}, headers=headers).status_code
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": b"Bearer \xff"},
                {"Authorization": "Basic s3cret"},
                {"Authorization": "Bearer s3cret"},
            )
        ]
        assert codes == [401, 401, 401, 401, 200]
        health = url.replace("/retrieve", "/health")
        assert httpx.get(health, trust_env=False).json() == {"status": "ok"}
        assert httpx.get(url.replace("/retrieve", "/metrics"), trust_env=False).status_code == 401


def test_health_reports_the_served_retriever():
    with served(name="bm25", passages=12) as url:
        health = httpx.get(url.replace("/retrieve", "/health"), trust_env=False).json()
    assert health == {"status": "ok", "retriever": "bm25", "fingerprint": "echo-1", "passages": 12}


def test_metrics_count_requests_queries_and_searches():
    with served() as url:
        post(url, {"queries": ["a", "b"]})
        post(url, {"queries": 1})
        names = [
            'raggym_requests_total{status="200"}',
            'raggym_requests_total{status="422"}',
            "raggym_queries_total",
            'raggym_batch_queries_bucket{le="1"}',
            'raggym_batch_queries_bucket{le="2"}',
            "raggym_request_seconds_count",
        ]
        assert [metric(url, name) for name in names] == [1, 1, 2, 0, 1, 2]


def test_a_retriever_that_does_not_work_is_not_served():
    with pytest.raises(RetrievalError, match="cannot take"), served(Echo(poison="warm up")):
        pass


def test_only_this_machine_can_connect_by_default():
    with bind(port=0) as local, bind("0.0.0.0", 0) as public:  # noqa: S104
        assert (is_local(local), is_local(public)) == (True, False)


def test_answers_do_not_wait_for_an_acknowledgement():
    """asyncio turns Nagle's algorithm off on sockets that say they are TCP, and only there."""
    with bind(port=0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_the_error_for_an_unusable_address_names_it(host):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RetrievalError, match=f"{host} port {port}"):
            bind(host, port)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ServerOptions(token="two words"),  # noqa: S106
        lambda: ServerOptions(token=""),
        lambda: ServerOptions(default_k=0),
        lambda: Limits(body=0),
        lambda: Limits(requests=0),
        lambda: Limits(answer="64"),
        lambda: Limits(search_seconds=float("nan")),
        lambda: Limits(memory=2**20),
        lambda: Batching(spares=-1),
        lambda: Batching(size="8"),
        lambda: Batching(wait=None),
        lambda: ServerOptions(hosts=("box:80",)),
        lambda: Batching(size=0),
        lambda: Batching(wait=-1),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(OptionError):
        make()


WAITING_SERVER = """
import sys
from raggym_env.core import Passage
from raggym_env.retrieval import Hit
from raggym_env.retrieval.server import bind, serve

class Waiting:
    released = True

    def search(self, queries, k):
        while not self.released:
            self.released = sys.stdin.readline() == "release\\n"
        return [[Hit(Passage("1", query, "x" * 50_000), 1.0)] for query in queries]

def ready(url):
    retriever.released = False
    print(url, flush=True)

retriever = Waiting()
serve(retriever, bind(port=0), ready=ready)
"""


@contextmanager
def waiting_server():
    command = [sys.executable, "-c", WAITING_SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_ends_the_server_after_all_accepted_requests_are_answered(clients, number):
    with waiting_server() as (process, url):
        replies = [clients.submit(post, url, {"query": str(i)}) for i in range(32)]
        wait_until(lambda: metric(url, "raggym_in_flight") == 32)
        process.send_signal(number)
        wait_until(lambda: not connects(url))
        time.sleep(0.4)  # long enough for a server that breaks off to do so
        assert not any(reply.done() for reply in replies)
        process.stdin.write("release\n")
        process.stdin.flush()
        answers = [reply.result() for reply in replies]
        assert process.wait(60) == 0
    assert [answer.json()["result"][0][0]["title"] for answer in answers] == [str(i) for i in range(32)]


def connects(url):
    try:
        raw(url, b"").close()
    except ConnectionRefusedError:
        return False
    return True
