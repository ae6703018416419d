"""Recorded prompts: `prompts.jsonl` in a run folder, one line per distinct message, to which steps refer by its id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from raggym_env.errors import DataError, MalformedData
from raggym_env.mdp.records import RecordWriter, numbered_records, repair, typed_fields

__all__ = ["PromptWriter", "read_prompts"]

Json = dict[str, Any]


class PromptWriter:
    """Takes the prompts out of episode records and appends those that the file lacks. A context, which closes the file.

    The file is made for the first prompt, so that a run without prompts has none.
    """

    def __init__(self, path: Path) -> None:
        repair(path)
        self._ids = set(read_prompts(path))
        self._writer = RecordWriter(path)

    def take_from(self, records: Iterable[Json]) -> None:
        """Replace the messages in the records of episodes and their steps by ids, and write the new ones.

        They must be written before the records: a killed process then leaves prompts without an episode, which do no
        harm, and no episode without its prompts.
        """
        new: dict[str, Json] = {}
        for record in records:
            for holder in (record, *record["steps"]):
                if messages := holder.pop("messages", None):
                    prompts = [(_id(message), message) for message in messages]
                    new.update(prompts)
                    holder["prompt"] = [name for name, _ in prompts]
        new = {name: message for name, message in new.items() if name not in self._ids}
        if new:
            self._writer.append([{"id": name, **message} for name, message in new.items()])
            self._ids |= new.keys()

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.__exit__(*error)


def _id(message: Mapping[str, str]) -> str:
    # Lone surrogates are allowed, as in the records.
    text = f"{message['role']}\n{message['content']}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def read_prompts(path: Path) -> dict[str, Json]:
    """Return the messages of a prompts file by id; none if there is no file.

    Raises:
        DataError: The file is a link, or not a regular file.
        MalformedData: A line is not a message.
    """
    if not path.exists() and not path.is_symlink():
        return {}
    prompts = {}
    for number, record in numbered_records(path):
        try:
            fields = typed_fields(record, dict.fromkeys(("id", "role", "content"), "a string"))
        except DataError as error:
            raise MalformedData(path, f"line {number}", str(error)) from error
        prompts[fields.pop("id")] = fields
    return prompts
