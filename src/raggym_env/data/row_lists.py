"""Lists of rows that ship with the library, for splits that are a sample of a questions file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raggym_env.core import Task
from raggym_env.errors import DataError, UnknownName
from raggym_env.storage.parsing import parse_toml, read_file

__all__ = ["listed"]

_LISTS = Path(__file__).with_suffix(".toml")


def listed(name: str, tasks: Sequence[Task], path: Path) -> list[Task]:
    """Return the tasks of a list of rows, in the list's order.

    Args:
        name: A table of `row_lists.toml`.
        tasks: All tasks of the questions file.
        path: That file.

    Raises:
        UnknownName: There is no list of that name.
        DataError: The file has another number of questions than the one that the rows were drawn from: the same rows
            of it would be other questions.
    """
    lists = parse_toml(read_file(_LISTS))
    if name not in lists:
        raise UnknownName("list of rows", name, lists)
    rows, questions = lists[name]["rows"], lists[name]["questions"]
    if len(tasks) != questions:
        raise DataError(
            f"{path} has {len(tasks):,} questions. The split takes {len(rows):,} listed rows of the complete file of "
            f"{questions:,}, and in another file they would be other questions. Put the complete file there, or take "
            'other rows in a copy of the card, such as rows = "first 1000".'
        )
    return [tasks[row] for row in rows]
