"""Locations on disk: the cards, the user's data and the cache. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

__all__ = ["CardKind", "cache_dir", "card_file", "card_names", "data_dir", "data_folders", "is_shipped"]

_PACKAGED = Path(__file__).parents[1] / "_cards"
# A wheel carries the cards inside the package; in a checkout they are the two folders at its top.
_CARDS = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3]

CardKind = Literal["envs", "policies"]


def card_file(kind: CardKind, name: str) -> Path:
    """Return the path of the shipped card of that name, whether or not it exists."""
    return _CARDS / kind / f"{name}.toml"


def card_names(kind: CardKind) -> list[str]:
    """List the names of the cards that ship with the library. Reads no card."""
    return sorted(path.stem for path in (_CARDS / kind).glob("*.toml"))


def is_shipped(path: Path) -> bool:
    """True if a resolved path is that of a card that ships with the library."""
    # By path, not by name: a user's edited copy of a shipped card keeps its name.
    kinds: tuple[CardKind, ...] = ("envs", "policies")
    return any(path == card_file(kind, path.stem).resolve() for kind in kinds)


def data_dir() -> Path | None:
    """Return the user's folder of data sets, `$RAGGYM_DATA`; None if it is not set."""
    value = os.environ.get("RAGGYM_DATA")
    return Path(value).expanduser() if value else None


def cache_dir() -> Path:
    """Return the folder of prepared corpora, indexes and downloads: `$RAGGYM_CACHE`, else the user's cache folder."""
    if value := os.environ.get("RAGGYM_CACHE"):
        return Path(value).expanduser()
    # Imported here: most commands on an own cache folder never need it.
    from platformdirs import user_cache_path

    return user_cache_path("raggym-env")


def data_folders() -> list[Path]:
    """Return the folders of data sets: `$RAGGYM_DATA` if it is set, and the one in the cache."""
    user = data_dir()
    return [*([user] if user else []), cache_dir() / "datasets"]
