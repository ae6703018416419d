"""The ASGI application: three paths over one retriever."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from raggym_env.errors import RetrievalError
from raggym_env.protocols import Retriever
from raggym_env.retrieval.server.batching import Batcher, Overloaded, SearchTimeout, TooLong
from raggym_env.retrieval.server.gate import CLOSE, RETRY, Access, error_reply, read_body
from raggym_env.retrieval.server.hosts import AllowedHosts
from raggym_env.retrieval.server.memory import Memory, Reservation
from raggym_env.retrieval.server.metrics import Metrics
from raggym_env.retrieval.server.options import ServerOptions
from raggym_env.retrieval.wire import FINGERPRINT_HEADER, BadRequest, SearchRequest, join_rows, read_request

__all__ = ["RetrievalApp"]

_logger = logging.getLogger(__name__)

_CLIENT_CLOSED = 499  # nginx's status for a client that closed the connection; only /metrics shows it
_PIECE = 64 * 1024  # bytes of an answer that are sent at once
_LONG_BODY = 64 * 1024  # bytes; parsing a longer one takes milliseconds, in which no other request would be served


class RetrievalApp:
    """`POST /retrieve`, `GET /health` and `GET /metrics` over a retriever; `asgi` is the application.

    With a token, every request needs `Authorization: Bearer TOKEN`; /health without one says only that the server
    runs. Without a token, `hosts` says for which hosts it answers; None for all. Errors are JSON objects whose `error`
    is the message. It tells nothing of the server itself: details are in the log, under the name in the message.
    """

    def __init__(self, retriever: Retriever, options: ServerOptions, hosts: AllowedHosts | None = None) -> None:
        self.metrics = Metrics()
        self._retriever = retriever
        self._options = options
        self._limits = options.limits
        self._access = Access(options.token, hosts)
        self._memory = Memory(options.limits.memory)
        self._session = secrets.token_hex(2)  # so that names differ from those in the log of an earlier run
        self._numbers = itertools.count(1)
        self._about: dict[str, object] = {"retriever": options.name or type(retriever).__name__}
        if options.passages is not None:
            self._about["passages"] = options.passages
        self._headers = {"content-type": "application/json"}
        if fingerprint := getattr(retriever, "fingerprint", None):
            self._headers[FINGERPRINT_HEADER] = self._about["fingerprint"] = str(fingerprint)
        self._batcher: Batcher
        routes = (
            ("/retrieve", self._retrieve, ["POST"]),
            ("/health", self._health, ["GET"]),
            ("/metrics", self._show_metrics, ["GET"]),
        )
        self.asgi = Starlette(
            # With and without a slash at the end: clients do not follow a redirect with a body.
            routes=[Route(path + end, call, methods=methods) for path, call, methods in routes for end in ("", "/")],
            exception_handlers={HTTPException: error_reply, Exception: _bug_reply},
            lifespan=self._lifespan,
        )
        self.asgi.router.redirect_slashes = False  # a redirect would repeat the Host header of the request

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        # Made here, not in the constructor: it belongs to the server's event loop.
        on_batch = self.metrics.batches.observe
        self._batcher = Batcher(self._retriever, self._options.batching, self._limits, on_batch=on_batch)
        try:
            yield
        finally:
            self._batcher.close()

    async def _retrieve(self, request: Request) -> Response:
        started = time.perf_counter()
        reservation = Reservation(self._memory)
        self.metrics.in_flight += 1
        status = 500
        try:
            response = await self._answer(request, reservation)
            status = response.status_code
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            if status != 200:  # else the answer is still to be sent
                reservation.release()
            self.metrics.in_flight -= 1
            self.metrics.requests[status] += 1
            self.metrics.seconds.observe(time.perf_counter() - started)
        return response

    async def _answer(self, request: Request, reservation: Reservation) -> Response:
        self._access.require_host(request)
        self._access.require_token(request)
        # Before the body is read: the bodies of too many requests at once could fill the memory.
        if self.metrics.in_flight > self._limits.requests:
            message = f"The server is handling {self._limits.requests:,} requests. Try again later."
            raise HTTPException(503, message, {**RETRY, **CLOSE})
        try:
            body = await read_body(request, self._limits, reservation)
            inputs = body, self._limits, self._options.default_k
            search = read_request(*inputs) if len(body) < _LONG_BODY else await asyncio.to_thread(read_request, *inputs)
        except BadRequest as error:
            raise HTTPException(error.status, str(error)) from error
        except Overloaded as error:
            raise HTTPException(503, f"{error} Try again later.", {**RETRY, **CLOSE}) from error
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED)
        self.metrics.queries += len(search.queries)
        rows = await self._search(search, reservation)
        return _Answer(rows, self._headers, self._limits.send_seconds, reservation.release)

    async def _search(self, search: SearchRequest, reservation: Reservation) -> list[bytes]:
        name = f"{self._session}-{next(self._numbers)}"
        try:
            async with asyncio.timeout(self._limits.search_seconds):
                return await self._batcher.search(search, name, reserve=reservation.grow)
        except Overloaded as error:
            raise HTTPException(503, f"{error} Try again later.", RETRY) from error
        except TooLong as error:
            raise HTTPException(413, str(error)) from error
        except (TimeoutError, SearchTimeout) as error:
            raise HTTPException(504, f"The search took longer than {self._limits.search_seconds:g} s.") from error
        except RetrievalError as error:
            # Its message may hold paths or secrets of this machine, which the log may have and clients may not.
            raise HTTPException(500, f"The search failed. The server's log says why, at {name}.") from error

    async def _health(self, request: Request) -> Response:
        self._access.require_host(request)
        about = self._about if self._access.has_token(request) else {}
        if self._batcher.healthy:
            return JSONResponse({"status": "ok", **about})
        return JSONResponse({"status": "unhealthy", **about}, 503)

    async def _show_metrics(self, request: Request) -> Response:
        self._access.require_host(request)
        self._access.require_token(request)
        gauges = {
            "waiting_queries": self._batcher.waiting,
            "hanging_searches": self._batcher.hanging,
            "reserved_bytes": self._memory.reserved,
        }
        lines = self.metrics.lines(gauges)
        return PlainTextResponse("\n".join([*lines, ""]), media_type="text/plain; version=0.0.4")


class _Answer(Response):
    """An answer that is sent in pieces, each only after the client has read most of what was sent before."""

    def __init__(
        self, rows: Sequence[bytes], headers: Mapping[str, str], seconds: float, on_sent: Callable[[], None]
    ) -> None:
        self._parts = join_rows(rows)
        self._seconds = seconds
        self._on_sent = on_sent
        self._length = sum(map(len, self._parts))
        super().__init__(headers={**headers, "content-length": str(self._length)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._length <= _PIECE:
                await send({"type": "http.response.body", "body": b"".join(self._parts)})
                return
            for piece, more in self._pieces():
                async with asyncio.timeout(self._seconds):
                    await send({"type": "http.response.body", "body": piece, "more_body": more})
        except TimeoutError:  # on return, uvicorn closes the connection
            _logger.warning("A client did not read its answer within %g s.", self._seconds)
        finally:
            self._on_sent()

    def _pieces(self) -> Iterator[tuple[bytes, bool]]:
        buffer = bytearray()
        for part in self._parts:
            buffer += part
            while len(buffer) > _PIECE:
                yield bytes(buffer[:_PIECE]), True
                del buffer[:_PIECE]
        yield bytes(buffer), False


async def _bug_reply(_: Request, error: Exception) -> Response:
    # Starlette raises the exception again after this reply, so that the server logs its traceback.
    name = secrets.token_hex(4)
    _logger.error("The request %s failed with this %s:", name, type(error).__name__)
    return JSONResponse({"error": f"The server failed. Its log says why, at {name}."}, 500)
