"""The application: three paths over one retriever."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from raggym_env.errors import RetrievalError
from raggym_env.protocols import Hit, Retriever
from raggym_env.retrieval.server.batching import Batcher, Batching, Overloaded
from raggym_env.retrieval.server.metrics import Metrics
from raggym_env.retrieval.wire import (
    FINGERPRINT_HEADER,
    BadRequest,
    Limits,
    SearchRequest,
    read_request,
    write_results,
)

__all__ = ["RetrievalApp"]

_CLIENT_LEFT = 499  # as nginx counts them; nobody receives it
_DRAINED = 4  # times the limit of a body: what is read of one that is too long, so that its sender hears of it
_RETRY = {"retry-after": "1"}
_CLOSE = {"connection": "close"}  # the rest of the body may never come


class RetrievalApp:
    """`POST /retrieve`, `GET /health` and `GET /metrics` over a retriever; `asgi` is the application.

    With a token, all but a bare health check asks for `Authorization: Bearer TOKEN`. Errors are JSON objects with
    an `error` that says what was wrong.
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        default_k: int,
        limits: Limits,
        batching: Batching,
        token: str | None,
        about: Mapping[str, object],
    ) -> None:
        self.metrics = Metrics()
        self._retriever = retriever
        self._default_k = default_k
        self._limits = limits
        self._batching = batching
        self._token = token.encode() if token is not None else None
        self._about = dict(about)
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
            exception_handlers={HTTPException: _failed, Exception: _broken},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._batcher = Batcher(self._retriever, self._batching, on_batch=self.metrics.batches.observe)
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
        if self.metrics.in_flight > self._limits.requests:
            full = f"{self._limits.requests:,} requests are under way. Try again later."
            raise HTTPException(503, full, {**_RETRY, **_CLOSE})
        try:
            asked = read_request(await self._body(request), self._limits, self._default_k)
        except BadRequest as error:
            raise HTTPException(error.status, str(error)) from error
        except ClientDisconnect:
            return Response(status_code=_CLIENT_LEFT)
        self.metrics.queries += len(asked.queries)
        return Response(write_results(await self._search(asked), scores=asked.scores), headers=self._headers)

    async def _body(self, request: Request) -> bytes:
        body, size, most = bytearray(), 0, self._limits.body
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= most:
                        body += chunk
                    elif size > _DRAINED * most:
                        break
        except TimeoutError as error:
            slow = f"The body took longer than {self._limits.body_seconds:g} s to come."
            raise HTTPException(408, slow, _CLOSE) from error
        if size > most:
            raise HTTPException(413, f"The body is longer than {most:,} bytes.", _CLOSE)
        return bytes(body)

    async def _search(self, asked: SearchRequest) -> list[list[Hit]]:
        try:
            async with asyncio.timeout(self._limits.search_seconds):
                return await self._batcher.search(asked.queries, asked.k)
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
        text = self.metrics.text({"waiting_queries": self._batcher.waiting})
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    def _require_token(self, request: Request) -> None:
        if not self._has_token(request):
            ask = {"www-authenticate": "Bearer", **_CLOSE}
            raise HTTPException(401, "This server wants a token: Authorization: Bearer TOKEN.", ask)

    def _has_token(self, request: Request) -> bool:
        if self._token is None:
            return True
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Header values are decoded as Latin-1.
        return scheme.lower() == "bearer" and secrets.compare_digest(token.strip().encode("latin-1"), self._token)


async def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # it is registered for no other
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _broken(_: Request, error: Exception) -> Response:
    """A bug. It is raised on to the server, which logs its traceback."""
    return JSONResponse({"error": f"The server failed with {type(error).__name__}; its log says more."}, 500)
