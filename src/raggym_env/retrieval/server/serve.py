"""Any retriever over HTTP, in the wire format of Search-R1: `raggym serve`.

    POST /retrieve    see `raggym_env.retrieval.wire`
    GET /health       {"status": "ok", "retriever": "bm25", "fingerprint": "bm25-...", "passages": 12003}
    GET /metrics      Prometheus text

Requests that wait at the same time are searched for together: see `raggym_env.retrieval.server.batching`. What goes
wrong is answered with `{"error": "..."}`, and never with an empty result:

    400, 422    the body is no JSON object, or a field is wrong
    401         the token is missing or wrong
    408, 413    the body came too slowly, or is too long
    500         the retriever failed on these very queries
    503         more requests or queries wait than may; `Retry-After` says when to come again
    504         the search took too long

One process is one event loop and the search threads. To use more cores than that, run several servers, on ports of
their own, behind a proxy; one that faces other people's networks belongs behind a proxy anyway, for TLS and against
clients that send their headers slowly.
"""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from raggym_env.errors import MissingExtra, RetrievalError
from raggym_env.protocols import Retriever
from raggym_env.retrieval.server.batching import Batching
from raggym_env.retrieval.wire import Limits

__all__ = ["Batching", "Limits", "ServerOptions", "bind", "check_installed", "is_local", "running", "serve", "url_of"]

# A first search before anybody can connect loads what is loaded on demand, and shows a retriever that does not work.
_WARM_UP = ["warm up"] * 16
_LONGEST_HEADERS = 32 * 1024
_KEEP_ALIVE_SECONDS = 30


def check_installed() -> None:
    """Say what is missing before an index is built for nothing.

    Raises:
        MissingExtra: Starlette or uvicorn is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtra("A retrieval server", "serve") from error


def bind(host: str = "127.0.0.1", port: int = 8000) -> socket.socket:
    """A socket with that address, on which nobody can connect yet. Port 0 takes a free one.

    Raises:
        RetrievalError: The address cannot be had.
    """
    try:
        # With the protocol named, asyncio turns Nagle's algorithm off; else each answer would wait 40 ms for an ACK.
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:  # no such host, port, or name of a host
        raise _no_address(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        raise _no_address(host, port, error) from error
    return listener


def _no_address(host: str, port: int, error: Exception) -> RetrievalError:
    return RetrievalError(
        f"Cannot serve on {host} port {port}: {error}. Choose another address, or port 0, which takes a free one."
    )


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine can connect to the socket."""
    host = str(listener.getsockname()[0])
    return host == "::1" or host.startswith("127.")


def url_of(listener: socket.socket) -> str:
    """The URL of `/retrieve` on that socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/retrieve" if ":" in host else f"http://{host}:{port}/retrieve"


@dataclass(frozen=True)
class ServerOptions:
    """How a retriever is served."""

    name: str = ""
    """Of the retriever, for /health; by default its class."""
    passages: int | None = None
    """Size of its corpus, for /health."""
    default_k: int = 3
    """Passages per query where a request does not say: 3, as Search-R1's server is started in its examples."""
    token: str | None = field(default=None, repr=False)
    """What clients must send as `Authorization: Bearer TOKEN`."""
    limits: Limits = field(default_factory=Limits)
    """What is let in."""
    batching: Batching = field(default_factory=Batching)
    """How requests are put together."""
    grace: int = 60
    """Seconds for what was accepted to finish at the end; what has not by then is broken off."""

    def __post_init__(self) -> None:
        if not 1 <= self.default_k <= self.limits.topk:
            raise RetrievalError(f"default_k must be from 1 to {self.limits.topk}, got {self.default_k!r}.")
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise RetrievalError("A token is made of printable ASCII characters without spaces; the one given is not.")


def serve(
    retriever: Retriever,
    listener: socket.socket | None = None,
    options: ServerOptions | None = None,
    *,
    ready: Callable[[str], object] = print,
) -> None:
    """Serve a retriever until SIGTERM or SIGINT, then finish what was accepted and return. For the main thread.

    Args:
        retriever: What to search with.
        listener: A bound socket, by default `bind()`. It is closed at the end.
        options: By default `ServerOptions()`.
        ready: Called with the URL once clients can connect.

    Raises:
        MissingExtra: Starlette or uvicorn is not installed.
        RetrievalError: The address cannot be had, or the retriever fails on a first search.
    """
    with listener or bind() as listening, _ends_quietly():
        _server(retriever, listening, options or ServerOptions(), ready).run(sockets=[listening])


@contextmanager
def running(
    retriever: Retriever, listener: socket.socket | None = None, options: ServerOptions | None = None
) -> Iterator[str]:
    """Serve a retriever in a thread of its own while the context lasts, and give the URL of `/retrieve`.

    The listener is by default one with a free port on 127.0.0.1. For the rest see `serve`.
    """
    started = threading.Event()
    with listener or bind(port=0) as listening:
        server = _server(retriever, listening, options or ServerOptions(), lambda _: started.set())
        thread = threading.Thread(target=server.run, args=([listening],), name="raggym-server", daemon=True)
        thread.start()
        while not started.wait(0.02):
            if not thread.is_alive():
                raise RetrievalError(f"The server at {url_of(listening)} did not start; its log says why.")
        try:
            yield url_of(listening)
        finally:
            server.should_exit = True
            thread.join()


def _server(
    retriever: Retriever, listener: socket.socket, options: ServerOptions, ready: Callable[[str], object]
) -> Any:
    """A `uvicorn.Server` over the retriever, which has done its first search."""
    check_installed()
    from raggym_env.retrieval.server.app import RetrievalApp

    retriever.search(_WARM_UP, options.default_k)
    about = {"retriever": options.name or type(retriever).__name__, "passages": options.passages}
    app = RetrievalApp(
        retriever,
        default_k=options.default_k,
        limits=options.limits,
        batching=options.batching,
        token=options.token,
        about={key: value for key, value in about.items() if value is not None},
    )
    return _uvicorn(app.asgi, options.grace, lambda: ready(url_of(listener)))


def _uvicorn(app: Any, grace: int, ready: Callable[[], object]) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        app,
        http="h11",  # the one whose header size can be limited
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace,
        h11_max_incomplete_event_size=_LONGEST_HEADERS,
    )
    return Server(config)


@contextmanager
def _ends_quietly() -> Iterator[None]:
    """uvicorn finishes its work on a signal and then raises it again: an orderly end would look like a crash."""
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
