"""A retriever behind a URL: `raggym serve`, or any other server that speaks the Search-R1 format.

    retrieval.make("http", corpus, url="http://127.0.0.1:8000/retrieve")

What goes wrong, and what then happens:

    no connection, one that breaks off, 429, 502, 503, 504    tried again, later each time and never before
                                                              `Retry-After`; then `RetrievalError`
    a time-out, any other status, an answer that is not as    `RetrievalError`, at once
    the format says

So a server that does not keep up is not asked again for what it is still at, and an empty result always means that
the server found nothing.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import json
import os
import random
import re
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx

from raggym_env.core import Passage
from raggym_env.errors import IndexMismatch, RetrievalError
from raggym_env.network import retry_after
from raggym_env.protocols import Hit
from raggym_env.retrieval.requests import check_request
from raggym_env.retrieval.wire import FINGERPRINT_HEADER, TOKEN_ENV, read_results

__all__ = ["HTTPRetriever"]

_CONNECT_SECONDS = 10.0
_LONGEST_BACKOFF = 10.0
_LONGEST_RETRY_AFTER = 60.0
_KEEP_ALIVE_SECONDS = 15.0  # less than servers do, so that a request does not meet a connection that is closing
_TRY_AGAIN = (429, 502, 503, 504)


class HTTPRetriever:
    """Searches by asking a server. Thread-safe; may be copied and sent to other processes, with its options only.

    The passages are the server's, ids and all: the corpus of the environment is not read, and may well be a part of
    the server's, or an excerpt. What `raggym serve` serves comes out exactly as it is in its corpus. A passage of
    another server is read from `contents`, the title being its first line, without the quotes around it.

    The server is asked for its /health when this object is made. `raggym serve` says its retriever's fingerprint
    there, and with every result: if it changes, the search is refused, since results of two indexes are not to be
    mixed. Of another server nothing is known, and its URL is the fingerprint.

    Proxies of the environment (`HTTPS_PROXY` ...) are used, except for this machine itself. Redirects are not
    followed.

    Args:
        corpus: Not read.
        url: Of `/retrieve`; one without a path is completed.
        timeout: Seconds that one try may take.
        retries: Tries after the first, where the table above has them tried again.
        backoff: Seconds before the first retry, less up to a half of it by chance. Doubles with each, up to 10.
        token_env: Environment variable with the token to send, if it is set. Its name starts with RAGGYM_: a card of
            somebody else cannot have your other secrets sent to its server.
        max_queries: Queries in one request; more are sent in several, one after the other.
        connections: Requests at the same time, over all threads.
        max_bytes: Of an answer; a longer one is refused.

    Raises:
        RetrievalError: An option cannot be right, or the server cannot be reached.
    """

    fingerprint: str
    """The server's own, or a hash of its URL."""

    def __init__(
        self,
        corpus: Sequence[Passage] | None = None,
        *,
        url: str,
        timeout: float = 30.0,
        retries: int = 4,
        backoff: float = 0.25,
        token_env: str = TOKEN_ENV,
        max_queries: int = 256,
        connections: int = 64,
        max_bytes: int = 64 * 2**20,
    ) -> None:
        self._options = _Options(
            _complete(url), timeout, retries, backoff, token_env, max_queries, connections, max_bytes
        )
        self._client, self._owner = self._open()
        self._served = self._ask_fingerprint()
        by_url = hashlib.blake2b(self._options.url.encode(), digest_size=8).hexdigest()
        self.fingerprint = self._served or f"http-{by_url}"

    def __repr__(self) -> str:
        return f"HTTPRetriever(url={self._options.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(HTTPRetriever, **asdict(self._options)), ()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`. Half characters in a query (lone surrogates) are sent as U+FFFD.

        Raises:
            RetrievalError: Names the URL and what came back. No partial result is returned.
            IndexMismatch: The server has another index than when this object was made.
        """
        check_request(queries, k)
        size = self._options.max_queries
        found: list[list[Hit]] = []
        for start in range(0, len(queries), size):
            found += self._ask(queries[start : start + size], k)
        return found

    def close(self) -> None:
        """Close the connections. The next search opens new ones."""
        self._client.close()
        self._owner = 0

    def _ask(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        body = json.dumps({"queries": [_whole(query) for query in queries], "topk": k, "return_scores": True})
        reply = self._send("POST", self._options.url, body.encode())
        if reply.status != 200:
            hint = f" Is {self._options.token_env} set, and right?" if reply.status in (401, 403) else ""
            raise RetrievalError(f"{self._options.url} answered with {reply.said()}{hint}")
        served = reply.headers.get(FINGERPRINT_HEADER)
        if self._served and served and served != self._served:
            raise IndexMismatch(
                f"{self._options.url} served {self._served!r} before, and now {served!r}. Start again with a new "
                "retriever: results of both must not be mixed."
            )
        try:
            return read_results(reply.body, len(queries), k)
        except ValueError as error:
            raise RetrievalError(f"{self._options.url}: the answer {error}.") from error

    def _ask_fingerprint(self) -> str | None:
        reply = self._send("GET", urljoin(self._options.url, "health"))
        try:
            fingerprint = json.loads(reply.body)["fingerprint"] if reply.status == 200 else None
        except (ValueError, LookupError, TypeError, RecursionError):  # another server
            return None
        return fingerprint if isinstance(fingerprint, str) else None

    def _send(self, method: str, url: str, body: bytes | None = None) -> _Reply:
        """The reply, after as many tries as it takes; one of the statuses to try again is none."""
        trouble, after = "", 0.0
        for number in range(self._options.retries + 1):
            if number:
                time.sleep(max(after, _pause(self._options.backoff, number)))
            try:
                reply = self._try(method, url, body)
            except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
                raise RetrievalError(f"{url} did not answer within {self._options.timeout:g} s.") from error
            except httpx.TransportError as error:
                trouble, after = f"{type(error).__name__}: {error}", 0.0
                continue
            except httpx.RequestError as error:  # an encoding that is not what it says
                raise RetrievalError(f"{url}: the answer cannot be read: {error}") from error
            if reply.status not in _TRY_AGAIN:
                return reply
            trouble, after = reply.said(), retry_after(reply.headers)
            if after > _LONGEST_RETRY_AFTER:
                break
        raise RetrievalError(f"{url} cannot be had, tried {number + 1} times: {trouble}")

    def _try(self, method: str, url: str, body: bytes | None) -> _Reply:
        if self._owner != os.getpid():  # after a fork, connections would be shared
            self._client, self._owner = self._open()
        deadline = time.monotonic() + self._options.timeout
        content = bytearray()
        with self._client.stream(method, url, content=body) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > self._options.max_bytes:
                    raise RetrievalError(f"{url}: the answer is longer than {self._options.max_bytes:,} bytes.")
                if time.monotonic() > deadline:  # it comes in drops, each in time
                    raise httpx.ReadTimeout("")
        return _Reply(response.status_code, response.headers, bytes(content))

    def _open(self) -> tuple[httpx.Client, int]:
        """A client, and the process that may use it."""
        client = _client(self._options)
        weakref.finalize(self, client.close)
        return client, os.getpid()


@dataclass(frozen=True, slots=True)
class _Options:
    url: str
    timeout: float
    retries: int
    backoff: float
    token_env: str
    max_queries: int
    connections: int
    max_bytes: int

    def __post_init__(self) -> None:
        for name, fine, wanted in (
            ("timeout", self.timeout > 0, "above 0"),
            ("retries", self.retries >= 0, "0 or more"),
            ("backoff", self.backoff >= 0, "0 or more"),
            ("token_env", re.fullmatch(r"RAGGYM_[A-Z0-9_]+", self.token_env), "a name that starts with RAGGYM_"),
            ("max_queries", self.max_queries >= 1, "1 or more"),
            ("connections", self.connections >= 1, "1 or more"),
            ("max_bytes", self.max_bytes >= 1, "1 or more"),
        ):
            if not fine:
                raise RetrievalError(f"{name} of the 'http' retriever must be {wanted}, got {getattr(self, name)!r}.")


class _Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def said(self) -> str:
        """The status, and what the server wrote in explanation."""
        try:
            content = json.loads(self.body)
            reason = content.get("error") or content.get("detail") or content
        except (ValueError, AttributeError, RecursionError):
            reason = self.body[:200].decode("utf-8", "replace")
        return f"{self.status}: {reason!s:.500}"


def _complete(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        secret = parts.username or parts.password or parts.query or parts.fragment
    except (ValueError, TypeError, AttributeError):  # no text; or a port that is no number
        fine, secret = False, None
    if not fine or secret:
        raise RetrievalError(  # it may hold a password, so it is not repeated
            "url of the 'http' retriever must be like http://host:8000/retrieve, without user, password, query or "
            "fragment."
        )
    return url if parts.path.strip("/") else f"{url.rstrip('/')}/retrieve"


def _client(options: _Options) -> httpx.Client:
    token = os.environ.get(options.token_env)
    if token and not (token.isascii() and token.isprintable()):
        raise RetrievalError(f"{options.token_env} holds characters that no token has. Is there a line break in it?")
    try:
        return httpx.Client(
            headers={"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})},
            timeout=httpx.Timeout(options.timeout, connect=min(options.timeout, _CONNECT_SECONDS), pool=None),
            limits=httpx.Limits(
                max_connections=options.connections,
                max_keepalive_connections=options.connections,
                keepalive_expiry=_KEEP_ALIVE_SECONDS,
            ),
            trust_env=not _is_this_machine(urlsplit(options.url).hostname or ""),
        )
    except (ImportError, ValueError) as error:  # proxies of the environment that httpx cannot use
        raise RetrievalError(f"No client for {options.url} can be made: {error}") from error


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _whole(query: str) -> str:
    """The query as any JSON parser takes it."""
    if query.isascii():
        return query
    return query.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _pause(backoff: float, retry: int) -> float:
    """Seconds before this retry, counted from 1. By chance, so that clients that failed together come apart."""
    return float(min(_LONGEST_BACKOFF, backoff * 2 ** (retry - 1)) * random.uniform(0.5, 1.0))
