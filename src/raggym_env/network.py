"""What every outgoing connection shares: Retry-After headers, and whether the Hugging Face hub can be reached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["HubUnreachable", "hub_errors", "hub_model_commit", "hub_offline", "require_hub", "retry_after"]

# Asked before every download and with little patience: where there is no network, the hub's client retries for long.
_HUB_TIMEOUT_S = 10.0


class HubUnreachable(ConnectionError):
    """The hub does not answer, refuses, or may not be asked. The message is one line that follows "the hub: "."""


def retry_after(headers: Mapping[str, str]) -> float:
    """Parse Retry-After headers (RFC 9110, section 10.2.3, and OpenAI's in ms): seconds to wait, 0 without one."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return max(0.0, seconds) if seconds == seconds else 0.0
    try:
        return max(0.0, (parsedate_to_datetime(headers.get("retry-after", "")) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # TypeError: a date without a zone
        return 0.0


def hub_model_commit(name: str) -> str | None:
    """The newest commit of a model on the hub, asked for within 10 s.

    Raises:
        HubUnreachable: There is no network, no such model, or HF_HUB_OFFLINE is set.
        ImportError: `huggingface_hub` is not installed.
    """
    from huggingface_hub import HfApi

    if hub_offline():
        raise HubUnreachable(f"{name} was not downloaded before, and HF_HUB_OFFLINE is set")
    try:
        return HfApi().model_info(name, timeout=_HUB_TIMEOUT_S).sha
    except hub_errors() as error:
        raise HubUnreachable(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error


def require_hub() -> None:
    """Raise within 10 s where the hub's server cannot be reached. With HF_HUB_OFFLINE set, nothing is asked.

    Raises:
        HubUnreachable: It cannot.
    """
    import httpx

    if hub_offline():
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        httpx.head(endpoint, timeout=_HUB_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise HubUnreachable(f"{endpoint} cannot be reached ({error})") from error


def hub_errors() -> tuple[type[BaseException], ...]:
    """What a failed request to the hub may raise. Needs `huggingface_hub`."""
    from huggingface_hub.errors import HfHubHTTPError

    # HfHubHTTPError derives from the base error of the HTTP library in use, which differs between its versions.
    return (OSError, ValueError, *HfHubHTTPError.__bases__)


def hub_offline() -> bool:
    """True if the hub may not be asked: HF_HUB_OFFLINE is set, now or when the hub's own client was imported."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() not in ("", "0", "FALSE", "NO"):
        return True
    try:
        from huggingface_hub.constants import is_offline_mode
    except ImportError:
        return False
    return bool(is_offline_mode())
