"""The ASGI application: three paths over one retriever."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from raggym_env.errors import RetrievalError
from raggym_env.protocols import Hit, Retriever
from raggym_env.retrieval.server.batching import Batcher, Overloaded
from raggym_env.retrieval.server.metrics import Metrics
from raggym_env.retrieval.server.options import ServerOptions
from raggym_env.retrieval.wire import FINGERPRINT_HEADER, BadRequest, SearchRequest, read_request, write_results

__all__ = ["RetrievalApp"]

_CLIENT_CLOSED = 499  # nginx's status for a client that closed the connection; only /metrics shows it
# Multiples of the body limit that are read of a longer body. A client that still sends when the connection is closed
# gets a reset instead of the 413.
_DRAINED = 4
_RETRY = {"retry-after": "1"}
_CLOSE = {"connection": "close"}  # for answers given before the body was read: its rest may never arrive


class RetrievalApp:
    """`POST /retrieve`, `GET /health` and `GET /metrics` over a retriever; `asgi` is the application.

    With a token, every request needs `Authorization: Bearer TOKEN`; /health without one says only that the server
    runs. Errors are JSON objects whose `error` is the message.
    """

    def __init__(self, retriever: Retriever, options: ServerOptions) -> None:
        self.metrics = Metrics()
        self._retriever = retriever
        self._options = options
        self._limits = options.limits
        self._about: dict[str, object] = {"retriever": options.name or type(retriever).__name__}
        if options.passages is not None:
            self._about["passages"] = options.passages
        self._headers = {"content-type": "application/json"}
        if fingerprint := getattr(retriever, "fingerprint", None):
            self._headers[FINGERPRINT_HEADER] = self._about["fingerprint"] = str(fingerprint)
        self._batcher: Batcher
        self.asgi = Starlette(
            routes=[
                Route("/retrieve", self._retrieve, methods=["POST"]),
                Route("/health", self._health),
                Route("/metrics", self._show_metrics),
            ],
            exception_handlers={HTTPException: _error_reply, Exception: _bug_reply},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        # Made here, not in the constructor: it belongs to the server's event loop.
        self._batcher = Batcher(self._retriever, self._options.batching, on_batch=self.metrics.batches.observe)
        try:
            yield
        finally:
            self._batcher.close()

    async def _retrieve(self, request: Request) -> Response:
        started = time.perf_counter()
        self.metrics.in_flight += 1
        status = 500
        try:
            response = await self._answer(request)
            status = response.status_code
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            self.metrics.in_flight -= 1
            self.metrics.requests[status] += 1
            self.metrics.seconds.observe(time.perf_counter() - started)
        return response

    async def _answer(self, request: Request) -> Response:
        self._require_token(request)
        # Before the body is read: the bodies of too many requests at once could fill the memory.
        if self.metrics.in_flight > self._limits.requests:
            message = f"The server is handling {self._limits.requests:,} requests. Try again later."
            raise HTTPException(503, message, {**_RETRY, **_CLOSE})
        try:
            search = read_request(await self._body(request), self._limits, self._options.default_k)
        except BadRequest as error:
            raise HTTPException(error.status, str(error)) from error
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED)
        self.metrics.queries += len(search.queries)
        return Response(write_results(await self._search(search), scores=search.scores), headers=self._headers)

    async def _body(self, request: Request) -> bytes:
        body, size, limit = bytearray(), 0, self._limits.body
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    # The content-length header is not trusted, and a chunked body has none.
                    if size <= limit:
                        body += chunk
                    elif size > _DRAINED * limit:
                        break
        except TimeoutError as error:
            message = f"The body took longer than {self._limits.body_seconds:g} s to arrive."
            raise HTTPException(408, message, _CLOSE) from error
        if size > limit:
            raise HTTPException(413, f"The body is longer than {limit:,} bytes.", _CLOSE)
        return bytes(body)

    async def _search(self, search: SearchRequest) -> list[list[Hit]]:
        try:
            async with asyncio.timeout(self._limits.search_seconds):
                return await self._batcher.search(search.queries, search.k)
        except Overloaded as error:
            raise HTTPException(503, f"{error} Try again later.", _RETRY) from error
        except RetrievalError as error:
            raise HTTPException(500, str(error)) from error
        except TimeoutError as error:
            raise HTTPException(504, f"The search took longer than {self._limits.search_seconds:g} s.") from error

    async def _health(self, request: Request) -> Response:
        about = self._about if self._has_token(request) else {}
        return JSONResponse({"status": "ok", **about})

    async def _show_metrics(self, request: Request) -> Response:
        self._require_token(request)
        lines = self.metrics.lines({"waiting_queries": self._batcher.waiting})
        return PlainTextResponse("\n".join([*lines, ""]), media_type="text/plain; version=0.0.4")

    def _require_token(self, request: Request) -> None:
        if not self._has_token(request):
            headers = {"www-authenticate": "Bearer", **_CLOSE}
            raise HTTPException(401, "This server requires a token: Authorization: Bearer TOKEN.", headers)

    def _has_token(self, request: Request) -> bool:
        if self._options.token is None:
            return True
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Starlette decodes header values as Latin-1. compare_digest takes as long for a nearly right token as for any.
        sent, expected = token.strip().encode("latin-1"), self._options.token.encode()
        return scheme.lower() == "bearer" and secrets.compare_digest(sent, expected)


async def _error_reply(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # it is registered for no other
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _bug_reply(_: Request, error: Exception) -> Response:
    # Starlette raises the exception again after this reply, so that the server logs its traceback.
    return JSONResponse({"error": f"The server failed with {type(error).__name__}; its log says more."}, 500)
