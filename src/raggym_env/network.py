"""When a server wants to be asked again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["retry_after"]


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait, 0 if the server does not say (RFC 9110, section 10.2.3, and OpenAI's milliseconds)."""
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
