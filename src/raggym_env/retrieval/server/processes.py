"""Several processes that serve one retriever on one port.

They share the listening socket, so that each connection goes to a process that is free to take it, and the files of the
index, which they map. Limits on requests and on memory hold for all of them together; those of `Batching` for each.
/metrics adds up what all of them count, and /health is "unhealthy" once one of them has no thread left.

The first process starts alone, as it may have to build the index. A process that ends ends the server: the others
answer what they have accepted, and the error says how it ended.
"""

# Started afresh, not forked: libraries with threads of their own (Lucene's JVM, torch, numba) do not survive a fork.

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from raggym_env.errors import RAGGymError, RetrievalError, check_option
from raggym_env.protocols import Retriever
from raggym_env.retrieval.server.metrics import Board
from raggym_env.retrieval.server.options import ServerOptions
from raggym_env.retrieval.server.server import check_installed, running, url_of

__all__ = ["serve_processes"]

Source = Callable[[], tuple[Retriever, ServerOptions]]
"""Makes the retriever in each process, and the options of its server."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection
    """Brings the number of passages, or why there is none; closing it asks the process to end."""


def serve_processes(
    source: Source, listener: socket.socket, processes: int, *, ready: Callable[[str, int | None], object]
) -> None:
    """Serve a retriever by several processes, until SIGTERM or SIGINT; then answer the accepted requests and return.

    Call it in the main thread. A second SIGINT ends the server at once.

    Args:
        source: Makes the retriever and its options. It is sent to each process, so it has to be picklable.
        listener: A bound socket, which is closed at the end.
        processes: How many processes.
        ready: Called with the URL and the number of passages in the options, once clients can connect.

    Raises:
        MissingExtra: Starlette or uvicorn is not installed.
        OptionError: `processes` is no whole number from 1.
        RetrievalError: A process could not start, or has ended by itself.
    """
    check_installed()
    valid = type(processes) is int and processes >= 1
    check_option("processes of a server", processes, valid, "a whole number, at least 1")
    url, passages = url_of(listener), None
    context = multiprocessing.get_context("spawn")
    memory = context.RawArray("B", Board.BYTES * processes)
    workers: list[_Worker] = []
    try:
        with listener:  # closed here, or connections that no process takes would wait in it at the end
            for count in (1, processes):
                numbers = range(len(workers), count)
                workers += [_start(context, (source, listener, memory, processes, number)) for number in numbers]
                for number in numbers:
                    passages = _passages(workers[number])
        _supervise(workers, lambda: ready(url, passages))
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


def _start(context: Any, arguments: tuple[Any, ...]) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(*arguments, theirs), name=f"raggym-server-{arguments[-1] + 1}")
    resource_tracker.ensure_running()  # else `start` would start it, which unblocks the signals
    with _blocked_signals():
        process.start()
    theirs.close()  # the process has its own; the pipe then ends with the process
    return _Worker(process, ours)


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block signals, so that a process started meanwhile never gets them.

    Ctrl-C and process managers send them to all processes of a group, but only this one may decide when to end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _passages(worker: _Worker) -> int | None:
    """Wait until a process serves; return its number of passages."""
    try:
        outcome = worker.pipe.recv()
    except EOFError:
        raise RetrievalError(_how_it_ended(worker)) from None
    if isinstance(outcome, str):
        raise RetrievalError(outcome)
    passages: int | None = outcome[0]
    return passages


def _supervise(workers: Sequence[_Worker], ready: Callable[[], object]) -> None:
    """Wait for a signal or the end of a process; then end all."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    handlers = {
        number: signal.signal(number, lambda number, _: writer.send_bytes(bytes([number]))) for number in _SIGNALS
    }
    try:
        ready()
        ended = wait([reader, *(worker.process.sentinel for worker in workers)])
        failed = [worker for worker in workers if worker.process.sentinel in ended]
        if reader in ended:
            reader.recv_bytes()
        for worker in workers:
            worker.pipe.close()
        while running_ones := [worker.process.sentinel for worker in workers if worker.process.is_alive()]:
            if reader in wait([reader, *running_ones]) and reader.recv_bytes() == bytes([signal.SIGINT]):
                return  # the caller kills them
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    failed += [worker for worker in workers if worker.process.exitcode and worker not in failed]
    if failed:
        raise RetrievalError(_how_it_ended(failed[0]))


def _how_it_ended(worker: _Worker) -> str:
    worker.process.join()
    code = worker.process.exitcode or 0
    cause = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return (
        f"The process {worker.process.pid} of the server ended {cause}, and so the server ended. Its output says why "
        "if it failed; a process that the system killed may have used too much memory: try fewer --processes."
    )


def _work(source: Source, listener: socket.socket, memory: Any, processes: int, number: int, pipe: Connection) -> None:
    """Serve in this process until the pipe is closed."""
    ending, serving = threading.Event(), threading.Event()

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
        ending.set()
        if not serving.is_set():
            os._exit(1)  # it may be building an index, which takes hours and cannot be asked to stop

    threading.Thread(target=watch, name="raggym-watch", daemon=True).start()
    try:
        retriever, options = source()
        with running(retriever, listener, options, board=Board(memory, processes, number)):
            serving.set()
            pipe.send((options.passages,))
            ending.wait()
    except RAGGymError as error:
        pipe.send(str(error))
