"""Fixtures shared by all tests. No test uses the network or the user's own cache."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from raggym_env.models import catalogue

REPOSITORY = Path(__file__).parents[1]
SLOW_FILE = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)
PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
if PARALLEL:
    # Set before torch is imported: with more threads than idle cores it is many times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A job in the background is born deaf to Ctrl-C, and one of `nohup` to the end of its terminal; so would be the
# processes that tests send these signals to.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
# Looked up before the session gets a cache of its own. Only read.
SMALL_MODEL = catalogue.folder("smollm2")
SMALL_ENCODER = catalogue.folder("minilm")


# The same examples every time: a change is blamed for what it broke, not for what chance found.
# How long they take to make says more about the machine than about the test.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files of slow tests where slow tests are deselected: most import torch, which takes seconds."""
    if collection_path.suffix != ".py" or "not slow" not in config.option.markexpr:
        return None
    return SLOW_FILE.search(collection_path.read_text(encoding="utf-8")) is not None or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that parallel workers finish at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # stable: the tests of a file stay together


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    # Parallel workers share one cache, so that each corpus and index is prepared once, under the library's own locks.
    os.environ["RAGGYM_CACHE"] = str((folder.parent if PARALLEL else folder) / "raggym-cache")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: `$RAGGYM_DATA`, or `shared/data` beside the checkout. Skips without it."""
    for folder in (os.environ.get("RAGGYM_DATA"), REPOSITORY.parent / "shared" / "data"):
        if folder and (path := Path(folder).expanduser()).is_dir():
            return path
    pytest.skip("needs the real data sets: set RAGGYM_DATA to their folder")


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The folder of SmolLM2-135M-Instruct in the user's cache. Skips without it, or without torch."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    if SMALL_MODEL is None:
        pytest.skip("needs the small model: raggym models get smollm2")
    torch.set_num_threads(1)  # with more threads than idle cores it is many times slower
    return SMALL_MODEL


@pytest.fixture(scope="session")
def small_encoder() -> Path:
    """The folder of all-MiniLM-L6-v2 in the user's cache. Skips without it, or without sentence-transformers."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    if SMALL_ENCODER is None:
        pytest.skip("needs the small encoder: raggym models get minilm")
    torch.set_num_threads(1)
    return SMALL_ENCODER
