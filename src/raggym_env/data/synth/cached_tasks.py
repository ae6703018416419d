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
from raggym_env.storage.parsing import parse_json, read_file
from raggym_env.storage.paths import cache_dir

__all__ = ["cached_tasks"]

_MAX_BYTES = 1 << 30  # about a million tasks
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
        tasks = tuple(_from_json(parse_json(line)) for line in read_file(path, max_bytes=_MAX_BYTES).splitlines())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error!r}). Delete it to have it generated again.") from error
    if len(tasks) != count:
        raise DataError(f"{path} has {len(tasks):,} tasks, not {count:,}. Delete it to have it generated again.")
    return tasks


def _from_json(row: Any) -> Task:
    # JSON has lists only; tasks are compared and hashed, so their parts must be tuples again.
    task = Task(
        Question(row["id"], row["question"]),
        tuple(row["answers"]),
        supporting=tuple(Fact(*fact) for fact in row["supporting"]),
        evidences=tuple(Evidence(*evidence) for evidence in row["evidences"]),
        type=row["type"],
        metadata=row["metadata"],
    )
    texts = [task.id, task.question.text, task.type, *task.answers, *task.gold_titles]
    texts += [text for evidence in task.evidences for text in evidence]
    numbers = [fact.sentence for fact in task.supporting]
    if not (
        isinstance(row["answers"], list)
        and all(isinstance(text, str) for text in texts)
        and all(number is None or type(number) is int for number in numbers)
        and isinstance(task.metadata, dict)
    ):
        raise TypeError("a field is of another type")
    return task
