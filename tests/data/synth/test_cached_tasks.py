import itertools

import pytest

from raggym_env.data.synth import SynthWorld, generate_tasks
from raggym_env.data.synth.cached_tasks import cached_tasks
from raggym_env.errors import DataError
from raggym_env.storage.paths import cache_dir


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path))
    return SynthWorld(passages=200, seed=3)


def test_tasks_read_from_the_cache_are_those_that_were_generated(world):
    fresh = tuple(itertools.islice(generate_tasks(world, "dev"), 25))
    assert cached_tasks(world, "dev", 25) == fresh
    assert cached_tasks(world, "dev", 25) == fresh
    assert [task.metadata for task in cached_tasks(world, "dev", 25)] == [task.metadata for task in fresh]


def test_other_streams_counts_and_worlds_have_files_of_their_own(world):
    ids = {
        cached_tasks(*key)[-1].question
        for key in [(world, "dev", 5), (world, "dev", 6), (world, "test", 5), (SynthWorld(200, 4), "dev", 5)]
    }
    assert len(ids) == 4


def test_the_error_for_a_damaged_cache_names_the_file_to_delete(world):
    cached_tasks(world, "dev", 5)
    (path,) = (cache_dir() / "datasets" / "synth").glob("*.jsonl")
    path.write_text("{")
    with pytest.raises(DataError, match=f"{path.name} cannot be read"):
        cached_tasks(world, "dev", 5)
