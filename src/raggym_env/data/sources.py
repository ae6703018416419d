"""Find the files of a split: the folders searched, in order, and the error raised when none of them has the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raggym_env.cards import EnvCard, Source
from raggym_env.data.files import COMPRESSED
from raggym_env.data.formats import FORMATS
from raggym_env.data.hub import PREFIX, HubName, fetch, hub_name
from raggym_env.errors import CardError, DataNotFound, MissingExtra
from raggym_env.storage.paths import cache_dir, data_dir, data_folders, is_shipped

__all__ = ["CONTEXTS", "Located", "locate", "no_corpus", "not_found", "places"]

CONTEXTS = "contexts"
"""A source's `corpus` when the questions file itself holds the paragraphs."""


@dataclass(frozen=True)
class Located:
    """The files of one source of a split."""

    source: Source
    questions: Path
    corpus: Path | HubName | None
    """None if the corpus is the paragraphs that the questions file holds."""

    def __str__(self) -> str:
        corpus = self.source.corpus if isinstance(self.corpus, HubName) else self.corpus or CONTEXTS
        return f"{self.questions} ({self.source.rows}), corpus: {corpus}"


def places(card: EnvCard, root: Path | None = None) -> list[Path]:
    """Return the folders that are searched for a card's files, in order.

    With `root`, these are `<root>/<folder>` and `<root>`. Otherwise they are `$RAGGYM_DATA/<folder>` and the cache,
    and, before them, the card's own folder and `<folder>` below it if the card does not ship with the library.
    """
    folder = card.dataset.folder
    if root is not None:
        folders = [root / folder, root]
    else:
        folders = [*_beside(card), *(data / folder for data in data_folders())]
    return list(dict.fromkeys(folders))  # without a folder name, two of them are the same


def _beside(card: EnvCard) -> list[Path]:
    """Return the folders that come with a card: none with a shipped one, nor with one that is in no folder."""
    if is_shipped(card.path) or not card.path.is_absolute():
        return []
    return [card.path.parent, card.path.parent / card.dataset.folder]


def locate(card: EnvCard, source: Source, *, root: Path | None = None, use_hub: bool = True) -> Located:
    """Find a source's files, all in one folder; if no folder has them, download rows that are on the hub.

    Args:
        card: The card that the source belongs to.
        source: One of its sources.
        root: Search this folder only, and not the hub.
        use_hub: If false, nothing is downloaded.

    Raises:
        CardError: A file beside a card that is not trusted leads out of the card's folder by a link.
        DataNotFound: A file is missing. The message lists what is missing in which folder, and why the hub could
            not provide it.
    """
    hub, hub_corpus = hub_name(source.questions), hub_name(source.corpus)
    corpus_file = None if hub_corpus or source.corpus == CONTEXTS else source.corpus
    names = [hub.file if hub else source.questions, *([corpus_file] if corpus_file else [])]
    folders = places(card, root)
    # Questions of one folder with the corpus of another may be of different releases: gold titles would not match.
    for folder in folders:
        files = [file for name in names if (file := _file(folder, name))]
        if len(files) == len(names):
            _check_links(card, files, folder, root)
            return Located(source, files[0], files[1] if corpus_file else hub_corpus)
    if hub is None or not use_hub or root is not None:
        raise DataNotFound(_missing(names, folders))
    corpus: Path | HubName | None = hub_corpus
    if corpus_file:
        # Rows from the hub are stored in the cache, so their corpus file may be in any folder.
        places_of_corpus = [(folder, file) for folder in folders if (file := _file(folder, corpus_file))]
        if not places_of_corpus:  # checked before the download, which may take long
            raise DataNotFound(_missing([corpus_file], folders))
        folder, corpus = places_of_corpus[0]
        _check_links(card, [corpus], folder, root)
    try:
        return Located(source, fetch(hub, cache_dir() / "datasets" / card.dataset.folder), corpus)
    except (DataNotFound, MissingExtra) as error:
        raise DataNotFound(f"{_missing(names, folders)}; {error}") from error


def _check_links(card: EnvCard, files: Sequence[Path], folder: Path, root: Path | None) -> None:
    """Raise `CardError` if files beside a card that is not trusted lead out of its folder by a link."""
    if root is not None or card.trusted or folder not in _beside(card):
        return  # the user named the folder
    roots = [place.resolve() for place in (card.path.parent, *data_folders())]
    for file in files:
        target = file.resolve()
        if not any(target.is_relative_to(place) for place in roots):
            raise CardError(
                f"{file} leads out of the folder of {card.path}, to {target}. If you trust the card, pass "
                "--trust-card (trust=True in Python). Links in $RAGGYM_DATA are followed for all cards that lie "
                "elsewhere."
            )


def not_found(card: EnvCard, split: str, reasons: Sequence[str]) -> DataNotFound:
    """Return the error for a split without a complete source; `reasons` say for each source what is missing."""
    sources = card.dataset.sources_of(split)
    remedies = []
    if any(source.questions.startswith(PREFIX) for source in sources):
        remedies.append(_download_command(card))
    page = FORMATS[card.dataset.format].page if is_shipped(card.path) else ""
    if rest := _rest(card, sources):
        missing, present = rest
        is_users = data_dir() is not None and present.parent == Path(data_dir() or "", card.dataset.folder)
        folder = _user_folder(card) if is_users else present.parent
        remedies.append(f"put {missing}{f' ({page})' if page else ''} into {folder}, beside {present.name}")
    else:
        files = f"the official files ({page})" if page else "the files"
        corpora = [source.corpus for source in sources]
        # A corpus file is worth naming only if every source needs one.
        if not any(corpus == CONTEXTS or corpus.startswith(PREFIX) for corpus in corpora):
            files += f" and {' or '.join(dict.fromkeys(corpora))}"
        remedies.append(f"put {files} into {_user_folder(card)}")
    lines = "".join(f"\n  - {source.questions}: {why}" for source, why in zip(sources, reasons, strict=True))
    return DataNotFound(f"No data for the split {split!r} of {card.name}:{lines}\nTo get it, {', or '.join(remedies)}.")


def _rest(card: EnvCard, sources: Sequence[Source]) -> tuple[str, Path] | None:
    """Return the missing file of a source whose other file is there, and that one; None if there is none."""
    for source in sources:
        names = (source.questions, source.corpus)
        if CONTEXTS in names or any(name.startswith(PREFIX) for name in names):
            continue
        for folder in places(card):
            questions, corpus = (_file(folder, name) for name in names)
            if questions and not corpus:
                return source.corpus, questions
            if corpus and not questions:
                return source.questions, corpus
    return None


def no_corpus(card: EnvCard, split: str, located: Located, reason: str) -> DataNotFound:
    """Return the error for a split whose questions were `located` but whose corpus cannot be downloaded."""
    corpora = (source.corpus for source in card.dataset.sources_of(split))
    files = list(dict.fromkeys(name for name in corpora if name != CONTEXTS and not name.startswith(PREFIX)))
    lines = [f"\n  - {file}: not in {' nor in '.join(map(str, places(card)))}" for file in files]
    lines.append(f"\n  - {located.source.corpus}: {reason}")
    remedies = [_download_command(card)]
    if files:
        # A corpus of 20 million passages is better linked to than copied.
        remedies.append(f"put {' or '.join(files)} (.gz or .bz2, too, or a link to it) into {_user_folder(card)}")
    return DataNotFound(
        f"No corpus for the split {split!r} of {card.name}:{''.join(lines)}\nTo get it, {', or '.join(remedies)}."
    )


def _download_command(card: EnvCard) -> str:
    return f"run `raggym data get {card.name if is_shipped(card.path) else card.path}` where there is a network"


def _user_folder(card: EnvCard) -> str:
    return f"{Path('$RAGGYM_DATA', card.dataset.folder)}{'' if data_dir() else ' (RAGGYM_DATA is not set)'}"


def _missing(names: Sequence[str], folders: Sequence[Path]) -> str:
    return "; ".join(
        f"{folder} has no {' and no '.join(name for name in names if not _file(folder, name))}" for folder in folders
    )


def _file(folder: Path, name: str) -> Path | None:
    paths = [folder / f"{name}{suffix}" for suffix in ("", *COMPRESSED)]
    # A corpus may be a folder of files.
    return next((path for path in paths if path.is_file() or (name and path.is_dir())), None)
