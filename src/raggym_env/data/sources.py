"""Finding the files of a split: the places looked at, in order, and what is said when none has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raggym_env.cards import EnvCard, Source
from raggym_env.data.formats import FORMATS
from raggym_env.data.hub import PREFIX, HubName, fetch, hub_name
from raggym_env.errors import DataNotFound, MissingExtra
from raggym_env.storage.paths import cache_dir, card_file, data_dir

__all__ = ["CONTEXTS", "Located", "locate", "no_corpus", "not_found", "places"]

CONTEXTS = "contexts"
"""A source's `corpus` when the questions file itself holds the paragraphs."""


@dataclass(frozen=True)
class Located:
    """The files of one source of a split."""

    source: Source
    questions: Path
    corpus: Path | HubName | None
    """None: the contexts of the questions file."""

    def __str__(self) -> str:
        corpus = self.source.corpus if isinstance(self.corpus, HubName) else self.corpus or CONTEXTS
        return f"{self.questions} ({self.source.rows}), corpus: {corpus}"


def places(card: EnvCard, root: Path | None = None) -> list[Path]:
    """The folders in which a card's files are looked for, in order.

    With `root`, only there: `<root>/<folder>`, then `<root>`. Otherwise, for a card that does not ship with the
    library, first the card's own folder and `<folder>` below that; then `$RAGGYM_DATA/<folder>` and the cache.
    """
    folder = card.dataset.folder
    if root is not None:
        return _distinct([root / folder, root])
    user = data_dir()
    own = [] if _is_shipped(card) else [card.path.parent, card.path.parent / folder]
    return _distinct([*own, *([user / folder] if user else []), download_folder(card)])


def download_folder(card: EnvCard) -> Path:
    """The card's folder in the cache."""
    return cache_dir() / "datasets" / card.dataset.folder


def locate(card: EnvCard, source: Source, *, root: Path | None = None, use_hub: bool = True) -> Located:
    """The files of a source, all from one place; rows on the hub are downloaded where no place has them.

    Args:
        card: The card that the source belongs to.
        source: One of its sources.
        root: Look there and nowhere else, the hub included.
        use_hub: False to look at files only.

    Raises:
        DataNotFound: Some file is missing. The message says what was looked for where, and why the hub did not
            help.
    """
    hub, hub_corpus = hub_name(source.questions), hub_name(source.corpus)
    corpus_file = None if hub_corpus or source.corpus == CONTEXTS else source.corpus
    wanted = [hub.file if hub else source.questions, *([corpus_file] if corpus_file else [])]
    folders = places(card, root)
    for folder in folders:
        files = [file for name in wanted if (file := _file(folder, name))]
        if len(files) == len(wanted):
            return Located(source, files[0], files[1] if corpus_file else hub_corpus)
    if hub is None or not use_hub or root is not None:
        raise DataNotFound(_missing(wanted, folders))
    # Rows from the hub are stored in the cache, so their corpus file may be in any place.
    corpus = _anywhere(corpus_file, folders) if corpus_file else hub_corpus
    try:
        return Located(source, fetch(hub, download_folder(card)), corpus)
    except (DataNotFound, MissingExtra) as error:
        raise DataNotFound(f"{_missing(wanted, folders)}; {error}") from error


def _anywhere(name: str, folders: Sequence[Path]) -> Path:
    for folder in folders:
        if file := _file(folder, name):
            return file
    raise DataNotFound(_missing([name], folders))


def not_found(card: EnvCard, split: str, reasons: Sequence[str]) -> DataNotFound:
    """The one error for a split that no source has: what was looked for where, and what to do."""
    sources = card.dataset.splits[split]
    ways = []
    if any(source.questions.startswith(PREFIX) for source in sources):
        ways.append(_download(card))
    page = FORMATS[card.dataset.format].page
    files = f"the official files ({page})" if page and _is_shipped(card) else "the files"
    corpora = [source.corpus for source in sources]
    if not any(corpus == CONTEXTS or corpus.startswith(PREFIX) for corpus in corpora):
        files += f" and {' or '.join(dict.fromkeys(corpora))}"  # no source does without
    ways.append(f"put {files} into {_users_folder(card)}")
    lines = "".join(f"\n  - {source.questions}: {why}" for source, why in zip(sources, reasons, strict=True))
    return DataNotFound(f"No data for the split {split!r} of {card.name}:{lines}\nTo get it, {', or '.join(ways)}.")


def no_corpus(card: EnvCard, split: str, at: Located, reason: str) -> DataNotFound:
    """The error for a split whose questions are here and whose corpus, on the hub, cannot be had."""
    corpora = (source.corpus for source in card.dataset.splits[split])
    files = list(dict.fromkeys(name for name in corpora if name != CONTEXTS and not name.startswith(PREFIX)))
    lines = [f"\n  - {file}: not in {' nor in '.join(map(str, places(card)))}" for file in files]
    lines.append(f"\n  - {at.source.corpus}: {reason}")
    ways = [_download(card)]
    if files:
        ways.append(f"put {' or '.join(files)} (.gz, too, or a link to it) into {_users_folder(card)}")
    return DataNotFound(
        f"No corpus for the split {split!r} of {card.name}:{''.join(lines)}\nTo get it, {', or '.join(ways)}."
    )


def _download(card: EnvCard) -> str:
    return f"run `raggym data get {card.name if _is_shipped(card) else card.path}` where there is a network"


def _users_folder(card: EnvCard) -> str:
    return f"{Path('$RAGGYM_DATA', card.dataset.folder)}{'' if data_dir() else ' (RAGGYM_DATA is not set)'}"


def _missing(wanted: Sequence[str], folders: Sequence[Path]) -> str:
    lacks = (
        f"{folder} has no {' and no '.join(name for name in wanted if not _file(folder, name))}" for folder in folders
    )
    return "; ".join(lacks)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _is_shipped(card: EnvCard) -> bool:
    return card.path == card_file("envs", card.path.stem).resolve()


def _distinct(folders: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(folders))
