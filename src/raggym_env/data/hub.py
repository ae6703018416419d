"""Data sets on the Hugging Face hub: downloaded once into the cache as JSON lines, then read like any other file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from raggym_env.data.files import Record
from raggym_env.errors import CardError, DataNotFound, MissingExtra
from raggym_env.network.hub import HubUnreachable, hub_errors, require_hub
from raggym_env.network.urls import is_hub_name
from raggym_env.storage.atomic import atomic_file, build_once

__all__ = ["PREFIX", "HubName", "fetch", "hub_name", "hub_records"]

PREFIX = "hub:"

# Of a configuration and a split. Dots stand alone and inside a part, so that no part leads out of a folder.
_PART = re.compile(r"[\w+-]+(?:\.[\w+-]+)*")
# A name in somebody else's card must not fill the disk. The largest corpus of this field, 21 million passages of
# Wikipedia, has 14 GB.
_MAX_BYTES = 64 << 30


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
        # The name may come from somebody else's card: without separators it cannot lead out of the cache.
        name = "-".join(filter(None, self)).replace("/", "-").replace("\\", "-")
        return f"hub-{name}.jsonl"


def hub_name(text: str) -> HubName | None:
    """Parse `hub:OWNER/NAME[:CONFIG]:SPLIT`; None for a text without that prefix.

    Raises:
        CardError: The text has the prefix but not the rest, or a part that the hub cannot have.
    """
    if not text.startswith(PREFIX):
        return None
    repository, *parts = text.removeprefix(PREFIX).split(":")
    valid = is_hub_name(repository) and len(parts) in (1, 2) and all(map(_PART.fullmatch, parts))
    if not valid:
        raise CardError(
            f"Not the name of a hub data set: {text!r:.200}. Write hub:OWNER/NAME[:CONFIG]:SPLIT; dots stand "
            "only inside a name."
        )
    return HubName(repository, parts[0] if len(parts) == 2 else None, parts[-1])


def fetch(name: HubName, folder: Path) -> Path:
    """Return the file in `folder` that holds a hub data set's rows, downloading them if it does not exist.

    Of several processes that fetch the same rows at once, one downloads them. A file that exists is complete. The hub
    must answer within 10 s, unless `HF_HUB_OFFLINE` is set, which lets `datasets` read its own cache.

    Raises:
        MissingExtra: `datasets` is not installed.
        DataNotFound: The hub cannot be reached, or has no such data set, configuration or split.
    """

    def download(path: Path) -> None:
        with atomic_file(path, "w") as file:
            size = 0
            for row in _load(name):
                # Some data sets have columns, such as dates, without a JSON form. No format reads them.
                size += file.write(f"{json.dumps(dict(row), ensure_ascii=False, default=str)}\n")
                if size > _MAX_BYTES:
                    raise DataNotFound(f"{name} has more than {_MAX_BYTES / 1e9:,.0f} GB, the limit for a download.")

    return build_once(folder / name.file, download)


def hub_records(name: HubName) -> Iterator[Record]:
    """Yield the rows of a hub data set as a stream. Errors are those of `fetch`."""
    for index, row in enumerate(_load(name)):
        yield Record(Path(str(name)), "row", index + 1, index, dict(row))


def _load(name: HubName) -> Iterable[Mapping[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("The Hugging Face hub", "hub") from error
    # `datasets` prefers a folder of that name to the hub, and would read whatever lies in it.
    if Path(name.repository).exists():
        raise DataNotFound(
            f"{name.repository} is a folder here, which would be read in place of the data set on the hub. Run this in "
            "another folder."
        )
    try:
        require_hub()  # without a network, `datasets` retries for minutes before it gives up
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(name.repository, name.config, split=name.split)
    except HubUnreachable as error:
        raise DataNotFound(str(error)) from error
    except (datasets.exceptions.DatasetsError, *hub_errors()) as error:
        raise DataNotFound(f"the hub did not provide {name.repository}: {error}") from error
    return rows
