"""The gate: the server's checks and limits around any application, for HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from raggym_env.retrieval.server import Limits, bind, running_app, url_of

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
websockets = pytest.importorskip("websockets.sync.client")
from starlette.applications import Starlette  # noqa: E402
from starlette.responses import PlainTextResponse, StreamingResponse  # noqa: E402
from starlette.routing import Route, WebSocketRoute  # noqa: E402
from starlette.websockets import WebSocketDisconnect  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

from raggym_env.retrieval.server.gate import Access, Gate  # noqa: E402
from raggym_env.retrieval.server.hosts import AllowedHosts  # noqa: E402
from waiting import wait_until  # noqa: E402

TOKEN = "s3cret"  # noqa: S105


class Echo:
    """An application that sends back what it gets, slowly if it is asked to."""

    def __init__(self):
        self.ended = 0
        routes = [Route(path, self.echo, methods=["GET", "POST"]) for path in ("/echo", "/health")]
        self.app = Starlette(routes=[*routes, Route("/stream", self.stream), WebSocketRoute("/ws", self.socket)])

    async def echo(self, request):
        return PlainTextResponse(await request.body())

    async def stream(self, request):
        async def pieces():
            try:
                yield b"first"
                await asyncio.sleep(60)
            finally:
                self.ended += 1

        return StreamingResponse(pieces())

    async def socket(self, socket):
        await socket.accept()
        try:
            while True:
                text = await socket.receive_text()
                if text == "slow":
                    await asyncio.sleep(0.5)
                await socket.send_text(text)
        except WebSocketDisconnect:
            await socket.close()
        finally:
            self.ended += 1


@contextmanager
def gated(*, token=None, sockets=8, idle=60.0, message_bytes=1000, **limits):
    echo = Echo()
    listener = bind(port=0)
    access = Access(token, None if token else AllowedHosts("127.0.0.1"))
    gate = Gate(echo.app, access, Limits(**limits), sockets=sockets, idle_seconds=idle)
    with listener, running_app(gate, listener, grace=5, message_bytes=message_bytes, drain=gate.drain):
        yield url_of(listener, ""), gate, echo


def connect(url, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return websockets.connect(url.replace("http", "ws") + "/ws", additional_headers=names, proxy=None)


def say(client, text):
    client.send(text)
    return client.recv(timeout=10)


def post(url, body=b"hello", path="/echo", **headers):
    return httpx.post(url + path, content=body, headers=headers, trust_env=False)


def test_an_application_behind_a_gate_works_as_without():
    with gated() as (url, gate, _):
        assert post(url).text == "hello"
        with connect(url) as client:
            assert [say(client, text) for text in ("a", "slow", "b")] == ["a", "slow", "b"]
            assert gate.sockets == 1
        wait_until(lambda: gate.sockets == 0, 10)


def test_a_token_is_required_of_requests_and_sockets_but_not_for_the_health():
    with gated(token=TOKEN) as (url, _, _):
        assert post(url).status_code == 401
        assert post(url, authorization="Bearer wrong").status_code == 401
        assert post(url, authorization=f"Bearer {TOKEN}").text == "hello"
        assert post(url, path="/health").status_code == 200
        assert post(url, host="[", authorization=f"Bearer {TOKEN}").text == "hello"
        assert post(url, host="[").status_code == 401
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            with pytest.raises(InvalidStatus) as caught, connect(url, **headers):
                pass
            assert caught.value.response.status_code == 401
            assert b"requires a token" in caught.value.response.body
        with connect(url, Authorization=f"Bearer {TOKEN}") as client:
            assert say(client, "a") == "a"


@pytest.mark.parametrize(
    ("headers", "status"), [({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403)]
)
def test_other_hosts_and_pages_are_refused(headers, status):
    with gated() as (url, _, _):
        assert post(url, **headers).status_code == status
        assert post(url, path="/health", **headers).status_code == status
        if "Origin" in headers:
            with pytest.raises(InvalidStatus) as caught, connect(url, **headers):
                pass
            assert caught.value.response.status_code == status
        assert post(url, Origin=url).text == "hello"


def test_a_body_that_is_too_long_is_refused():
    with gated(body=1000, answer=1000, memory=2000) as (url, gate, _):
        reply = post(url, b"x" * 1001)
        assert (reply.status_code, reply.json()) == (413, {"error": "The body is longer than 1,000 bytes."})
        assert post(url, b"x" * 1000).text == "x" * 1000
        wait_until(lambda: gate.requests == 0, 10)


def test_a_body_that_arrives_too_slowly_is_refused():
    with gated(body_seconds=0.2) as (url, _, _):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nhe")
            assert b" 408 " in slow.recv(1000)


def test_a_message_that_is_too_long_closes_its_socket_only():
    with gated() as (url, _, _), connect(url) as other, connect(url) as long:
        with pytest.raises(ConnectionClosed) as caught:
            say(long, "x" * 1001)
        assert caught.value.rcvd.code == 1009
        assert say(other, "x" * 1000) == "x" * 1000


def test_more_sockets_than_may_be_open_are_refused():
    with gated(sockets=1) as (url, gate, _):
        with connect(url) as client:
            say(client, "a")
            with pytest.raises(InvalidStatus) as caught, connect(url):
                pass
            assert caught.value.response.status_code == 503
        wait_until(lambda: gate.sockets == 0, 10)
        with connect(url) as client:
            assert say(client, "b") == "b"


def test_a_socket_on_which_nothing_arrives_is_closed_and_freed():
    with gated(idle=0.3) as (url, gate, echo), connect(url) as client:
        for _ in range(3):  # one that is used stays open
            time.sleep(0.2)
            assert say(client, "a") == "a"
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=5)
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1001, "Nothing arrived for 0.3 s.")
        wait_until(lambda: (gate.sockets, echo.ended) == (0, 1), 10)


def test_a_client_that_is_gone_without_a_word_is_freed():
    with gated() as (url, gate, echo), connect(url) as client:
        say(client, "a")
        client.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: (gate.sockets, echo.ended) == (0, 1), 10)


def test_a_server_that_ends_answers_the_messages_that_have_arrived():
    with ExitStack() as clients:
        with gated() as (url, gate, echo):
            busy, idle = (clients.enter_context(connect(url)) for _ in range(2))
            assert say(busy, "a") == say(idle, "a") == "a"
            busy.send("slow")
            time.sleep(0.1)
            started = time.monotonic()
        assert busy.recv(timeout=5) == "slow"
        for client in (busy, idle):
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(timeout=5)
            assert caught.value.rcvd.code == 1012
    assert (gate.sockets, echo.ended) == (0, 2)
    assert time.monotonic() - started < 4


def test_a_server_that_ends_does_not_wait_for_streams():
    with gated() as (url, _, echo):
        client = httpx.Client(trust_env=False)
        stream = client.stream("GET", url + "/stream")
        assert next(stream.__enter__().iter_bytes()) == b"first"
        started = time.monotonic()
    assert time.monotonic() - started < 4
    assert echo.ended == 1
    client.close()
