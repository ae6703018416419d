"""Which model behind which server, how it is asked, and how much at a time."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from raggym_env.errors import LLMError

__all__ = ["Server", "Window", "split_name"]

_OFFICIAL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Server:
    """Which model, where, and how it is asked. Holds no key, so it may be stored and sent to other processes."""

    model: str
    url: str
    """Up to and including `/v1`."""
    concurrency: int = 16
    """Requests under way at most, over all threads that share the model; at least 1. Fewer after a time-out: see
    `Window`."""
    timeout: float = 300.0
    """Seconds that one try may take: connecting, waiting in the server's queue and all."""
    retries: int = 5
    """Tries after the first; 0 or more."""
    backoff: float = 0.5
    """Seconds before the first retry, less up to a half of it by chance. Doubles with each, up to 30."""
    extra_body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Fields to add to every request, over our own."""
    omit: Sequence[str] = ()
    """Fields never to send, for models that refuse them (`temperature` for some)."""
    key_env: str | None = "OPENAI_API_KEY"
    """Environment variable of the key; None sends none."""
    n_supported: bool | Literal["auto"] = "auto"
    """Whether one request may ask for many completions. "auto" asks, and remembers if the server will not."""

    def __post_init__(self) -> None:
        for name, fine, wanted in (
            ("model", bool(self.model), "a name"),
            (
                "url",
                _is_plain_url(self.url),
                "like http://host:8000/v1, without user, password, query or fragment",
            ),
            ("concurrency", isinstance(self.concurrency, int) and self.concurrency >= 1, "a whole number from 1"),
            ("timeout", isinstance(self.timeout, int | float) and self.timeout > 0, "a number above 0"),
            ("retries", isinstance(self.retries, int) and self.retries >= 0, "a whole number from 0"),
            ("backoff", isinstance(self.backoff, int | float) and self.backoff >= 0, "a number from 0"),
            ("extra_body", _is_json(self.extra_body), "made of what JSON can hold"),
            ("n_supported", self.n_supported in (True, False, "auto"), 'true, false or "auto"'),
        ):
            if not fine:
                # These two may hold a secret, so they are not repeated.
                given = "" if name in ("url", "extra_body") else f", got {getattr(self, name)!r}"
                raise LLMError(f"{name} of an openai: model must be {wanted}{given}.")
        if self.official and not self.key():
            raise LLMError(f"{_OFFICIAL} needs a key: set {self.key_env or 'OPENAI_API_KEY'} in the environment.")

    @property
    def official(self) -> bool:
        """Whether it is OpenAI's own."""
        return self.url.startswith(_OFFICIAL)

    def key(self) -> str | None:
        """The key, read from the environment and not kept."""
        return os.environ.get(self.key_env) or None if self.key_env else None


class Window:
    """How many requests may be under way: `most`, or fewer while the server does not keep up.

    Many servers work on one request after the other, and finish those that nobody waits for any more. To send as
    many again after a time-out only makes their queue longer, until no reply comes in time. So after a try that took
    all of `timeout` there is one request at a time, and one more with every reply that took less than a quarter of it,
    like TCP's congestion window in slow start (RFC 5681).

    Used on one event loop only, as `async with window:`.
    """

    def __init__(self, most: int, timeout: float) -> None:
        self.most = most
        self.timeout = timeout
        self.width = most
        self._places = most  # those taken and those free
        self._free = asyncio.Semaphore(most)

    async def __aenter__(self) -> None:
        await self._free.acquire()
        while self._places > self.width:  # this one was free when the window narrowed
            self._places -= 1
            await self._free.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._places -= 1
        while self._places < self.width:
            self._places += 1
            self._free.release()

    def learn(self, seconds: float, *, replied: bool) -> None:
        """Note how long a try took, before its place is left."""
        if seconds > 0.99 * self.timeout:
            self.width = 1
        elif replied and seconds < self.timeout / 4:
            self.width = min(self.width + 1, self.most)


def split_name(name: str) -> tuple[str, str]:
    """Model and URL of `MODEL@URL`. Without a URL it is `$OPENAI_BASE_URL`, or else OpenAI's."""
    for scheme in ("@https://", "@http://"):  # a model's name may have an @ of its own
        model, at, rest = name.rpartition(scheme)
        if at:
            return model, (scheme[1:] + rest).rstrip("/")
    if "://" in name:
        raise LLMError("A server's model is named like openai:MODEL@http://host:8000/v1: the model is missing.")
    return name, (os.environ.get("OPENAI_BASE_URL") or _OFFICIAL).rstrip("/")


def _is_plain_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        secret = parts.username or parts.password or parts.query or parts.fragment
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not secret and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def _is_json(value: object) -> bool:
    try:
        return bool(json.dumps(value))
    except (TypeError, ValueError):
        return False
