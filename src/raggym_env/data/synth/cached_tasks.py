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
from raggym_env.storage.paths import cache_dir

__all__ = ["cached_tasks"]


def cached_tasks(world: SynthWorld, stream: str, count: int) -> Sequence[Task]:
    """The first `count` tasks of a stream of the world.

    Raises:
        DataError: The cache cannot be read; the message names the file to delete.
    """
    from filelock import FileLock

    path = cache_dir() / "datasets" / "synth" / f"{world.fingerprint}-{stream}-{count}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                _write(path, itertools.islice(generate_tasks(world, stream), count))
    return _read(path)


def _write(path: Path, tasks: Any) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(_to_json(task)) + "\n" for task in tasks)
    partial.replace(path)


def _read(path: Path) -> tuple[Task, ...]:
    try:
        with path.open(encoding="utf-8") as file:
            return tuple(_from_json(json.loads(line)) for line in file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error!r}). Delete it; it is then generated again.") from error


def _to_json(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "question": task.question.text,
        "answers": task.answers,
        "supporting": task.supporting,
        "evidences": task.evidences,
        "type": task.type,
        "metadata": task.metadata,
    }


def _from_json(row: dict[str, Any]) -> Task:
    return Task(
        Question(row["id"], row["question"]),
        tuple(row["answers"]),
        supporting=tuple(Fact(*fact) for fact in row["supporting"]),
        evidences=tuple(Evidence(*evidence) for evidence in row["evidences"]),
        type=row["type"],
        metadata=row["metadata"],
    )
