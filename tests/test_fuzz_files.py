"""A few changes of every kind of file that the library reads; `benchmarks/fuzz_files.py` makes thousands."""

import importlib.util
import sys
from pathlib import Path

import pytest

path = Path(__file__).parents[1] / "benchmarks" / "fuzz_files.py"
spec = importlib.util.spec_from_file_location("fuzz_files", path)
fuzz_files = importlib.util.module_from_spec(spec)
sys.modules["fuzz_files"] = fuzz_files
spec.loader.exec_module(fuzz_files)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and pipes are those of Linux")
SLOW = {"dense", "lucene", "hf model", "corpus file", "run", "resumed run", "process data"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in fuzz_files.KINDS]
)
def test_no_change_of_a_file_kills_hangs_or_raises_an_error_of_another_type(kind):
    if not fuzz_files.available(fuzz_files.KINDS[kind]):
        pytest.skip("needs an optional dependency")
    tally = fuzz_files.run(kind, 12)
    assert tally.bad == []
    assert sum(tally.outcomes.values()) == 12
