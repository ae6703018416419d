"""What the addresses and headers of servers mean: checked URLs, this machine's own names, Retry-After."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

__all__ = ["is_hub_name", "is_loopback", "is_plain_url", "retry_after"]

# White space, control characters and backslashes: parsers of URLs disagree on what host such a text names.
_AMBIGUOUS = re.compile(r"[\s\\\x00-\x1f\x7f-\x9f]")
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
# The hub's own rule. Dots stand alone and inside a part, so that no part is `..`.
_HUB_NAME = re.compile(r"(?!.*(?:\.\.|--))(?:\w(?:[\w.-]{0,94}\w)?/)?\w(?:[\w.-]{0,94}\w)?", re.ASCII)


def is_plain_url(url: str) -> bool:
    """True for an http or https URL without user, password, query and fragment, so that it holds no secret."""
    try:
        parts = urlsplit(url)
        secret = "@" in parts.netloc or "?" in url or "#" in url
        unclear = _AMBIGUOUS.search(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and not secret
            and not unclear
            and parts.port != 0
        )
    except (ValueError, TypeError, AttributeError):  # a port that is not a number, or not a string at all
        return False


def is_loopback(host: str) -> bool:
    """True if a host, in any spelling, is this machine: `localhost`, `127.0.0.2`, `127.1`, `::1`, `0.0.0.0`, ..."""
    name = host.strip("[]").rstrip(".").lower()
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(name))  # 127.1, 2130706433, 0x7f.0.0.1
        except (OSError, ValueError):  # a name; ValueError: with characters that no host has
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    # The unspecified address is that of a server which listens on every interface, and a client's way to reach it.
    return address.is_loopback or address.is_unspecified


def is_hub_name(name: str, *, owner: bool = True) -> bool:
    """True for OWNER/NAME as the Hugging Face hub allows it: no part begins with a dot or holds two in a row.

    >>> is_hub_name("BAAI/bge-small-en-v1.5"), is_hub_name("owner/.."), is_hub_name("gpt2", owner=False)
    (True, False, True)

    Args:
        name: The text.
        owner: False also accepts the hub's oldest models and data sets, whose names have no owner.
    """
    return _HUB_NAME.fullmatch(name) is not None and ("/" in name or not owner)


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
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a time zone; OverflowError: 64 bits
        return 0.0
