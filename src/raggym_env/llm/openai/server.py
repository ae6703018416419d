"""The settings of a server and its model, and how many requests it gets at a time."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raggym_env.errors import LLMError, OptionError, check_option
from raggym_env.network.keys import Key, check_key_env, read_key
from raggym_env.network.urls import is_plain_url

__all__ = ["Server", "Window", "split_name"]

_OFFICIAL = "https://api.openai.com/v1"
_FORM = "openai:MODEL@http://HOST:PORT/v1"
# The scheme is part of the separator: a model's name may contain an @.
_SEPARATOR = re.compile(r"@(?=https?://)", re.IGNORECASE)


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
    """Environment variable that holds the key; None or "" sends no key. One of `network.keys.KEY_ENVS`, one whose name
    starts with RAGGYM_, or one listed in $RAGGYM_KEY_ENVS."""
    n_supported: bool | Literal["auto"] = "auto"
    """Whether one request may ask for several completions. "auto" tries, and remembers if the server refuses."""
    system_role: bool = True
    """Whether the model accepts a system message. False puts its text at the start of the user's message."""
    max_bytes: int = 32 << 20
    """Maximum length of a reply, decompressed."""

    def __post_init__(self) -> None:
        number = int | float
        for name, valid, expected in (
            ("model", bool(self.model), "a name"),
            ("concurrency", isinstance(self.concurrency, int) and self.concurrency >= 1, "a whole number from 1"),
            ("timeout", isinstance(self.timeout, number) and self.timeout > 0, "above 0"),
            ("retries", isinstance(self.retries, int) and self.retries >= 0, "a whole number from 0"),
            ("backoff", isinstance(self.backoff, number) and self.backoff >= 0, "0 or more"),
            ("n_supported", self.n_supported in (True, False, "auto"), 'true, false or "auto"'),
            ("system_role", isinstance(self.system_role, bool), "true or false"),
            ("max_bytes", isinstance(self.max_bytes, int) and self.max_bytes >= 1, "a whole number from 1"),
        ):
            check_option(name, getattr(self, name), valid, expected)
        if self.key_env:
            check_key_env("key_env", self.key_env)
        # The next two may hold a secret, so the messages do not repeat them.
        if not is_plain_url(self.url):
            raise OptionError("url must be like http://host:8000/v1, without user, password, query or fragment.")
        try:
            json.dumps(self.extra_body, allow_nan=False)
        except (TypeError, ValueError):
            raise OptionError("extra_body must contain JSON values only.") from None
        key = self.key()  # checked now, before anything is sent
        if self.official and not key:
            raise LLMError(f"{_OFFICIAL} needs a key: set {self.key_env or 'OPENAI_API_KEY'} in the environment.")

    @property
    def official(self) -> bool:
        """True for OpenAI's own endpoint."""
        return self.url.startswith(_OFFICIAL)

    def key(self) -> Key:
        """Return the key from the environment, false if there is none. Raises `LLMError` if no key can look like it."""
        try:
            return read_key(self.key_env)
        except OptionError as error:
            raise LLMError(f"Cannot connect to {self.url}: {error}") from None


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
    """Split `MODEL@URL` into model and URL. The default URL is `$OPENAI_BASE_URL`, or else OpenAI's.

    Raises:
        OptionError: The model is missing, or the server is not given as a URL. Such a name must never reach the default
            server, which would get prompts and a key that were meant for another one.
    """
    *models, url = _SEPARATOR.split(name)
    model = "@".join(models)
    if not models:
        model, url = name, os.environ.get("OPENAI_BASE_URL") or _OFFICIAL
        if "@" in name or "://" in name:
            # The name may hold a secret where a password could be, so only a plain one is repeated.
            plain = re.fullmatch(r"([\w./:-]+)@([\w.-]+(:\d+)?(/[\w./-]*)?)", name, re.ASCII)
            example = f"openai:{plain[1]}@http://{plain[2]}" if plain else _FORM
            raise OptionError(
                f"A server's model is named like {example}, with http:// or https:// before the host and a model "
                "before the @. If the @ belongs to the model's name, add the URL too."
            )
        if not is_plain_url(url):
            raise OptionError(
                "$OPENAI_BASE_URL must be like http://host:8000/v1, without user, password, query or fragment."
            )
    if "://" in model:
        raise OptionError(f"A server's model is named like {_FORM}, with one URL, at the end.")
    return model, url.rstrip("/")
