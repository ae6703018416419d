"""Data sets of the Hugging Face hub: downloaded once into the cache as JSON lines, then read like any file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from raggym_env.data.files import Record
from raggym_env.errors import CardError, DataNotFound, MissingExtra
from raggym_env.network import HubUnreachable, hub_errors, require_hub

__all__ = ["PREFIX", "HubName", "fetch", "hub_name", "hub_records"]

PREFIX = "hub:"

LoadDataset = Callable[..., Iterable[Mapping[str, Any]]]


class HubName(NamedTuple):
    """One split of one data set on the hub."""

    repository: str
    config: str | None
    split: str

    @property
    def file(self) -> str:
        """Name of the file that its rows are kept in."""
        words = [self.repository.replace("/", "-"), *([self.config] if self.config else []), self.split]
        return f"hub-{'-'.join(words)}.jsonl"


def hub_name(text: str) -> HubName | None:
    """Read `hub:OWNER/NAME[:CONFIG]:SPLIT`; None for anything without that prefix.

    Raises:
        CardError: The prefix is there and the rest is wrong.
    """
    if not text.startswith(PREFIX):
        return None
    parts = text.removeprefix(PREFIX).split(":")
    if len(parts) not in (2, 3) or not all(part.strip() for part in parts):
        raise CardError(f"Not the name of a hub data set: {text!r}. Write hub:OWNER/NAME[:CONFIG]:SPLIT.")
    repository, *config, split = parts
    return HubName(repository, config[0] if config else None, split)


def fetch(name: HubName, folder: Path, *, load_dataset: LoadDataset | None = None) -> Path:
    """The file of a hub data set's rows in `folder`, downloaded first where it is not there yet.

    Processes that fetch the same at once do it once. A file that exists is complete.

    Args:
        name: What to download.
        folder: Where the file is kept; made if it is not there.
        load_dataset: Called as `datasets.load_dataset` is; by default that function, after a check that the hub
            answers within 10 s (not made with `HF_HUB_OFFLINE` set: then the hub's own cache is read).

    Raises:
        MissingExtra: `datasets` is not installed.
        DataNotFound: The hub cannot be reached, or has no such data set, configuration or split.
    """
    from filelock import FileLock

    path = folder / name.file
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            _write((record.fields for record in hub_records(name, load_dataset=load_dataset)), path)
    return path


def hub_records(name: HubName, *, load_dataset: LoadDataset | None = None) -> Iterator[Record]:
    """The rows of a hub data set, as a stream. Arguments and errors as for `fetch`."""
    rows = load_dataset(name.repository, name.config, split=name.split) if load_dataset else _load(name)
    for index, row in enumerate(rows):
        yield Record(Path(f"{PREFIX}{':'.join(filter(None, name))}"), "row", index + 1, index, dict(row))


def _load(name: HubName) -> Iterable[Mapping[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("The Hugging Face hub", "hub") from error
    try:
        require_hub()
    except HubUnreachable as error:
        raise DataNotFound(str(error)) from error
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(name.repository, name.config, split=name.split)
    except (datasets.exceptions.DatasetsError, *hub_errors()) as error:
        raise DataNotFound(f"the hub did not give {name.repository}: {error}") from error
    return rows


def _write(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row, ensure_ascii=False, default=str)}\n" for row in rows)
    partial.rename(path)
