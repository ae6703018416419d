import importlib.util
from pathlib import Path

import pytest

from raggym_env.data.synth import SynthWorld

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "synth_difficulty.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("synth_difficulty", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("passages", [200, 5000])
def test_bridges_need_a_search_per_hop_and_nothing_more(benchmark, passages):
    table = benchmark.difficulty(SynthWorld(passages), questions=600, k=5)

    bridge = table["bridge, 2 hops"]
    assert bridge["all gold, question"] < 1 / 3
    assert bridge["first gold, question"] > 0.9
    assert bridge["all gold, titles"] > 0.95
    assert table["all"]["all gold, titles"] > 0.95
