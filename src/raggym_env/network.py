"""What all outgoing connections share: client settings, Retry-After headers, checked URLs, and the Hugging Face hub."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raggym_env.errors import OptionError

__all__ = [
    "CONNECT_TIMEOUT_S",
    "HubUnreachable",
    "client_options",
    "hub_errors",
    "hub_model_commit",
    "hub_offline",
    "hub_requests",
    "hub_snapshot",
    "is_plain_url",
    "require_hub",
    "retry_after",
]

CONNECT_TIMEOUT_S = 10.0
"""Seconds that connecting to a server may take, however long its replies may."""

# uvicorn, and so vLLM and SGLang, closes a connection that was idle for 5 s. A request sent on it at that moment fails.
_KEEP_ALIVE_S = 4.0
# The hub is probed with this little patience before every download: without a network its own client retries for long.
_HUB_TIMEOUT_S = 10.0


class HubUnreachable(ConnectionError):
    """The hub does not answer, refuses the request, or must not be contacted. The message is one line."""


def is_plain_url(url: str) -> bool:
    """True for an http or https URL without user, password, query and fragment, so that it holds no secret."""
    try:
        parts = urlsplit(url)
        secret = parts.username or parts.password or parts.query or parts.fragment
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not secret and parts.port != 0
    except (ValueError, TypeError, AttributeError):  # a port that is not a number, or not a string at all
        return False


def client_options(url: str, token_env: str | None, *, timeout: float, connections: int) -> dict[str, Any]:
    """Return the keyword arguments of an `httpx.Client` or `httpx.AsyncClient` that talks to one server.

    Args:
        url: The server; requests may use paths relative to it.
        token_env: Environment variable whose value, if it is set, is sent as `Authorization: Bearer`.
        timeout: Seconds without a byte sent or received. Not a limit on the whole request.
        connections: Maximum number of connections, in use and idle together.

    Raises:
        OptionError: The token has characters that no header can have. The message does not repeat it.
    """
    import httpx

    token = os.environ.get(token_env, "") if token_env else ""
    if not (token.isascii() and token.isprintable()):
        raise OptionError(f"{token_env} has characters that no HTTP header can have. Is there a line break in it?")
    # Proxies of the environment (HTTPS_PROXY, ...) are used, except for this machine itself. By httpx's default, no
    # redirect is followed, so the token reaches no other server.
    host = urlsplit(url).hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {token}"} if token else {},
        # pool=None: a request may wait for a free connection as long as it takes.
        "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT_S), pool=None),
        "limits": httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_KEEP_ALIVE_S
        ),
        "trust_env": not loopback,
    }


def retry_after(headers: Mapping[str, str]) -> float:
    """Parse Retry-After headers (RFC 9110, section 10.2.3, and OpenAI's in ms): seconds to wait, 0 without one."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return max(0.0, seconds) if seconds == seconds else 0.0  # "nan" parses as a float
    try:
        return max(0.0, (parsedate_to_datetime(headers.get("retry-after", "")) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # TypeError: a date without a time zone
        return 0.0


@contextmanager
def hub_requests() -> Iterator[None]:
    """Turn the errors of the hub's client into `HubUnreachable`, whose message has their first line."""
    try:
        yield
    except hub_errors() as error:
        raise HubUnreachable(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error


def hub_model_commit(name: str) -> str | None:
    """Return the newest commit of a model on the hub, within 10 s.

    Raises:
        HubUnreachable: There is no network, no such model, or HF_HUB_OFFLINE is set.
        ImportError: `huggingface_hub` is not installed.
    """
    from huggingface_hub import HfApi

    if hub_offline():
        raise HubUnreachable(f"{name} was not downloaded before, and HF_HUB_OFFLINE is set")
    with hub_requests():
        return HfApi().model_info(name, timeout=_HUB_TIMEOUT_S).sha


def hub_snapshot(name: str, **options: Any) -> Path:
    """Download a model from the hub with `snapshot_download`; return its folder. Raises as `hub_model_commit` does."""
    from huggingface_hub import snapshot_download

    # The hub's client retries for minutes where there is no network; asking for the commit fails within 10 s.
    commit = hub_model_commit(name)
    with hub_requests():
        return Path(snapshot_download(name, revision=commit, **options))


def require_hub() -> None:
    """Raise `HubUnreachable` within 10 s if the hub's server does not answer. Sends nothing under HF_HUB_OFFLINE."""
    import httpx

    if hub_offline():
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        # Any status will do: what counts is that something answers.
        httpx.head(endpoint, timeout=_HUB_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise HubUnreachable(f"{endpoint} cannot be reached ({error})") from error


def hub_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions that a failed request to the hub may raise. Needs `huggingface_hub`."""
    from huggingface_hub.errors import HfHubHTTPError

    # HfHubHTTPError derives from the base error of the HTTP library in use, which differs between its versions.
    return (OSError, ValueError, *HfHubHTTPError.__bases__)


def hub_offline() -> bool:
    """True if the hub must not be contacted: HF_HUB_OFFLINE is set, now or when the hub's own client was imported."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() not in ("", "0", "FALSE", "NO"):
        return True
    try:
        from huggingface_hub.constants import is_offline_mode
    except ImportError:
        return False
    return bool(is_offline_mode())
