"""The Hugging Face hub: whether it answers, and downloads from it, bounded in time and size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from raggym_env.network.keys import Key
from raggym_env.network.urls import is_hub_name, is_plain_url

__all__ = ["HubUnreachable", "hub_errors", "hub_offline", "hub_snapshot", "require_hub"]

# The hub is probed with this little patience before every download: without a network its own client retries for long.
_HUB_TIMEOUT_S = 10.0
# A name in somebody else's card must not fill the disk. Larger models are downloaded by `hf download`, and then found.
_MAX_SNAPSHOT = 64 << 30
_MAX_PAGE = 1 << 24


class HubUnreachable(ConnectionError):
    """The hub does not answer, refuses the request, or must not be contacted. The message is one line."""


def hub_snapshot(name: str, **options: Any) -> Path:
    """Download a model from the hub with `snapshot_download`; return its folder, which is named by its commit.

    Args:
        name: OWNER/NAME, or NAME alone for the hub's oldest models.
        options: Of `snapshot_download`, such as `allow_patterns`.

    Raises:
        HubUnreachable: There is no network, no such model, it is too large, or HF_HUB_OFFLINE is set. Without a
            network that takes 10 s at most.
        ImportError: `huggingface_hub` is not installed.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    if not is_hub_name(name, owner=False):
        raise HubUnreachable(f"{name!r:.100} is not the name of a model on the hub, OWNER/NAME")
    if hub_offline():
        raise HubUnreachable(f"{name} was not downloaded before, and HF_HUB_OFFLINE is set")
    try:
        # The hub's client retries for minutes where there is no network; asking for the commit fails within 10 s.
        info = HfApi().model_info(name, timeout=_HUB_TIMEOUT_S, files_metadata=True)
        patterns = {key: options[key] for key in ("allow_patterns", "ignore_patterns") if key in options}
        files = filter_repo_objects(info.siblings or (), **patterns, key=lambda file: file.rfilename)
        size = sum(file.size or 0 for file in files)
        if size <= _MAX_SNAPSHOT:
            return Path(snapshot_download(name, revision=info.sha, **options))
    except hub_errors() as error:
        raise HubUnreachable(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error
    raise HubUnreachable(
        f"{name} has {size / 1e9:,.0f} GB, and more than {_MAX_SNAPSHOT / 1e9:,.0f} GB are not downloaded unasked. To "
        f"download it: hf download {name}"
    )


def require_hub() -> None:
    """Raise `HubUnreachable` within 10 s if the hub's server does not answer. Sends nothing under HF_HUB_OFFLINE."""
    from raggym_env.network.clients import Client, RequestFailed

    if hub_offline():
        return
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if not is_plain_url(endpoint):
        raise HubUnreachable("$HF_ENDPOINT must be like https://host, without user, password, query or fragment")
    try:
        client = Client(endpoint, Key(None), timeout=_HUB_TIMEOUT_S, connections=1, max_bytes=_MAX_PAGE)
        client.send("HEAD", "")
        client.close()
    except RequestFailed as error:
        # Any reply will do: what counts is that something answers.
        if error.kind not in ("too long", "unreadable"):
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
