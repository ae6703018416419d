"""The ASGI application: three paths over one retriever."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from raggym_env.errors import RetrievalError
from raggym_env.protocols import Retriever
from raggym_env.retrieval.server.batching import Batcher, Overloaded, SearchTimeout, TooLong, too_long
from raggym_env.retrieval.server.gate import CLOSE, RETRY, Access, error_reply, read_body
from raggym_env.retrieval.server.hosts import AllowedHosts
from raggym_env.retrieval.server.memory import Memory, Reservation
from raggym_env.retrieval.server.metrics import Board, Metrics
from raggym_env.retrieval.server.options import ServerOptions
from raggym_env.retrieval.server.protocol import PIECE, Head, Reply, pieces
from raggym_env.retrieval.wire import FINGERPRINT_HEADER, BadRequest, SearchRequest, join_rows, read_request

__all__ = ["RetrievalApp"]

_logger = logging.getLogger(__name__)

_CLIENT_CLOSED = 499  # nginx's status for a client that closed the connection; only /metrics shows it
_MEASURE_SECONDS = 0.5
_LONG_BODY = 64 * 1024  # bytes; parsing a longer one takes milliseconds, in which no other request would be served


class RetrievalApp:
    """`POST /retrieve`, `GET /health` and `GET /metrics` over a retriever; `asgi` is the application.

    With a token, every request needs `Authorization: Bearer TOKEN`; /health without one says only that the server
    runs. Without a token, `hosts` says for which hosts it answers; None for all. Errors are JSON objects whose `error`
    is the message. It tells nothing of the server itself: details are in the log, under the name in the message.

    On a `RetrieveProtocol`, most requests take a short way past `asgi`, by `start`.

    With a `board`, several processes are one server: their counts are added up, and share the limits on requests and
    memory.
    """

    def __init__(
        self,
        retriever: Retriever,
        options: ServerOptions,
        hosts: AllowedHosts | None = None,
        board: Board | None = None,
    ) -> None:
        self.metrics = Metrics(board)
        self._retriever = retriever
        self._options = options
        self._limits = options.limits
        self._access = Access(options.token, hosts)
        self._shared = board is not None
        self._memory = Memory(options.limits.memory, self.metrics.reserved)
        self._exchanges: set[_Exchange] = set()
        self.send_seconds = options.limits.send_seconds
        self._session = secrets.token_hex(2)  # so that names differ from those in the log of an earlier run
        self._numbers = itertools.count(1)
        self._about: dict[str, object] = {"retriever": options.name or type(retriever).__name__}
        if options.passages is not None:
            self._about["passages"] = options.passages
        self._headers = {"content-type": "application/json"}
        if fingerprint := getattr(retriever, "fingerprint", None):
            self._headers[FINGERPRINT_HEADER] = self._about["fingerprint"] = str(fingerprint)
        self._raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in self._headers.items()]
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
        measuring = asyncio.create_task(self._measure()) if self._shared else None
        try:
            yield
        finally:
            if measuring is not None:
                measuring.cancel()
            for exchange in self._exchanges:  # the server's grace is over
                exchange.end(Overloaded("The server ends."))
            await asyncio.sleep(0)  # for them to be answered
            self._batcher.close()

    async def _measure(self) -> None:
        """Keep the board up to date, which the other processes show."""
        while True:
            self._refresh()
            await asyncio.sleep(_MEASURE_SECONDS)

    def _refresh(self) -> None:
        batcher = self._batcher
        self.metrics.refresh(waiting=batcher.waiting, hanging=batcher.hanging, healthy=batcher.healthy)

    def start(self, head: Head, body: bytes, on_reply: Callable[[Reply], None]) -> Callable[[], object] | None:
        """Begin to answer a request; return what gives it up. None, and nothing happened, if `asgi` must answer it."""
        started = time.perf_counter()
        reservation = Reservation(self._memory)
        try:
            self._access.require_host(head)
            self._access.require_token(head)
            if self.metrics.in_flight.total >= self._limits.requests:
                return None
            search = read_request(body, self._limits, self._options.default_k)
            name = self._name()
            reservation.grow(len(body))
            outcome = self._batcher.start(search, name)
        except (HTTPException, BadRequest, Overloaded):
            outcome = None
        if outcome is None:
            reservation.release()
            return None
        self.metrics.in_flight.add(1)
        self.metrics.queries.add(len(search.queries))
        exchange = _Exchange(name, started, reservation, outcome, on_reply)
        self._exchanges.add(exchange)
        seconds = self._limits.search_seconds
        timeout = SearchTimeout(f"The search took longer than {seconds:g} s.")
        exchange.timer = asyncio.get_running_loop().call_later(seconds, exchange.end, timeout)
        outcome.add_done_callback(lambda _: self._conclude(exchange))
        return outcome.cancel

    def _conclude(self, exchange: _Exchange) -> None:
        self._exchanges.discard(exchange)
        exchange.timer.cancel()
        status = _CLIENT_CLOSED
        try:
            if not exchange.outcome.cancelled():
                reply = self._reply(exchange)
                status = reply.status
                exchange.on_reply(reply)
        finally:
            if status != 200:  # else the answer may still be on its way
                exchange.reservation.release()
            self._count(status, exchange.started)

    def _reply(self, exchange: _Exchange) -> Reply:
        outcome, reservation = exchange.outcome.result(), exchange.reservation
        try:
            if isinstance(outcome, RetrievalError):
                raise outcome
            if (length := sum(map(len, outcome))) > self._limits.answer:
                raise too_long(self._limits.answer)
            reservation.grow(length)
        except RetrievalError as error:
            failure = self._failure(error, exchange.name)
            response = JSONResponse({"error": failure.detail}, failure.status_code, failure.headers)
            headers = [header for header in response.raw_headers if header[0] != b"content-length"]
            return Reply(response.status_code, headers, [bytes(response.body)], reservation.release)
        return Reply(200, self._raw_headers, join_rows(outcome), reservation.release)

    def cut_off(self) -> None:
        """Log that a client did not read its answer in time."""
        _logger.warning("A client did not read its answer within %g s.", self._limits.send_seconds)

    def _name(self) -> str:
        return f"{self._session}-{next(self._numbers)}"

    def _count(self, status: int, started: float) -> None:
        self.metrics.in_flight.add(-1)
        self.metrics.requests[status].add(1)
        self.metrics.seconds.observe(time.perf_counter() - started)

    async def _retrieve(self, request: Request) -> Response:
        started = time.perf_counter()
        reservation = Reservation(self._memory)
        self.metrics.in_flight.add(1)
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
            self._count(status, started)
        return response

    async def _answer(self, request: Request, reservation: Reservation) -> Response:
        self._access.require_host(request)
        self._access.require_token(request)
        # Before the body is read: the bodies of too many requests at once could fill the memory.
        if self.metrics.in_flight.total > self._limits.requests:
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
        self.metrics.queries.add(len(search.queries))
        rows = await self._search(search, reservation)
        return _Answer(rows, self._headers, self._limits.send_seconds, reservation.release)

    async def _search(self, search: SearchRequest, reservation: Reservation) -> list[bytes]:
        name = self._name()
        try:
            async with asyncio.timeout(self._limits.search_seconds):
                return await self._batcher.search(search, name, reserve=reservation.grow)
        except (TimeoutError, RetrievalError) as error:
            raise self._failure(error, name) from error

    def _failure(self, error: Exception, name: str) -> HTTPException:
        """Return what a client is told of a search that failed."""
        match error:
            case Overloaded():
                return HTTPException(503, f"{error} Try again later.", RETRY)
            case TooLong():
                return HTTPException(413, str(error))
            case TimeoutError() | SearchTimeout():
                return HTTPException(504, f"The search took longer than {self._limits.search_seconds:g} s.")
        # Its message may hold paths or secrets of this machine, which the log may have and clients may not.
        return HTTPException(500, f"The search failed. The server's log says why, at {name}.")

    async def _health(self, request: Request) -> Response:
        self._access.require_host(request)
        about = self._about if self._access.has_token(request) else {}
        self._refresh()
        if not self.metrics.stuck.total:
            return JSONResponse({"status": "ok", **about})
        return JSONResponse({"status": "unhealthy", **about}, 503)

    async def _show_metrics(self, request: Request) -> Response:
        self._access.require_host(request)
        self._access.require_token(request)
        self._refresh()
        lines = self.metrics.lines()
        return PlainTextResponse("\n".join([*lines, ""]), media_type="text/plain; version=0.0.4")


@dataclass(eq=False, slots=True)
class _Exchange:
    """A request on the short way."""

    name: str
    """Its name in the log."""
    started: float
    reservation: Reservation
    outcome: asyncio.Future[list[bytes] | RetrievalError]
    on_reply: Callable[[Reply], None]
    timer: asyncio.TimerHandle = field(init=False)
    """Runs out when the search has taken too long."""

    def end(self, error: RetrievalError) -> None:
        """Fail it, unless its search has ended."""
        if not self.outcome.done():
            self.outcome.set_result(error)


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
            if self._length <= PIECE:
                await send({"type": "http.response.body", "body": b"".join(self._parts)})
                return
            for piece in pieces(self._parts):
                async with asyncio.timeout(self._seconds):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:  # on return, uvicorn closes the connection
            _logger.warning("A client did not read its answer within %g s.", self._seconds)
        finally:
            self._on_sent()


async def _bug_reply(_: Request, error: Exception) -> Response:
    # Starlette raises the exception again after this reply, so that the server logs its traceback.
    name = secrets.token_hex(4)
    _logger.error("The request %s failed with this %s:", name, type(error).__name__)
    return JSONResponse({"error": f"The server failed. Its log says why, at {name}."}, 500)
