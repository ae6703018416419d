"""A chat-completions server on 127.0.0.1 that misbehaves as scripted."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
Step = Callable[["_Handler", Json], None]


class FakeServer:
    """Handles each request by the next of `steps`, and by `after` once they are used up. A context manager.

    A step is a function of the request's handler and body; `replies`, `says`, `status`, `raw` and `when` return one,
    and `hang`, `drip` and `cut` are such functions.
    """

    def __init__(self, *steps: Step, after: Step | None = None, port: int = 0) -> None:
        self.steps = list(steps)
        self.after = after or replies()
        self.port = port
        self.bodies: list[Json] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.connections: list[socket.socket] = []

    def __enter__(self) -> FakeServer:
        handler = type("Handler", (_Handler,), {"fake": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        for connection in self.connections:  # idle connections would be served after the end
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def serve(self, handler: _Handler, body: Json) -> None:
        with self.lock:
            self.bodies.append(body)
            self.keys.append(handler.headers.get("Authorization", ""))
            self.times.append(time.monotonic())
            step = self.steps.pop(0) if self.steps else self.after
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            step(handler, body)
        finally:
            with self.lock:
                self.at_once -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: FakeServer

    def setup(self) -> None:
        super().setup()
        self.fake.connections.append(self.connection)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # clients of a misbehaving server hang up
            super().handle()

    def do_GET(self) -> None:
        self.send(200, json.dumps({"data": [{"id": "served-model"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.serve(self, body)

    def send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None, length: int = -1) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) if length < 0 else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def question(body: Json) -> str:
    return body["messages"][-1]["content"]


def completion(body: Json, n: int, **changes: Any) -> Json:
    """Return a reply with `n` choices that echo the question, the seed and the choice's number."""
    texts = [f"{question(body)}/{body.get('seed')}/{i}" for i in range(n)]
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 10, "completion_tokens": 2 * n, "prompt_tokens_details": {"cached_tokens": 4}}
    return {"choices": choices, "usage": usage, **changes}


def replies(most: int = 99, seconds: float = 0.0, **changes: Any) -> Step:
    """Return a step that answers correctly after some seconds, with at most `most` choices and changed fields."""

    def step(handler: _Handler, body: Json) -> None:
        time.sleep(seconds)
        handler.send(200, json.dumps(completion(body, min(body.get("n", 1), most), **changes)).encode())

    return step


def says(content: str | None, finish: str = "stop", **message: Any) -> Step:
    """Return a step that answers with one choice of this content."""
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return replies(choices=[choice])


def status(number: int, message: str = "", headers: Mapping[str, str] | None = None, **error: Any) -> Step:
    """Return a step that answers with an HTTP status and an error object."""
    content = json.dumps({"error": {"message": message, **error}}).encode()
    return lambda handler, _: handler.send(number, content, headers)


def raw(content: bytes) -> Step:
    """Return a step that answers with status 200 and these bytes."""
    return lambda handler, _: handler.send(200, content)


def hang(handler: _Handler, _: Json) -> None:
    """Send nothing until the server closes."""
    handler.fake.closing.wait(20)
    handler.close_connection = True


def drip(handler: _Handler, _: Json) -> None:
    """Send a byte now and then, so that no read ever times out."""
    handler.send(200, b"", length=10_000)
    while not handler.fake.closing.wait(0.05):
        handler.wfile.write(b" ")


def cut(handler: _Handler, _: Json) -> None:
    """Send half of a body and close the connection."""
    handler.send(200, b'{"choices": [{"mess', length=1000)
    handler.close_connection = True


def when(condition: Callable[[Json], bool], then: Step, otherwise: Step | None = None) -> Step:
    """Return a step that depends on the request's body. By default the other requests are answered correctly."""
    default = otherwise or replies()
    return lambda handler, body: (then if condition(body) else default)(handler, body)
