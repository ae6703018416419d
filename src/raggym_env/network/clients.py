"""The one kind of HTTP client, for models and retrieval, in a sync and an async form.

loopback             never through a proxy; elsewhere the proxies of the environment are used
redirects            never followed, so that a key and a prompt reach no other server
time                 one deadline over connecting, sending, the headers and the body; a byte now and then does not
                     extend it
size                 `max_bytes` holds for the body as it arrives and after decompression; a body is decompressed no
                     further than that
keys                 removed from every message; no exception holds the request
"""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpcore
import httpx

from raggym_env.network.keys import Key
from raggym_env.network.urls import is_loopback

__all__ = ["CONNECT_TIMEOUT_S", "AsyncClient", "Client", "RequestFailed", "Response"]

CONNECT_TIMEOUT_S = 10.0
"""Seconds that connecting to a server may take, however long its replies may."""

# uvicorn, and so vLLM and SGLang, closes a connection that was idle for 5 s. A request sent on it at that moment fails.
_KEEP_ALIVE_S = 4.0
_WRITTEN_AT_ONCE = 1 << 16

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_ENCODINGS = {"": None, "identity": None, "gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16}

Kind = Literal["settings", "unreachable", "timeout", "broken", "unreadable", "too long"]
_C = TypeVar("_C", httpx.Client, httpx.AsyncClient)


class RequestFailed(ConnectionError):
    """A request got no complete response. The message is one line, without a key.

    `kind` is "settings" (a proxy or certificate of the environment cannot be used), "unreachable" (no connection, so
    nothing was sent), "timeout", "broken" (the connection), "unreadable" (the compression) or "too long".
    """

    def __init__(self, message: str, kind: Kind = "broken") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """Decompressed."""

    @property
    def text(self) -> str:
        """The body as text. Bytes that are not UTF-8 become U+FFFD."""
        return self.body.decode("utf-8", "replace")


class Client:
    """Sends requests to one server. Thread-safe; not to be used after a fork.

    Args:
        url: The server. The URLs of requests may be relative to it.
        key: Sent with every request.
        timeout: Seconds for one request as a whole, without the time it waits for a free connection.
        connections: Maximum number of connections. More requests wait.
        max_bytes: Maximum length of a body.

    Raises:
        RequestFailed: A proxy or certificate file of the environment cannot be used.
    """

    def __init__(self, url: str, key: Key, *, timeout: float, connections: int, max_bytes: int) -> None:
        self.key, self.timeout, self.max_bytes = key, timeout, max_bytes
        self._places = threading.Semaphore(connections)
        self._client = _open(httpx.Client, url, key, timeout, connections)
        # httpx has no deadline for a request: its time-outs start again with every byte. Its connections are made by
        # this object, which can know one.
        client: Any = self._client
        for transport in (client._transport, *client._mounts.values()):
            if transport is not None:
                transport._pool._network_backend = _DeadlineBackend()

    def send(self, method: str, url: str, content: bytes | None = None) -> Response:
        """Send a request, as JSON if it has a content, and return the response, whatever its status.

        Raises:
            RequestFailed: There is no complete response.
        """
        with self._places:
            token = _deadline.set(time.monotonic() + self.timeout)
            try:
                with self._client.stream(method, url, content=content, headers=_headers(content)) as response:
                    body = _Body(response, self.max_bytes)
                    for chunk in response.iter_raw():
                        body.add(chunk)
                return body.response()
            except _ERRORS as error:
                failure = _failure(error, self.key, self.timeout)
            finally:
                _deadline.reset(token)
        raise failure  # here, where the caught error, which knows the request, is not its context

    def close(self) -> None:
        """Close the connections. The client cannot be used any more."""
        self._client.close()


class AsyncClient:
    """As `Client`, for one event loop. A request that waits for a free connection uses up its time."""

    def __init__(self, url: str, key: Key, *, timeout: float, connections: int, max_bytes: int) -> None:
        self.key, self.timeout, self.max_bytes = key, timeout, max_bytes
        self._client = _open(httpx.AsyncClient, url, key, timeout, connections)

    async def send(self, method: str, url: str, content: bytes | None = None) -> Response:
        """As `Client.send`."""
        try:
            async with (
                asyncio.timeout(self.timeout),
                self._client.stream(method, url, content=content, headers=_headers(content)) as response,
            ):
                body = _Body(response, self.max_bytes)
                async for chunk in response.aiter_raw():
                    body.add(chunk)
            return body.response()
        except _ERRORS as error:
            failure = _failure(error, self.key, self.timeout)
        raise failure

    async def aclose(self) -> None:
        """As `Client.close`."""
        await self._client.aclose()


def _open(kind: Callable[..., _C], url: str, key: Key, timeout: float, connections: int) -> _C:
    loopback = is_loopback(httpx.URL(url).host)
    if not loopback:
        _check_proxies()
    problem = None
    try:
        return kind(
            base_url=url,
            # Only what `_Body` can decompress within a limit.
            headers={"Accept-Encoding": "gzip", **key.headers},
            # pool=None: a request may wait for a free connection as long as it takes.
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT_S), pool=None),
            limits=httpx.Limits(
                max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_KEEP_ALIVE_S
            ),
            follow_redirects=False,
            trust_env=not loopback,
            # Certificates of the environment (SSL_CERT_FILE) count for this machine too.
            verify=httpx.create_ssl_context(),
        )
    except OSError as error:
        problem = f"the certificates in $SSL_CERT_FILE or $SSL_CERT_DIR cannot be read: {error.strerror or error}"
    except (ImportError, ValueError, httpx.InvalidURL):
        # Without the reason, which may quote the password of a proxy.
        problem = "the proxies of the environment ($HTTPS_PROXY, $ALL_PROXY, $NO_PROXY, ...) cannot be used"
    raise RequestFailed(problem, "settings")


def _check_proxies() -> None:
    """Raise `RequestFailed` for a proxy of the environment that cannot be used. The message does not repeat it."""
    proxies = getproxies()
    for name in ("http", "https", "all"):
        if not (url := proxies.get(name)):
            continue
        variable = f"${name.upper()}_PROXY"
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            clear = url.isprintable() and not {" ", "\\"} & set(url)
            valid = clear and parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:  # e.g. a port that is not a number
            valid = False
        if not valid:
            raise RequestFailed(
                f"the proxy in {variable} is not of the form http://HOST:PORT or socks5://HOST:PORT", "settings"
            )
        if parts.scheme.startswith("socks") and find_spec("socksio") is None:
            raise RequestFailed(
                f'{variable} is a SOCKS proxy. Unset it, or install what that needs: pip install "httpx[socks]"',
                "settings",
            )


def _headers(content: bytes | None) -> dict[str, str]:
    return {} if content is None else {"Content-Type": "application/json"}


class _Body:
    """Collects the body of a response, decompressed, within a limit."""

    def __init__(self, response: httpx.Response, max_bytes: int) -> None:
        self._head = response
        self._max_bytes = max_bytes
        self._content = bytearray()
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise RequestFailed(
                f"the reply is compressed in a way that was not asked for, {encoding!r:.40}", "unreadable"
            )
        bits = _ENCODINGS[encoding]
        self._gzip = zlib.decompressobj(bits) if bits else None
        announced = response.headers.get("content-length", "")
        self._check(int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else 0)

    def add(self, chunk: bytes) -> None:
        if self._gzip:
            # One byte more than allowed shows that there is more, and the rest is never decompressed.
            chunk = self._gzip.decompress(chunk, self._max_bytes - len(self._content) + 1)
        self._content += chunk
        self._check(len(self._content))

    def response(self) -> Response:
        if self._gzip and self._content and not self._gzip.eof:
            raise RequestFailed("the compressed reply breaks off", "broken")
        return Response(self._head.status_code, self._head.headers, bytes(self._content))

    def _check(self, length: int) -> None:
        if length > self._max_bytes:
            raise RequestFailed(f"the reply is longer than {self._max_bytes:,} bytes", "too long")


_ERRORS = (RequestFailed, TimeoutError, httpx.RequestError, httpx.InvalidURL, httpx.StreamError, zlib.error)


def _failure(error: Exception, key: Key, timeout: float) -> RequestFailed:
    """Return what is told of an error."""
    if isinstance(error, RequestFailed):
        return error
    if isinstance(error, TimeoutError | httpx.ReadTimeout | httpx.WriteTimeout):
        return RequestFailed(f"no reply within {timeout:g} s", "timeout")
    kind: Kind = "unreadable"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        kind = "unreachable"
    elif isinstance(error, httpx.TransportError):
        kind = "broken"
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return RequestFailed(" ".join(key.masked(reason).split())[:500], kind)


_deadline: ContextVar[float] = ContextVar("deadline")


def _seconds(timeout: float | None) -> float:
    """Return the time-out of one operation, which ends at the deadline of its request at the latest."""
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the deadline has passed")
    return left if timeout is None else min(timeout, left)


class _DeadlineBackend(httpcore.NetworkBackend):
    """Makes the connections of a sync client."""

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._backend.connect_tcp(host, port, _seconds(timeout), local_address, socket_options)
        return _DeadlineStream(stream)


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose operations end at the deadline of the request that they belong to."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _seconds(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITTEN_AT_ONCE):
            self._stream.write(buffer[start : start + _WRITTEN_AT_ONCE], _seconds(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, _seconds(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()
