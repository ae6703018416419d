"""The checks and limits that every server keeps, and a gate that puts them around any ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from raggym_env.retrieval.server.batching import Overloaded
from raggym_env.retrieval.server.hosts import AllowedHosts
from raggym_env.retrieval.server.memory import Memory, Reservation
from raggym_env.retrieval.wire import Limits

__all__ = ["CLOSE", "RETRY", "Access", "Gate", "HasHeaders", "error_reply", "read_body"]

_logger = logging.getLogger(__name__)

RETRY = {"retry-after": "1"}
CLOSE = {"connection": "close"}  # for answers given before the body was read: its rest may never arrive
# Multiples of the body limit that are read of a longer body. A client that still sends when the connection is closed
# gets a reset instead of the 413.
_DRAINED = 4
_GOING_AWAY, _RESTARTING = 1001, 1012  # codes with which a WebSocket is closed


class HasHeaders(Protocol):
    """A request, of which only the headers count: their values by their names in lower case."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers."""
        ...


class Access:
    """Decides whom a server answers.

    Args:
        token: The token that clients must send as `Authorization: Bearer TOKEN`; None for none.
        hosts: The hosts that the server answers for; None for all.
    """

    def __init__(self, token: str | None, hosts: AllowedHosts | None) -> None:
        self._token = token
        self._hosts = hosts

    def require_host(self, request: HasHeaders) -> None:
        """Raise an `HTTPException` unless the request is for one of the hosts, and from no other site's page."""
        if self._hosts is None:
            return
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not self._hosts.allow_host(host):
            message = f"This server does not answer for the host {host!r:.100}. Add it with --allow-host if it should."
            raise HTTPException(421, message, CLOSE)
        if origin is not None and not self._hosts.allow_origin(origin):
            raise HTTPException(403, f"This server does not answer pages of {origin!r:.100}.", CLOSE)

    def require_token(self, request: HasHeaders) -> None:
        """Raise an `HTTPException` unless the request has the token."""
        if not self.has_token(request):
            headers = {"www-authenticate": "Bearer", **CLOSE}
            raise HTTPException(401, "This server requires a token: Authorization: Bearer TOKEN.", headers)

    def has_token(self, request: HasHeaders) -> bool:
        """True if the request has the token, or none is required."""
        if self._token is None:
            return True
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Starlette decodes header values as Latin-1. compare_digest takes as long for a nearly right token as for any.
        sent, expected = token.strip().encode("latin-1"), self._token.encode()
        return scheme.lower() == "bearer" and secrets.compare_digest(sent, expected)


async def read_body(request: Request, limits: Limits, reservation: Reservation) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: It is too long (413) or arrives too slowly (408).
        Overloaded: There is no memory for it.
        ClientDisconnect: The client closed the connection.
    """
    body, size, limit = bytearray(), 0, limits.body
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                # The content-length header is not trusted, and a chunked body has none.
                if size <= limit:
                    reservation.grow(len(chunk))
                    body += chunk
                elif size > _DRAINED * limit:
                    break
    except TimeoutError as error:
        message = f"The body took longer than {limits.body_seconds:g} s to arrive."
        raise HTTPException(408, message, CLOSE) from error
    if size > limit:
        raise HTTPException(413, f"The body is longer than {limit:,} bytes.", CLOSE)
    return bytes(body)


async def error_reply(_: Request, error: Exception) -> Response:
    """Return the reply that has the message of an `HTTPException` as its `error`."""
    assert isinstance(error, HTTPException)  # noqa: S101  # it is registered for no other
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class Gate:
    """An ASGI application behind the checks and limits of a server, for HTTP and WebSockets.

    `GET /health` needs no token. Bodies are read before the application is called. A WebSocket on which nothing arrives
    for too long is closed as if the client had closed it, so that what the application holds for it is freed.

    Args:
        app: The application.
        access: Whom the server answers.
        limits: The maximum number of requests, and the size and duration of each.
        sockets: Maximum number of WebSockets at the same time.
        idle_seconds: Time after which a WebSocket on which nothing arrives is closed.
    """

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, *, sockets: int, idle_seconds: float) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._most_sockets = sockets
        self._idle_seconds = idle_seconds
        self._memory = Memory(limits.memory)
        self.requests = 0
        """Number of HTTP requests in progress."""
        self.sockets = 0
        """Number of open WebSockets."""
        self._closing = False
        self._waiting: set[asyncio.Timeout] = set()  # of sockets and streams that wait for their clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hold a WebSocket, as ASGI describes."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def drain(self, seconds: float) -> None:
        """End the WebSockets and streams, each once its current message has been answered; wait so many seconds."""
        self._closing = True
        for timer in self._waiting:
            timer.reschedule(asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.sockets:
                    await asyncio.sleep(0.01)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, reservation = Request(scope, receive), Reservation(self._memory)
        self.requests += 1
        try:
            try:
                body = await self._admit(request, reservation)
            except HTTPException as error:
                await (await error_reply(request, error))(scope, receive, send)
            except ClientDisconnect:
                return
            else:
                await self._app(scope, self._replay(scope, body, receive), self._in_time(send))
        finally:
            self.requests -= 1
            reservation.release()

    async def _admit(self, request: Request, reservation: Reservation) -> bytes:
        self._access.require_host(request)
        # Not `request.url`, which cannot be made of every Host header.
        if request.scope["path"].rstrip("/") != "/health":
            self._access.require_token(request)
        if self.requests > self._limits.requests:
            raise _busy(f"The server is handling {self._limits.requests:,} requests.")
        try:
            return await read_body(request, self._limits, reservation)
        except Overloaded as error:
            raise _busy(str(error)) from error

    def _replay(self, scope: Scope, body: bytes, receive: Receive) -> Receive:
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            if messages:
                return messages.pop()
            if scope["method"] != "GET":  # its answer is finished, whatever happens
                return await receive()
            try:
                async with self._waits(None):
                    return await receive()
            except TimeoutError:
                return {"type": "http.disconnect"}

        return replay

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        try:
            self._access.require_host(socket)
            self._access.require_token(socket)
            if self.sockets >= self._most_sockets or self._closing:
                raise _busy(f"The server is holding {self.sockets:,} connections.")
        except HTTPException as error:
            await receive()  # the request to connect
            await socket.send_denial_response(JSONResponse({"error": error.detail}, error.status_code, error.headers))
            return
        self.sockets += 1
        closing: dict[str, object] = {}
        try:
            await self._app(scope, self._incoming(receive, closing), self._outgoing(send, closing))
        finally:
            self.sockets -= 1

    def _incoming(self, receive: Receive, closing: dict[str, object]) -> Receive:
        async def incoming() -> Message:
            try:
                async with self._waits(0 if self._closing else self._idle_seconds):
                    return await receive()
            except TimeoutError:
                code = _RESTARTING if self._closing else _GOING_AWAY
                reason = "The server ends." if self._closing else f"Nothing arrived for {self._idle_seconds:g} s."
                closing.update(code=code, reason=reason)
                return {"type": "websocket.disconnect", **closing}

        return incoming

    def _outgoing(self, send: Send, closing: dict[str, object]) -> Send:
        in_time = self._in_time(send)

        async def outgoing(message: Message) -> None:
            await in_time({**message, **closing} if message["type"] == "websocket.close" else message)

        return outgoing

    def _in_time(self, send: Send) -> Send:
        async def in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._limits.send_seconds):
                    await send(message)
            except TimeoutError as error:
                _logger.warning("A client did not read its answer within %g s.", self._limits.send_seconds)
                raise OSError("The client does not read its answer.") from error  # what a closed connection raises

        return in_time

    @contextlib.asynccontextmanager
    async def _waits(self, seconds: float | None) -> AsyncIterator[None]:
        async with asyncio.timeout(seconds) as timer:
            self._waiting.add(timer)
            try:
                yield
            finally:
                self._waiting.discard(timer)


def _busy(message: str) -> HTTPException:
    return HTTPException(503, f"{message.rstrip('.')}. Try again later.", {**RETRY, **CLOSE})
