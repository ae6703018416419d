"""Data sets on the Hugging Face hub: downloaded once into the cache as JSON lines, then read like any other file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from raggym_env.data.files import Record
from raggym_env.errors import CardError, DataNotFound, MissingExtra
from raggym_env.network import HubUnreachable, hub_errors, require_hub
from raggym_env.storage.atomic import atomic_file, build_once

__all__ = ["PREFIX", "HubName", "fetch", "hub_name", "hub_records"]

PREFIX = "hub:"

LoadDataset = Callable[..., Iterable[Mapping[str, Any]]]


class HubName(NamedTuple):
    """One split of one data set on the hub."""

    repository: str
    config: str | None
    split: str

    def __str__(self) -> str:
        """The name as a card gives it."""
        return f"{PREFIX}{':'.join(filter(None, self))}"

    @property
    def file(self) -> str:
        """Name of the file that the downloaded rows are stored in."""
        # The name may come from somebody else's card: without "/" it cannot lead out of the cache.
        return f"hub-{'-'.join(filter(None, self)).replace('/', '-')}.jsonl"


def hub_name(text: str) -> HubName | None:
    """Parse `hub:OWNER/NAME[:CONFIG]:SPLIT`; None for a text without that prefix.

    Raises:
        CardError: The text has the prefix but not the rest.
    """
    if not text.startswith(PREFIX):
        return None
    parts = text.removeprefix(PREFIX).split(":")
    if len(parts) not in (2, 3) or not all(part.strip() for part in parts):
        raise CardError(f"Not the name of a hub data set: {text!r}. Write hub:OWNER/NAME[:CONFIG]:SPLIT.")
    repository, *config, split = parts
    return HubName(repository, config[0] if config else None, split)


def fetch(name: HubName, folder: Path, *, load_dataset: LoadDataset | None = None) -> Path:
    """Return the file in `folder` that holds a hub data set's rows, downloading them if it does not exist.

    Of several processes that fetch the same rows at once, one downloads them. A file that exists is complete.

    Args:
        name: The data set and its split.
        folder: Where the file is stored. Created if it does not exist.
        load_dataset: Called like `datasets.load_dataset`, which is the default. Before the default is called, the
            hub must answer within 10 s, unless `HF_HUB_OFFLINE` is set, which lets `datasets` read its own cache.

    Raises:
        MissingExtra: `datasets` is not installed.
        DataNotFound: The hub cannot be reached, or has no such data set, configuration or split.
    """

    def download(path: Path) -> None:
        rows = (record.fields for record in hub_records(name, load_dataset=load_dataset))
        with atomic_file(path, "w") as file:
            # Some data sets have columns, such as dates, without a JSON form. No format reads them.
            file.writelines(f"{json.dumps(row, ensure_ascii=False, default=str)}\n" for row in rows)

    return build_once(folder / name.file, download)


def hub_records(name: HubName, *, load_dataset: LoadDataset | None = None) -> Iterator[Record]:
    """Yield the rows of a hub data set as a stream. Arguments and errors are those of `fetch`."""
    rows = load_dataset(name.repository, name.config, split=name.split) if load_dataset else _load(name)
    for index, row in enumerate(rows):
        yield Record(Path(str(name)), "row", index + 1, index, dict(row))


def _load(name: HubName) -> Iterable[Mapping[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("The Hugging Face hub", "hub") from error
    # Without a network `datasets` retries for minutes before it gives up.
    try:
        require_hub()
    except HubUnreachable as error:
        raise DataNotFound(str(error)) from error
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(name.repository, name.config, split=name.split)
    except (datasets.exceptions.DatasetsError, *hub_errors()) as error:
        raise DataNotFound(f"the hub did not provide {name.repository}: {error}") from error
    return rows
