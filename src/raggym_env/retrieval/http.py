"""A retriever behind a URL: `raggym serve`, or any other server that speaks the Search-R1 format.

    retrieval.make("http", corpus, url="http://127.0.0.1:8000/retrieve")

Failures:

    no connection, a broken one, 429, 502, 503, 504    retried with growing delays, never before `Retry-After`; then
                                                       `RetrievalError`
    a time-out, any other status, a malformed answer   `RetrievalError`, at once

A time-out is not retried, so that an overloaded server does not get the same search twice. An empty result always
means that the server found nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import time
import weakref
from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, fields
from typing import Any
from urllib.parse import urljoin, urlsplit

from raggym_env.core import Passage
from raggym_env.errors import IndexMismatch, OptionError, RetrievalError, check_option
from raggym_env.network.clients import Client, RequestFailed, Response
from raggym_env.network.keys import check_key_env, read_key
from raggym_env.network.urls import is_plain_url, retry_after
from raggym_env.protocols import Hit
from raggym_env.retrieval.requests import check_request
from raggym_env.retrieval.wire import FINGERPRINT_HEADER, TOKEN_ENV, read_results
from raggym_env.storage.parsing import ParseError, parse_json

__all__ = ["HTTPRetriever"]

_MAX_BACKOFF = 10.0  # seconds
_MAX_RETRY_AFTER = 60.0  # seconds; a server that asks for more is reported as unavailable
_RETRIED = (429, 502, 503, 504)
_MAX_HITS = 8192  # passages in one request
_random = random.Random()  # not the module's functions, whose draws belong to the caller


@dataclass(eq=False, repr=False)
class HTTPRetriever:
    """Searches by requests to a server. Thread-safe. Copies, also in other processes, open connections of their own.

    Passages are the server's, with their ids: the environment's corpus is not read, and may be a part of the server's.
    From `raggym serve` they arrive exactly as they are in its corpus. Another server's are read in all forms of
    `raggym_env.retrieval.wire.read_results`.

    The constructor requests /health, where `raggym serve` reports its retriever's fingerprint, as it does with every
    result. If the fingerprint changes, searches fail, since results of two indexes must not be mixed. Other servers
    report none; then the URL stands for it.

    Proxies of the environment (`HTTPS_PROXY` ...) are used, except for this machine. Redirects are not followed.

    Raises:
        OptionError: An option is out of range, or the token is malformed.
        RetrievalError: The server cannot be reached.
    """

    corpus: InitVar[Sequence[Passage] | None] = None
    """Not read, and not stored."""
    _: KW_ONLY
    url: str
    """URL of `/retrieve`, which is added if the URL has no path."""
    timeout: float = 30.0
    """Seconds that one attempt may take."""
    retries: int = 4
    """Attempts after the first, for the failures that are retried."""
    backoff: float = 0.25
    """Seconds before the first retry. Doubles with each, up to 10; a random part of up to a half is subtracted."""
    token_env: str = TOKEN_ENV
    """Environment variable with the token to send, if it is set. Its name must start with RAGGYM_, or be listed in
    $RAGGYM_KEY_ENVS: otherwise a card from somebody else could have your other secrets sent to its server."""
    max_queries: int = 256
    """Queries in one request, fewer where each is to have more than 32 passages. More are sent in several requests, one
    after the other."""
    connections: int = 64
    """Maximum number of requests at the same time, over all threads."""
    max_bytes: int = 64 * 2**20
    """Maximum length of an answer, decompressed; a longer one is a failure."""

    def __post_init__(self, corpus: Sequence[Passage] | None) -> None:
        # URLs are logged and written to records, so they must hold no secret. The message repeats none either.
        if not is_plain_url(self.url):
            raise OptionError(
                "url of the 'http' retriever must be like http://host:8000/retrieve, without user, password, query or "
                "fragment."
            )
        if not urlsplit(self.url).path.strip("/"):
            self.url = f"{self.url.rstrip('/')}/retrieve"
        for kind, expected, names in (
            (int, "a whole number", ("retries", "max_queries", "connections", "max_bytes")),
            (int | float, "a number", ("timeout", "backoff")),
            (str, "a text", ("token_env",)),
        ):
            for name in names:
                value = getattr(self, name)
                is_kind = isinstance(value, kind) and not isinstance(value, bool)
                check_option(f"{name} of the 'http' retriever", value, is_kind, expected)
        for name, valid, expected in (
            ("timeout", self.timeout > 0, "above 0"),
            ("retries", self.retries >= 0, "0 or more"),
            ("backoff", self.backoff >= 0, "0 or more"),
            ("max_queries", self.max_queries >= 1, "1 or more"),
            ("connections", self.connections >= 1, "1 or more"),
            ("max_bytes", self.max_bytes >= 1, "1 or more"),
        ):
            check_option(f"{name} of the 'http' retriever", getattr(self, name), bool(valid), expected)
        check_key_env("token_env of the 'http' retriever", self.token_env, known=())
        self._open()
        self._served = self._served_fingerprint()
        self.fingerprint = self._served or f"http-{hashlib.blake2b(self.url.encode(), digest_size=8).hexdigest()}"
        """The served retriever's fingerprint, or a hash of the URL."""

    def __repr__(self) -> str:
        return f"HTTPRetriever(url={self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **{item.name: getattr(self, item.name) for item in fields(self)}), ()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`. Half of a surrogate pair in a query is sent as U+FFFD.

        Raises:
            RetrievalError: Names the URL and the answer. No partial result is returned.
            IndexMismatch: The server's index has changed since this object was made.
        """
        check_request(queries, k)
        size = min(self.max_queries, max(1, _MAX_HITS // k))
        starts = range(0, len(queries), size)
        return [hits for start in starts for hits in self._request(queries[start : start + size], k)]

    def close(self) -> None:
        """Close the connections. The next search opens new ones."""
        self._client.close()
        self._owner = 0

    def _request(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        # json.dumps would escape half of a surrogate pair, which strict parsers such as ours refuse.
        texts = [query.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for query in queries]
        body = json.dumps({"queries": texts, "topk": k, "return_scores": True})
        reply = self._send("POST", self.url, body.encode())
        if reply.status != 200:
            hint = f" Is {self.token_env} set, and correct?" if reply.status in (401, 403) else ""
            raise RetrievalError(f"{self.url} answered with {self._summary(reply)}{hint}")
        served = reply.headers.get(FINGERPRINT_HEADER)
        if self._served and served and served != self._served:
            raise IndexMismatch(
                f"{self.url} served {self._served!r} before, and now {served!r}. Start again with a new retriever: "
                "results of both must not be mixed."
            )
        try:
            return read_results(reply.body, len(queries), k)
        except ValueError as error:
            # Masked, since it may quote the answer.
            raise RetrievalError(f"{self.url}: the answer {self._client.key.masked(str(error))}.") from None

    def _served_fingerprint(self) -> str | None:
        reply = self._send("GET", urljoin(self.url.rstrip("/"), "health"))
        try:
            fingerprint = parse_json(reply.body)["fingerprint"] if reply.status == 200 else None
        except (ParseError, LookupError, TypeError):  # not the /health of `raggym serve`
            return None
        return fingerprint if isinstance(fingerprint, str) else None

    def _send(self, method: str, url: str, body: bytes | None = None) -> Response:
        """Return the first reply whose status is not one of those that are retried."""
        failure, after = "", 0.0
        for attempt in range(self.retries + 1):
            if attempt:
                # Random, so that clients that failed at the same time do not retry at the same time.
                pause = min(_MAX_BACKOFF, self.backoff * 2 ** (attempt - 1)) * _random.uniform(0.5, 1.0)
                time.sleep(max(after, pause))
            try:
                if self._owner != os.getpid():  # closed; or after a fork, where two processes would share connections
                    self._open()
                reply = self._client.send(method, url, body)
            except RequestFailed as error:
                if error.kind == "timeout":
                    raise RetrievalError(f"{url} did not answer within {self.timeout:g} s.") from error
                if error.kind not in ("unreachable", "broken"):
                    raise RetrievalError(f"{url}: the answer cannot be read: {error}.") from error
                failure, after = str(error), 0.0
                continue
            if reply.status not in _RETRIED:
                return reply
            failure, after = self._summary(reply), retry_after(reply.headers)
            if after > _MAX_RETRY_AFTER:
                break
        raise RetrievalError(f"{url} is not available, tried {attempt + 1} times: {failure}")

    def _summary(self, reply: Response) -> str:
        """Return the status and the server's error message."""
        text = self._client.key.masked(reply.text)
        try:
            content = parse_json(text)
            reason = content.get("error") or content.get("detail") or content  # "detail": FastAPI
        except (ParseError, AttributeError):
            reason = text[:200]
        return f"{reply.status}: {reason!s:.500}"

    def _open(self) -> None:
        try:
            self._client = Client(
                self.url,
                read_key(self.token_env),
                timeout=self.timeout,
                connections=self.connections,
                max_bytes=self.max_bytes,
            )
        except RequestFailed as error:
            raise RetrievalError(f"The HTTP client for {self.url} cannot be created: {error}.") from error
        self._owner = os.getpid()
        weakref.finalize(self, self._client.close)
