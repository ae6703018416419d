"""The short way of usual requests: what it takes, and that nobody can tell it from the long one."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import h11

from raggym_env.core import Passage
from raggym_env.retrieval import Hit
from raggym_env.retrieval.server import Limits, ServerOptions, running, server
from raggym_env.retrieval.server.protocol import PIECE, _plain_head, pieces
from waiting import wait_until


class Echo:
    """Finds a passage named after the query; waits while not `open`."""

    def __init__(self):
        self.queries = []
        self.open = threading.Event()
        self.open.set()

    def search(self, queries, k):
        self.queries += queries
        self.open.wait(60)
        return [[Hit(Passage(query, query, "x" * (80_000 if "long" in query else 10)), 1.0)] for query in queries]


def request(query, *headers, length=None):
    body = json.dumps({"query": query, "topk": 1}).encode()
    lines = ["POST /retrieve HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@contextmanager
def connection(url):
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as sock:
        yield sock


def answer(file):
    """Return the status, the headers and the body of the next answer."""
    status = int(file.readline().split()[1])
    headers = dict(line.rstrip().lower().split(b": ", 1) for line in iter(file.readline, b"\r\n"))
    return status, headers, file.read(int(headers[b"content-length"]))


def titles(body):
    return [[document["title"] for document in row] for row in json.loads(body)["result"]]


def metric(url, name):
    with connection(url) as sock, sock.makefile("rb") as file:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        line = re.search(rf"^{re.escape(name)} (\S+)$", answer(file)[2].decode(), re.MULTILINE)
    return float(line[1]) if line else 0.0


@pytest.fixture(scope="module")
def url():
    with running(Echo()) as url:
        yield url


# Parts of heads that are framed in more than one way, and others, in all combinations.
LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(b"Content-Length: 5", b"Content-Length: 05", b"content-length:5", b"Content-Length: +5"),
                *(b"Content-Length: 5, 5", b"Content-Length : 5", b"Content-Length: 5 ", b"Content-Length:\t5"),
                *(b"Transfer-Encoding: chunked", b"transfer-encoding: identity", b"Connection: close"),
                *(b"Connection: keep-alive", b"Expect: 100-continue", b"Upgrade: websocket", b"TE: trailers"),
                *(b"Host: a", b"host: b", b"Host:", b" folded", b"\tfolded", b"X: \xff", b"X: \x00", b"X y: 1", b"X"),
                *(b": empty", b"Authorization: Bearer x", b"Origin: http://a", b"X: a:b", b"X: a\nY: b", b"X: a\rY: b"),
            ]
        ),
        st.binary(max_size=12),
    ),
    max_size=6,
)


@given(st.sampled_from([b"POST /retrieve HTTP/1.1", b"POST /retrieve/ HTTP/1.1", b"POST /retrieve HTTP/1.0"]), LINES)
@example(b"POST /retrieve HTTP/1.1", [b"Host: a", b"Content-Length: 5", b"Connection: keep-alive"])
@example(b"POST /retrieve HTTP/1.1", [b"Host: a", b"Content-Length: 5", b"Content-Length: 5"])
@example(b"POST /retrieve HTTP/1.1", [b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_head_that_takes_the_short_way_is_one_that_h11_reads_in_the_same_way(start, lines):
    data = b"\r\n".join([start, *lines, b"", b""])
    head = _plain_head(data)
    if head is None:
        return
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(data + b"x" * head.length)
    event = reader.next_event()
    assert (event.method, event.target.rstrip(b"/"), event.http_version) == (b"POST", b"/retrieve", b"1.1")
    headers = [(name.decode(), value.decode()) for name, value in event.headers]
    assert {**head.headers, **dict(headers)} == dict(headers)
    assert len(headers) == len(dict(headers))
    body = b""
    while isinstance(event := reader.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert len(body) == head.length
    assert reader.trailing_data == (b"", False)


def test_usual_heads_take_the_short_way():
    for lines in (
        "Host: a\r\nContent-Length: 5",
        "host:a\r\nAccept: */*\r\ncontent-length:  5 \r\nConnection: Keep-Alive\r\nUser-Agent: x/1.0 (a; b)",
    ):
        assert _plain_head(f"POST /retrieve HTTP/1.1\r\n{lines}\r\n\r\n".encode()).length == 5


@pytest.mark.parametrize("query", ["a", "a long one", "\u00e9\ud83d\ude00"])
def test_both_ways_give_the_same_answer(url, query):
    answers = []
    with connection(url) as sock, sock.makefile("rb") as file:
        for headers in ((), ("TE: trailers",), (), ("Connection: keep-alive",)):
            sock.sendall(request(query, *headers))
            status, fields, body = answer(file)
            del fields[b"date"]
            answers.append((status, fields, body))
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 200


STREAM = [
    request("first"),
    request("a long second"),
    request("third", "TE: trailers"),
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    request("fifth"),
    b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n{x}",
    b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'f\r\n{"query":"sixth\r\n2\r\n"}\r\n0\r\n\r\n',
    request("last"),
]


@given(st.permutations(range(len(STREAM))), st.lists(st.integers(0, 2000), max_size=8), st.booleans())
def test_requests_cut_anywhere_and_sent_ahead_are_answered_in_order(url, order, cuts, slowly):
    parts = [STREAM[i] for i in order]
    data, cuts = b"".join(parts), sorted(cuts)
    with connection(url) as sock, sock.makefile("rb") as file:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            sock.sendall(data[start:end])
            if slowly:
                time.sleep(0.002)
        for part in parts:
            status, _, body = answer(file)
            assert status == (400 if b"{x}" in part else 200)
            if status == 200 and b"GET" not in part:
                query = "sixth" if b"sixth" in part else json.loads(part[part.index(b"{") :])["query"]
                assert titles(body) == [[query]]


def test_a_body_that_comes_late_is_waited_for(url):
    data = request("late")
    with connection(url) as sock, sock.makefile("rb") as file:
        for start, end in ((0, -20), (-20, -5), (-5, None)):
            sock.sendall(data[start:end])
            time.sleep(0.05)
        assert titles(answer(file)[2]) == [["late"]]


def test_a_request_whose_client_is_gone_is_not_searched():
    echo = Echo()
    with running(echo) as url:
        echo.queries.clear()
        echo.open.clear()
        with connection(url) as first:
            first.sendall(request("first"))
            wait_until(lambda: echo.queries == ["first"])
            with connection(url) as gone:
                gone.sendall(request("gone"))
                wait_until(lambda: metric(url, "raggym_waiting_queries") == 1)
            wait_until(lambda: metric(url, 'raggym_requests_total{status="499"}') == 1)
            echo.open.set()
            with first.makefile("rb") as file:
                assert titles(answer(file)[2]) == [["first"]]
        assert echo.queries == ["first"]
        wait_until(lambda: metric(url, "raggym_reserved_bytes") == 0)
        assert metric(url, "raggym_in_flight") == 0


def test_an_idle_connection_is_closed_and_one_in_use_is_not(monkeypatch):
    monkeypatch.setattr(server, "_KEEP_ALIVE_SECONDS", 0.3)
    with running(Echo()) as url, connection(url) as sock, sock.makefile("rb") as file:
        started = time.monotonic()
        while time.monotonic() < started + 0.9:
            sock.sendall(request("a"))
            assert answer(file)[0] == 200
            time.sleep(0.02)
        idle = time.monotonic()
        assert file.read() == b""
        assert time.monotonic() - idle < 30


def test_requests_that_outlast_the_grace_are_told_so():
    echo = Echo()
    with running(echo, options=ServerOptions(grace=1)) as url:
        echo.open.clear()
        sock = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=60)
        sock.sendall(request("a"))
        wait_until(lambda: metric(url, "raggym_in_flight") == 1)
    with sock, sock.makefile("rb") as file:
        status, headers, body = answer(file)
        assert (status, headers[b"retry-after"]) == (503, b"1")
        assert json.loads(body) == {"error": "The server ends. Try again later."}
    echo.open.set()


def test_answers_that_are_not_read_are_cut_off():
    with running(Echo(), options=ServerOptions(limits=Limits(send_seconds=0.2))) as url, connection(url) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(200):
            try:
                sock.sendall(request("a long one"))
            except OSError:
                break
        wait_until(lambda: metric(url, "raggym_reserved_bytes") == 0)


@given(st.lists(st.integers(0, 3 * PIECE), max_size=6))
def test_pieces_are_the_parts_in_order_and_none_is_very_long(lengths):
    parts = [bytes([i]) * length for i, length in enumerate(lengths, 1)]
    cut = list(pieces(parts))
    assert b"".join(cut) == b"".join(parts)
    assert all(len(piece) <= 2 * PIECE for piece in cut)


def test_the_long_way_refuses_what_the_short_one_leaves_to_it(url):
    with connection(url) as sock, sock.makefile("rb") as file:
        sock.sendall(request("a").replace(b"Host: localhost", b"Host: evil.example"))
        status, headers, _ = answer(file)
        assert (status, headers[b"connection"]) == (421, b"close")
        assert file.read() == b""
