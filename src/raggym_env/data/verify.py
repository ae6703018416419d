"""Deep checks of prepared corpora and of the files of a split, for `raggym data verify`."""

from __future__ import annotations

from pathlib import Path

from raggym_env.cards import EnvCard
from raggym_env.data.corpus import Corpus
from raggym_env.data.dataset import resolve_split
from raggym_env.data.prepare import source_problems
from raggym_env.data.titles import describe_missing
from raggym_env.errors import DataError
from raggym_env.storage.checksums import Progress
from raggym_env.storage.paths import cache_dir

__all__ = ["prepared_folders", "verify_corpus", "verify_split"]


def prepared_folders() -> list[Path]:
    """Return the folders of the prepared corpora in the cache, sorted."""
    return sorted(path for path in (cache_dir() / "corpora").glob("*/") if path.suffix != ".partial")


def verify_corpus(folder: Path, progress: Progress | None = None) -> str:
    """Read all of a prepared corpus, and return a description of it.

    Raises:
        DataError: It is damaged.
    """
    with Corpus(folder) as corpus:
        corpus.check(progress)
        return f"{len(corpus):,} passages of {corpus.origin}"


def verify_split(card: EnvCard, split: str, progress: Progress | None = None) -> str:
    """Read the questions of a split and all of its corpus, and return a description of them. Downloads nothing.

    Raises:
        DataError: A file is missing or malformed, or the prepared corpus is damaged or of another file.
    """
    resolved = resolve_split(card, split, use_hub=False)
    questions = f"{len(resolved.task_set.tasks):,} questions"
    source = resolved.corpus_source()
    if not source.folder.is_dir():
        return f"{questions}; the corpus is not prepared"
    if problems := source_problems(source.file, source.folder, full=True, progress=progress):
        raise DataError(f"The corpus at {source.folder} was prepared from another {source.origin}: {problems[0]}.")
    described = verify_corpus(source.folder, progress)
    with Corpus(source.folder) as corpus:
        problem = describe_missing(resolved.task_set.tasks, corpus)
    return f"{questions}; {described}{f'; but {problem}' if problem else ''}"
