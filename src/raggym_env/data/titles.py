"""Titles of supporting facts that the corpus does not have, so that their passages can never be retrieved."""

from __future__ import annotations

from collections.abc import Sequence

from raggym_env.core import Passage, Task, title_key
from raggym_env.data.dataset import Dataset
from raggym_env.storage.paths import is_shipped

__all__ = ["describe_missing", "missing_titles"]

# Comparing the titles of as many passages takes a second or two.
_MOST_PASSAGES = 300_000


def missing_titles(dataset: Dataset) -> str:
    """Return what `describe_missing` says of a data set of the user's own; "" for others, and for very large corpora.

    `raggym data verify` checks all.
    """
    if is_shipped(dataset.card.path) or len(dataset.corpus) > _MOST_PASSAGES:
        return ""
    problem = describe_missing(dataset.tasks, dataset.corpus)
    return f"{dataset.card.name}, {dataset.split} split: {problem}" if problem else ""


def describe_missing(tasks: Sequence[Task], corpus: Sequence[Passage]) -> str:
    """Return how many titles in the tasks' supporting facts no passage has, with an example; "" if none is missing."""
    gold = {title_key(title): (title, task.id) for task in tasks for title in task.gold_titles}
    exact = {title: title_key(title) for task in tasks for title in task.gold_titles}
    affected = [{title_key(title) for title in task.gold_titles} for task in tasks]
    # Most data has its titles as the corpus writes them, and looking those up takes a tenth of the time.
    for key in (lambda title: exact.get(title, ""), title_key):
        for passage in corpus if gold else ():
            gold.pop(key(passage.title), None)
    if not gold:
        return ""
    questions = sum(not titles.isdisjoint(gold) for titles in affected)
    title, question = min(gold.values(), key=lambda example: example[1])
    return (
        f"titles in supporting_facts that no passage has: {len(gold):,}, in {questions:,} questions. Their evidence "
        f"can never be found, which lowers recall. For example {title!r:.100} of the question {question!r:.100}."
    )
