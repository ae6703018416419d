"""The options of a server."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from raggym_env.errors import OptionError, check_option
from raggym_env.retrieval.server.hosts import AllowedHosts
from raggym_env.retrieval.wire import Limits

__all__ = ["Batching", "ServerOptions"]


@dataclass(frozen=True)
class Batching:
    """How requests are combined into searches.

    Raises:
        OptionError: A value is out of range.
    """

    size: int = 512
    """Maximum number of queries in one search."""
    wait: float = 0.002
    """Maximum seconds that a search is delayed for further requests, in [0, 1]. A single client is never delayed."""
    waiting: int = 16_384
    """Maximum number of queries waiting for a search. A request that would exceed it is answered with 503."""
    threads: int = 1
    """Searches at the same time. More help a retriever that releases the interpreter lock, as Lucene does."""
    spares: int = 4
    """Threads that take the place of those whose search hangs. The hanging search and the next ones then run at the
    same time: 0 for a retriever that no two threads may call at once."""

    def __post_init__(self) -> None:
        for name in ("size", "waiting", "threads"):
            value = getattr(self, name)
            valid = type(value) is int and value >= 1
            check_option(f"{name} of a server's batching", value, valid, "a whole number, at least 1")
        spares, wait = self.spares, self.wait
        check_option("spares of a server's batching", spares, type(spares) is int and spares >= 0, "a whole number")
        valid = isinstance(wait, int | float) and 0 <= wait <= 1
        check_option("wait of a server's batching", wait, valid, "in [0, 1] seconds")


@dataclass(frozen=True)
class ServerOptions:
    """How a retriever is served.

    Raises:
        OptionError: An option is out of range.
    """

    name: str = ""
    """The retriever's name in /health; by default its class."""
    passages: int | None = None
    """Number of passages in its corpus, for /health; None leaves it out."""
    default_k: int = 3
    """Passages per query if a request does not say: 3, as in the examples of Search-R1's server."""
    token: str | None = field(default=None, repr=False)
    """The token that clients must send as `Authorization: Bearer TOKEN`; None for none."""
    hosts: tuple[str, ...] = ()
    """Further host names that the server answers for, without a port; "*" for any. Of use only without a token: see
    `raggym_env.retrieval.server.hosts`."""
    limits: Limits = field(default_factory=Limits)
    """Maximum number, size and duration of requests."""
    batching: Batching = field(default_factory=Batching)
    """How requests are combined into searches."""
    grace: int = 60
    """Seconds that accepted requests have to finish when the server ends; then they are cancelled."""

    def __post_init__(self) -> None:
        topk = self.limits.topk
        AllowedHosts("127.0.0.1", self.hosts)  # raises for a name that is none
        check_option("default_k", self.default_k, 1 <= self.default_k <= topk, f"from 1 to {topk}")
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise OptionError("token must be printable ASCII characters without spaces.")  # its value is a secret
