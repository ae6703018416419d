"""SIGTERM and SIGHUP, as exceptions: what cleans up after Ctrl-C cleans up after them, too."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["exit_code", "signals_raised"]


class _Ended(KeyboardInterrupt):
    """A signal told the process to end. `args` is the signal's number."""


@contextmanager
def signals_raised() -> Iterator[None]:
    """While the context lasts, raise a `KeyboardInterrupt` on SIGTERM and SIGHUP; see `exit_code`.

    A signal that is ignored (`nohup` ignores SIGHUP) or handled already stays as it is.
    """
    handlers = {}
    process = os.getpid()

    def end(number: int, frame: Any) -> None:
        if os.getpid() != process:  # a forked child, which must end as if this handler did not exist
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise _Ended(number)

    # Only the main thread may set handlers. Windows has no SIGHUP.
    for name in ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            handlers[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def exit_code(interruption: KeyboardInterrupt) -> int:
    """Return the exit code of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (interruption.args[0] if isinstance(interruption, _Ended) else signal.SIGINT)
