"""The settings of a server and its model, and how many requests it gets at a time."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raggym_env.errors import LLMError, OptionError, check_option
from raggym_env.network import is_plain_url

__all__ = ["Server", "Window", "split_name"]

_OFFICIAL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Server:
    """A model behind a URL, and how to send requests. Holds no key, so it may be stored and sent to other processes."""

    model: str
    """The server's name of the model."""
    url: str
    """The server's URL up to and including `/v1`, without user, password, query and fragment."""
    concurrency: int = 16
    """Maximum number of requests in flight, over all threads; at least 1. Fewer after a time-out: see `Window`."""
    timeout: float = 300.0
    """Seconds for one attempt as a whole: connecting, waiting in the server's queue and reading the reply."""
    retries: int = 5
    """Attempts after the first; 0 or more."""
    backoff: float = 0.5
    """Seconds before the first retry, less a random part of up to a half. Doubles with each retry, up to 30."""
    extra_body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Fields to add to every request; they override ours."""
    omit: Sequence[str] = ()
    """Fields never to send, for models that refuse them (some refuse `temperature`)."""
    key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; None sends no key."""
    n_supported: bool | Literal["auto"] = "auto"
    """Whether one request may ask for several completions. "auto" tries, and remembers if the server refuses."""

    def __post_init__(self) -> None:
        number = int | float
        for name, valid, expected in (
            ("model", bool(self.model), "a name"),
            ("concurrency", isinstance(self.concurrency, int) and self.concurrency >= 1, "a whole number from 1"),
            ("timeout", isinstance(self.timeout, number) and self.timeout > 0, "above 0"),
            ("retries", isinstance(self.retries, int) and self.retries >= 0, "a whole number from 0"),
            ("backoff", isinstance(self.backoff, number) and self.backoff >= 0, "0 or more"),
            ("n_supported", self.n_supported in (True, False, "auto"), 'true, false or "auto"'),
        ):
            check_option(name, getattr(self, name), valid, expected)
        # The next two may hold a secret, so the messages do not repeat them.
        if not is_plain_url(self.url):
            raise OptionError("url must be like http://host:8000/v1, without user, password, query or fragment.")
        try:
            json.dumps(self.extra_body, allow_nan=False)
        except (TypeError, ValueError):
            raise OptionError("extra_body must contain JSON values only.") from None
        if self.official and not self.key():
            raise LLMError(f"{_OFFICIAL} needs a key: set {self.key_env or 'OPENAI_API_KEY'} in the environment.")

    @property
    def official(self) -> bool:
        """True for OpenAI's own endpoint."""
        return self.url.startswith(_OFFICIAL)

    def key(self) -> str | None:
        """Return the key from the environment; None if there is none."""
        return os.environ.get(self.key_env) or None if self.key_env else None


class Window:
    """Limits the requests in flight to `most`, or to fewer while the server does not keep up.

    Like TCP's congestion window in slow start (RFC 5681): one request at a time after an attempt that took all of
    `timeout` seconds, and one more with every reply in less than a quarter of it. Used as `async with window:`, on one
    event loop only.
    """

    # Many servers work on one request after the other, and finish those that nobody waits for any more. Sending as many
    # again after a time-out only makes their queue longer, until no reply comes in time.

    def __init__(self, most: int, timeout: float) -> None:
        self.most = most
        self.timeout = timeout
        self.width = most
        self._places = most  # taken and free ones together
        self._free = asyncio.Semaphore(most)

    async def __aenter__(self) -> None:
        await self._free.acquire()
        # A place that was free when the window narrowed is given up, and another one awaited.
        while self._places > self.width:
            self._places -= 1
            await self._free.acquire()

    async def __aexit__(self, *_: object) -> None:
        # Releases one place if the width is unchanged, none if it narrowed, and more if it grew.
        self._places -= 1
        while self._places < self.width:
            self._places += 1
            self._free.release()

    def learn(self, seconds: float, *, replied: bool) -> None:
        """Adapt the width to how long an attempt took. Call it before its place is released."""
        if seconds > 0.99 * self.timeout:  # clocks differ a little: a time-out may end just before `timeout`
            self.width = 1
        elif replied and seconds < self.timeout / 4:
            self.width = min(self.width + 1, self.most)


def split_name(name: str) -> tuple[str, str]:
    """Split `MODEL@URL` into model and URL. The default URL is `$OPENAI_BASE_URL`, or else OpenAI's."""
    for scheme in ("@https://", "@http://"):  # the scheme is part of the separator: a model's name may contain an @
        model, at, rest = name.rpartition(scheme)
        if at:
            return model, (scheme[1:] + rest).rstrip("/")
    if "://" in name:
        raise OptionError("A server's model is named like openai:MODEL@http://host:8000/v1: the model is missing.")
    return name, (os.environ.get("OPENAI_BASE_URL") or _OFFICIAL).rstrip("/")
