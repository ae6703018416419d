"""Connecting to a Ray cluster, or starting a private one for a run."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from raggym_env.errors import MissingExtra, RunError

__all__ = ["connected"]

_CONNECT_SECONDS = 10.0
_STORE_BYTES = 100 * 2**20  # records pass through it and do not stay


@contextmanager
def connected(address: str, cpus: int | None) -> Iterator[Any]:
    """Connect this process to Ray while the context lasts, and yield the module `ray`.

    An existing connection is used and left open. A connection that is made here is closed; a Ray that was started here
    is stopped and its logs are removed.

    Args:
        address: As `Workers.ray`.
        cpus: Number of workers that a Ray started here has room for; None for one per core.

    Raises:
        MissingExtra: Ray is not installed.
        RunError: It cannot be started or reached.
    """
    if address != "local":
        _require_reachable(address)
    with _environment(_private() if address == "local" else {}):
        try:
            import ray
        except ImportError as error:
            raise MissingExtra("--ray", "ray") from error
        if ray.is_initialized():
            # A process can be connected to one Ray at a time.
            current = ray.get_runtime_context().gcs_address
            if address not in ("auto", current):
                raise RunError(
                    f'This process is already connected to the Ray at {current}. Use that ("auto"), or close it first.'
                )
            yield ray
            return
    # The path of a socket may have 107 characters, of which Ray needs 62 and the folder's own name 20.
    short = os.name == "nt" or len(tempfile.gettempdir()) <= 24
    folder = None if short else "/tmp"  # noqa: S108  # the folder made in it is private
    with tempfile.TemporaryDirectory(prefix="raggym-ray-", dir=folder, ignore_cleanup_errors=True) as logs:
        try:
            _connect(ray, address, cpus, logs)
            yield ray
        finally:
            ray.shutdown()


@functools.cache  # Ray reads a token once in a process
def _private() -> dict[str, str]:
    """Return environment variables, read when Ray is imported and started, that keep it private to this process."""
    return {
        # Despite its name it works on Linux, where it is 1: with 0 Ray listens on 127.0.0.1, not on all interfaces.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # Ray's own would be written to the home folder, for all to read
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _connect(ray: Any, address: str, cpus: int | None, logs: str) -> None:
    from ray.exceptions import RayError

    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
        options |= {"_temp_dir": logs}
    # Ray sets a handler that ends the process at once, instead of the program's own.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _environment(_private() if address == "local" else {}):
            ray.init(**options)
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise _unreachable(address, f"{error}") from error


def _unreachable(address: str, why: str) -> RunError:
    if address == "local":
        return RunError(f"Ray could not be started on this machine: {why}")
    return RunError(
        f"No Ray cluster can be joined at {address!r}: {why} Use HOST:PORT or auto on a machine of the cluster, "
        "ray://HOST:10001 from elsewhere, or local for a Ray of its own."
    )


def _require_reachable(address: str) -> None:
    """Raise `RunError` at once for an address that Ray would retry for minutes."""
    if address == "auto":
        return
    client, bare = address.startswith("ray://"), address.removeprefix("ray://")
    try:
        host, port = urlsplit(f"//{bare}").hostname, urlsplit(f"//{bare}").port
    except ValueError:
        host = port = None
    if not host or not (port or client):
        raise _unreachable(address, "it is neither HOST:PORT nor ray://HOST:PORT.")
    try:
        socket.create_connection((host, port or 10001), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, f"{error}.") from error


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, while the context lasts."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
