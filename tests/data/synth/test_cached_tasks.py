import itertools
import json
import os

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


WRONG = [
    {"id": 7}, {"question": None}, {"answers": "abc"}, {"answers": [1]}, {"answers": None}, {"type": 1},
    {"supporting": [["T", "0"]]}, {"supporting": [["T", True]]}, {"supporting": [[1, 0]]}, {"supporting": [[]]},
    {"evidences": [["a", "b"]]}, {"evidences": [["a", "b", 3]]}, {"metadata": []}, {"metadata": None},
]  # fmt: skip


@pytest.mark.parametrize("change", WRONG)
def test_a_field_of_another_type_is_one_clear_error(world, change):
    cached_tasks(world, "dev", 5)
    (path,) = (cache_dir() / "datasets" / "synth").glob("*.jsonl")
    lines = path.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **change})
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match="Delete it"):
        cached_tasks(world, "dev", 5)


@pytest.mark.parametrize("line", ["[]", "7", "null", "[" * 100_000, '{"id": ' + "9" * 5000 + "}", ""])
def test_a_line_that_is_no_task_is_one_clear_error(world, line):
    cached_tasks(world, "dev", 5)
    (path,) = (cache_dir() / "datasets" / "synth").glob("*.jsonl")
    path.write_text("\n".join([*path.read_text().splitlines()[:4], line]))
    with pytest.raises(DataError, match="Delete it"):
        cached_tasks(world, "dev", 5)


def test_a_cache_cut_off_after_a_line_or_replaced_by_a_pipe_is_one_clear_error(world):
    cached_tasks(world, "dev", 5)
    (path,) = (cache_dir() / "datasets" / "synth").glob("*.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(DataError, match="has 4 tasks, not 5"):
        cached_tasks(world, "dev", 5)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        cached_tasks(world, "dev", 5)
