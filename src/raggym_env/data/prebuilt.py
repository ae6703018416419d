"""Vectors of large corpora that others have computed, on the Hugging Face hub: downloaded once, in parts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from raggym_env.errors import DataNotFound, MissingExtra, UnknownName
from raggym_env.network.hub import HubUnreachable, hub_errors, require_hub
from raggym_env.storage.atomic import atomic_file, build_once
from raggym_env.storage.paths import cache_dir, data_folders

__all__ = ["PREBUILT", "Prebuilt", "fetch_prebuilt", "prebuilt_file"]


class Prebuilt(NamedTuple):
    """A file on the hub, cut into parts."""

    repository: str
    parts: tuple[str, ...]
    """The parts in the repository, in their order."""
    file: str
    """Where the whole file is looked for below the data folders."""


PREBUILT = {
    # Search-R1's (arXiv:2503.09516): a flat FAISS index of the 21 million passages of wiki-18 by e5-base-v2, 65 GB.
    "wiki-18-e5": Prebuilt("PeterJinGo/wiki-18-e5-index", ("part_aa", "part_ab"), "flashrag/e5_Flat.index")
}
"""Name -> the file and where it comes from."""


def prebuilt_file(name: str) -> Path:
    """Return the file of prebuilt vectors on this machine.

    Raises:
        UnknownName: There are no such vectors.
        DataNotFound: The file is not here. The message says how to get it.
    """
    if name not in PREBUILT:
        raise UnknownName("prebuilt vectors", name, PREBUILT)
    files = [folder / PREBUILT[name].file for folder in data_folders()]
    for file in files:
        if file.is_file():
            return file
    raise DataNotFound(
        f"No prebuilt vectors {name!r}: there is no {' and no '.join(map(str, files))}. To get them, run `raggym data "
        f"get {name}` where there is a network, or join the parts of {PREBUILT[name].repository} into one of these."
    )


def fetch_prebuilt(name: str) -> Path:
    """Return the file of prebuilt vectors, downloading and joining its parts if it is not here.

    Needs twice the file's size on disk until the parts are joined. A download that was interrupted goes on.

    Raises:
        UnknownName: There are no such vectors.
        MissingExtra: `huggingface_hub` is not installed.
        DataNotFound: The hub cannot be reached, or does not have the parts.
    """
    try:
        return prebuilt_file(name)
    except DataNotFound:
        return build_once(cache_dir() / "datasets" / PREBUILT[name].file, lambda path: _join(PREBUILT[name], path))


def _join(prebuilt: Prebuilt, path: Path) -> None:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtra("The Hugging Face hub", "hub") from error
    folder = path.with_suffix(".parts")
    try:
        require_hub()  # without a network, the hub's client retries for minutes
        files = [
            hf_hub_download(prebuilt.repository, part, repo_type="dataset", local_dir=folder) for part in prebuilt.parts
        ]
    except HubUnreachable as error:
        raise DataNotFound(str(error)) from error
    except hub_errors() as error:
        raise DataNotFound(f"the hub did not provide {prebuilt.repository}: {error}") from error
    with atomic_file(path) as whole:
        for file in files:
            with Path(file).open("rb") as part:
                shutil.copyfileobj(part, whole, 1 << 24)
    shutil.rmtree(folder, ignore_errors=True)
