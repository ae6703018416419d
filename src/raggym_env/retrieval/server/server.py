"""Any retriever over HTTP, in the wire format of Search-R1: `raggym serve`.

    POST /retrieve    see `raggym_env.retrieval.wire`
    GET /health       {"status": "ok", "retriever": "bm25", "fingerprint": "bm25-...", "passages": 12003}
    GET /metrics      Prometheus text

Requests that wait at the same time are searched together: see `raggym_env.retrieval.server.batching`. Every failure
is answered with `{"error": "..."}`, and never with an empty result:

    400, 422    the body is not a JSON object, or a field is wrong or over its limit
    401         the token is missing or wrong
    403, 421    the request comes from a web page, or is for another host: see `raggym_env.retrieval.server.hosts`
    408         the body arrived too slowly
    413         the body or the answer is too long
    500         the retriever failed on these very queries; the log says how, under the name in the message
    503         too many requests or queries are waiting; `Retry-After` says when to try again
    504         the search took too long

A search that takes too long goes on in its thread, which cannot be ended, and another thread takes its place. Once no
thread is left, /health has the status 503 and says "unhealthy", so that a supervisor can restart the server.

One process has one event loop and the search threads. To use more cores, let `serve_processes` run several on one
port. A server that faces an untrusted network belongs behind a proxy anyway, for TLS and against clients
that send their headers slowly.
"""

from __future__ import annotations

import functools
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raggym_env.errors import MissingExtra, RetrievalError
from raggym_env.protocols import Retriever, search
from raggym_env.retrieval.server.metrics import Board
from raggym_env.retrieval.server.options import ServerOptions

__all__ = ["bind", "check_installed", "is_local", "running", "running_app", "serve", "serve_app", "url_of"]

# A first search before clients can connect: it loads what is loaded on demand, and fails if the retriever does not
# work. Sixteen queries, since `bm25` loads its kernel only for batches.
_WARM_UP = ["warm up"] * 16
_MAX_HEADER_BYTES = 32 * 1024
_BACKLOG = 2048  # connections that wait to be taken
_KEEP_ALIVE_SECONDS = 30
_PONG_SECONDS = 120  # a client that trains may be busy for a minute; one whose machine is gone never answers


def check_installed() -> None:
    """Check that the extra `serve` is installed, so that a missing one is reported before an index is built.

    Raises:
        MissingExtra: Starlette or uvicorn is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtra("A retrieval server", "serve") from error


def bind(host: str = "127.0.0.1", port: int = 8000) -> socket.socket:
    """Return a socket bound to that address, to which no client can connect yet. Port 0 takes a free port.

    Raises:
        RetrievalError: The address does not exist or is in use.
    """
    listener = None
    try:
        # asyncio turns Nagle's algorithm off only on sockets with an explicit TCP protocol; else each answer would
        # wait 40 ms for an acknowledgement.
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = addresses[0]
        listener = socket.socket(family, kind, protocol)
        # A restarted server need not wait until the old one's connections time out.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:  # the latter two: no possible port, no possible host name
        if listener is not None:
            listener.close()
        raise RetrievalError(
            f"Cannot serve on {host} port {port}: {error}. Choose another address, or port 0 for a free port."
        ) from error
    return listener


def is_local(listener: socket.socket) -> bool:
    """Return True if only this machine can connect to the socket."""
    host = str(listener.getsockname()[0])
    return host == "::1" or host.startswith("127.")


def url_of(listener: socket.socket, path: str = "/retrieve") -> str:
    """Return the URL of a path on that socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"


def serve(
    retriever: Retriever,
    listener: socket.socket | None = None,
    options: ServerOptions | None = None,
    *,
    ready: Callable[[str], object] = print,
) -> None:
    """Serve a retriever until SIGTERM or SIGINT, then answer the accepted requests and return.

    Call it in the main thread, which is the one that receives signals; elsewhere use `running`. The listener is by
    default `bind()`, and is closed at the end. `ready` is called with the URL once clients can connect.

    Raises:
        MissingExtra: Starlette or uvicorn is not installed.
        RetrievalError: The address is in use, or the retriever fails on a first search.
    """
    options = options or ServerOptions()
    with listener or bind() as listening:
        app, settings = _application(retriever, listening, options)
        serve_app(app, listening, ready=lambda: ready(url_of(listening)), **settings)


def serve_app(app: Any, listener: socket.socket, *, ready: Callable[[], object], **settings: Any) -> None:
    """Serve an ASGI application until SIGTERM or SIGINT; `ready` is called once clients can connect.

    The settings are those of `running_app`.
    """
    server = _server(app, listener, ready, **settings)
    # uvicorn finishes its work on a signal and then raises the signal again, which would end the process as if it had
    # crashed. These handlers receive the second one.
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def running(
    retriever: Retriever,
    listener: socket.socket | None = None,
    options: ServerOptions | None = None,
    board: Board | None = None,
) -> Iterator[str]:
    """Serve a retriever in a background thread while the context lasts; yields the URL of `/retrieve`.

    The listener is by default a free port on 127.0.0.1. Errors and arguments are those of `serve`; `board` is for one
    of several processes on the same listener, whose numbers are added up.
    """
    options = options or ServerOptions()
    with listener or bind(port=0) as listening:
        app, settings = _application(retriever, listening, options, board)
        if board is not None:
            settings["backlog"] = 1  # connections that asyncio takes at once, which other processes then do not get
        with running_app(app, listening, **settings):
            listening.listen(_BACKLOG)
            yield url_of(listening)


@contextmanager
def running_app(app: Any, listener: socket.socket, **settings: Any) -> Iterator[None]:
    """Serve an ASGI application in a background thread while the context lasts.

    Args:
        app: The application.
        listener: A bound socket.
        settings: `grace`, the seconds that accepted requests have to finish; `message_bytes`, the size of a WebSocket's
            messages, without which there are no WebSockets; `drain`, which is called with `grace` and awaited
            before connections are closed; `protocol`, the class of the connections, which reads HTTP by h11; and
            `backlog`, the number of connections that may wait to be taken, and that are taken at once.

    Raises:
        RetrievalError: The server did not start.
    """
    started = threading.Event()
    server = _server(app, listener, started.set, **settings)
    thread = threading.Thread(target=server.run, args=([listener],), name="raggym-server", daemon=True)
    thread.start()
    while not started.wait(0.02):
        if not thread.is_alive():  # uvicorn logs a failed start and returns
            raise RetrievalError(f"The server at {url_of(listener, '/')} did not start; its log says why.")
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def _application(
    retriever: Retriever, listener: socket.socket, options: ServerOptions, board: Board | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the application over a retriever, and the settings of its server, after a first search."""
    check_installed()
    from raggym_env.retrieval.server.app import RetrievalApp  # imports Starlette
    from raggym_env.retrieval.server.hosts import AllowedHosts
    from raggym_env.retrieval.server.protocol import RetrieveProtocol

    hosts = None if options.token else AllowedHosts(listener.getsockname()[0], options.hosts)
    search(retriever, _WARM_UP, options.default_k)
    app = RetrievalApp(retriever, options, hosts, board)
    return app.asgi, {"grace": options.grace, "protocol": functools.partial(RetrieveProtocol, app)}


def _server(
    app: Any,
    listener: socket.socket,
    ready: Callable[[], object],
    *,
    grace: int = 60,
    protocol: Any = "h11",
    backlog: int = _BACKLOG,
    message_bytes: int | None = None,
    drain: Callable[[float], Awaitable[None]] | None = None,
) -> Any:
    """Return a `uvicorn.Server` of an application."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            if drain is not None:
                for server in self.servers:
                    server.close()  # no new connections
                await drain(grace)
            await super().shutdown(sockets)

    sockets: dict[str, Any] = {"ws": "none"}
    if message_bytes is not None:
        sockets = {
            "ws": "websockets-sansio",
            "ws_max_size": message_bytes,
            "ws_ping_timeout": _PONG_SECONDS,
            "ws_per_message_deflate": False,  # a short message could expand to a long one
        }
    config = uvicorn.Config(
        app,
        http=protocol,  # h11 is the implementation whose header size can be limited
        lifespan="on",
        log_config=None,  # the user's logging configuration stays as it is
        access_log=False,  # /metrics counts requests at a lower cost
        proxy_headers=False,  # nothing here depends on the client's address
        server_header=False,
        backlog=backlog,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        **sockets,
    )
    return Server(config)
