"""Questions of the synthetic world: generated once, then read from the cache, which is thirty times faster."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raggym_env.core import Evidence, Fact, Question, Task
from raggym_env.data.synth.questions import generate_tasks
from raggym_env.data.synth.world import SynthWorld
from raggym_env.errors import DataError
from raggym_env.storage.atomic import atomic_file, build_once
from raggym_env.storage.paths import cache_dir

__all__ = ["cached_tasks"]

_SAVED = ("id", "answers", "supporting", "evidences", "type", "metadata")


def cached_tasks(world: SynthWorld, stream: str, count: int) -> Sequence[Task]:
    """Return the first `count` tasks of a stream of the world.

    Raises:
        DataError: The cache file cannot be read. The message names the file to delete.
    """

    def generate(path: Path) -> None:
        with atomic_file(path, "w") as file:
            for task in itertools.islice(generate_tasks(world, stream), count):
                row = {"question": task.question.text, **{name: getattr(task, name) for name in _SAVED}}
                file.write(json.dumps(row) + "\n")

    # The fingerprint covers the generator's version, so a new version never reads questions of an old one.
    name = f"{world.fingerprint}-{stream}-{count}.jsonl"
    path = build_once(cache_dir() / "datasets" / "synth" / name, generate)
    try:
        with path.open(encoding="utf-8") as file:
            return tuple(_from_json(json.loads(line)) for line in file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error!r}). Delete it to have it generated again.") from error


def _from_json(row: dict[str, Any]) -> Task:
    # JSON has lists only; tasks are compared and hashed, so their parts must be tuples again.
    return Task(
        Question(row["id"], row["question"]),
        tuple(row["answers"]),
        supporting=tuple(Fact(*fact) for fact in row["supporting"]),
        evidences=tuple(Evidence(*evidence) for evidence in row["evidences"]),
        type=row["type"],
        metadata=row["metadata"],
    )
