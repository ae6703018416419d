"""A short way through the server for the usual request; every other one goes through uvicorn, h11 and Starlette.

The usual request is a `POST /retrieve` that passes every check: it is for this server and has the token, its head holds
nothing that changes how it is framed, its body is short and valid, and there is room for it. On the long way it costs
four times as much as the search. The long way is the only one that refuses a request, so there is one set of messages;
a request that the short way does not take has not been counted or searched.
"""

from __future__ import annotations

import asyncio
import functools
import http
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["PIECE", "Head", "Reply", "RetrieveProtocol", "ShortWay", "pieces"]

PIECE = 64 * 1024  # bytes of an answer that are sent at once
_MAX_HEAD = 4096  # bytes; a longer one is rare
_MAX_BODY = 64 * 1024
# Seconds that the rest of a body may take to arrive; many clients send it apart from the head. Then the long way waits.
_PATIENCE = 0.02

# A subset of HTTP that no two servers read in different ways. h11 reads the rest, and refuses what is malformed.
_HEAD = re.compile(rb"POST /retrieve/? HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[ -~]*\r\n)+)\r\n")
_FRAMING = frozenset({"connection", "expect", "te", "trailer", "transfer-encoding", "upgrade"})
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a usual request: its headers by their names in lower case, and the length of its body."""

    headers: dict[str, str]
    length: int


@dataclass(slots=True)
class Reply:
    """An answer: its status, headers but the length, and body in parts; `on_sent` is called when it has been sent."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    parts: Sequence[bytes]
    on_sent: Callable[[], None]


class ShortWay(Protocol):
    """What answers usual requests."""

    send_seconds: float

    def start(self, head: Head, body: bytes, on_reply: Callable[[Reply], None]) -> Callable[[], object] | None:
        """Begin to answer; return a function that gives up. None: the request takes the long way, from the start."""
        ...

    def cut_off(self) -> None:
        """Note that a client did not read its answer in time."""
        ...


@functools.lru_cache(maxsize=256)  # clients repeat their heads
def _plain_head(data: bytes) -> Head | None:
    match = _HEAD.fullmatch(data)
    if match is None:
        return None
    lines = [line.split(":", 1) for line in match[1].decode("ascii").split("\r\n")[:-1]]
    headers = {name.lower(): value.strip(" ") for name, value in lines}
    length = headers.get("content-length", "")
    repeated = len(headers) < len(lines)
    if headers.get("connection", "").lower() == "keep-alive":
        del headers["connection"]
    if repeated or headers.keys() & _FRAMING or "host" not in headers:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", length) or int(length) > _MAX_BODY:
        return None
    return Head(headers, int(length))


def pieces(parts: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the parts of an answer in pieces of about `PIECE` bytes, and at most twice as many."""
    held: list[bytes] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size > PIECE:
            data = b"".join(held)
            yield from (data[start : start + PIECE] for start in range(0, size, PIECE)) if size > 2 * PIECE else (data,)
            held, size = [], 0
    if held:
        yield b"".join(held)


class RetrieveProtocol(H11Protocol):
    """A connection of uvicorn's, on which usual requests take the short way."""

    def __init__(self, short_way: ShortWay, **settings: Any) -> None:
        super().__init__(**settings)
        self._short_way = short_way
        self._on_long_way = False  # h11 has read a part of a request, or its answer is not finished
        self._busy = False  # with a request on the short way
        self._give_up: Callable[[], object] | None = None
        self._early = b""  # what arrived while it was busy, or before the rest of a request
        self._patience: asyncio.TimerHandle | None = None
        self._closing = False
        self._idle_since = 0.0

    def data_received(self, data: bytes) -> None:
        """Answer a request, or a part of one, by the way it has to take."""
        if self._on_long_way:
            super().data_received(data)
            return
        if self._early:
            data = self._early + data
        if self._busy:  # answers have the order of the requests
            self._early = data
            self.transport.pause_reading()
            return
        end = data.find(b"\r\n\r\n", 0, _MAX_HEAD) + 4
        head = _plain_head(data[:end]) if end > 3 else None
        if head is None or self.flow.write_paused or len(data) > end + head.length:
            self._take_long_way(data)
        elif len(data) < end + head.length:
            self._early = data
            if self._patience is None:
                self._patience = self.loop.call_later(_PATIENCE, self._lose_patience)
        else:
            self._take_short_way(head, data, end)

    def _take_short_way(self, head: Head, data: bytes, end: int) -> None:
        self._wait_no_more()
        self._busy = True
        self._give_up = self._short_way.start(head, data[end:], self._reply)
        if self._give_up is None:
            self._busy = False
            self._take_long_way(data)

    def _take_long_way(self, data: bytes) -> None:
        self._wait_no_more()
        self._on_long_way = True
        super().data_received(data)

    def _lose_patience(self) -> None:
        self._take_long_way(self._early)

    def _wait_no_more(self) -> None:
        self._early = b""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _reply(self, reply: Reply) -> None:
        self._give_up = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            reply.on_sent()
            return
        length = sum(map(len, reply.parts))
        headers = (*self.server_state.default_headers, *reply.headers)
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        start = b"HTTP/1.1 %d %b\r\n" % (reply.status, _REASONS[reply.status].encode())
        parts = [b"%b%bcontent-length: %d\r\n\r\n" % (start, lines, length), *reply.parts]
        if length <= PIECE:
            self.transport.write(b"".join(parts))
            reply.on_sent()
            self._finish()
        else:
            task = self.loop.create_task(self._send(parts, reply.on_sent))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _send(self, parts: Sequence[bytes], on_sent: Callable[[], None]) -> None:
        try:
            for piece in pieces(parts):
                if self.flow.write_paused:
                    async with asyncio.timeout(self._short_way.send_seconds):
                        await self.flow.drain()
                if self.transport.is_closing():
                    return
                self.transport.write(piece)
        except TimeoutError:
            self._short_way.cut_off()
            self.transport.close()
        finally:
            on_sent()
            self._finish()

    def _finish(self) -> None:
        self._busy = False
        if self._closing:
            self.transport.close()
        if self.transport.is_closing():
            return
        self._idle_since = self.loop.time()
        # One timer for many requests: setting and cancelling it for each would cost as much as reading the request.
        if self.timeout_keep_alive_task is None:
            seconds = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)
        if self._early:
            data, self._early = self._early, b""
            self.transport.resume_reading()
            self.data_received(data)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, if it has been idle for as long as it may."""
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if self._busy or self._early or left > 0:
            seconds = max(left, _PATIENCE)
            self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        """End a request on the long way."""
        self._idle_since = self.loop.time()
        super().on_response_complete()
        if self.conn.our_state is h11.IDLE is self.conn.their_state and not self.conn.trailing_data[0]:
            self._on_long_way = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what the client no longer waits for."""
        if self._early and not self._busy:  # which counts it
            self._take_long_way(self._early)
        super().connection_lost(exc)
        if self._give_up is not None:
            self._give_up()

    def shutdown(self) -> None:
        """Close the connection, or let its request be answered first."""
        if self._busy:
            self._closing = True
            return
        if self._early:
            self._take_long_way(self._early)
        super().shutdown()
