"""Pairs runs on the same questions: is one better than another, by how much, and where?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.errors import OptionError, RunError
from raggym_env.evaluation.scored_run import ScoredRun, cached_tasks
from raggym_env.evaluation.scores import groups_of, searches_of
from raggym_env.evaluation.statistics import Estimate, holm, mcnemar, paired_bootstrap, permutation_test

__all__ = ["Comparison", "Difference", "Group", "compare", "paired"]

_BINARY = ("em", "cover_em", "accuracy")


@dataclass(frozen=True, slots=True)
class Difference:
    """The paired difference of one metric, second run minus first."""

    metric: str
    first: float
    """Mean of the first run over the paired questions."""
    second: float
    difference: Estimate
    """Mean difference with its paired bootstrap interval."""
    p_value: float
    """Two-sided p-value of a permutation test."""
    wins: int
    """Questions on which the second run is better."""
    ties: int
    losses: int
    mcnemar: float | None = None
    """Exact p-value of McNemar's test, for metrics that are 0 or 1 on each question."""


@dataclass(frozen=True, slots=True)
class Group:
    """The difference of the ranking metric over some of the questions."""

    field: str
    """"type", "hops" or "level"."""
    value: str
    questions: int
    first: float
    second: float
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on the same questions."""

    environment: str
    split: str
    metric: str
    """The metric that the environment ranks by."""
    first: str
    """Name of the first run's policy."""
    second: str
    questions: int
    """Questions that both runs scored."""
    left_out: int
    """Questions that at least one run did not score, since an episode failed or is missing."""
    differences: tuple[Difference, ...]
    """One per metric, the ranking metric first."""
    groups: tuple[Group, ...]
    searches: tuple[float, float]
    """Mean searches per question of both runs."""
    tokens: tuple[float, float]
    """Mean tokens per question of both runs."""
    won: tuple[str, ...]
    """Ids of the questions that the second run has better, by the ranking metric."""
    lost: tuple[str, ...]
    """Ids of the questions that the first run has better."""
    corrected: float = 1.0
    """The ranking metric's p-value, corrected by Holm's method for the number of comparisons made at once."""

    @property
    def main(self) -> Difference:
        """The difference of the ranking metric."""
        return self.differences[0]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data, every figure unrounded."""
        return asdict(self)


def compare(sources: Iterable[str | Path]) -> list[Comparison]:
    """Compare the first run with each of the others, on the same questions.

    Args:
        sources: Run folders, at least two.

    Raises:
        OptionError: There are fewer than two runs.
        RunError: A folder is no evaluation, the runs were made on different questions, or share no scored one.
    """
    load_tasks = cached_tasks()
    runs = [ScoredRun.read(source, load_tasks) for source in sources]
    if len(runs) < 2:
        raise OptionError(f"A comparison needs at least two run folders, got {len(runs)}.")
    comparisons = [paired(runs[0], run) for run in runs[1:]]
    corrected = holm([comparison.main.p_value for comparison in comparisons])
    return [replace(comparison, corrected=value) for comparison, value in zip(comparisons, corrected, strict=True)]


def paired(first: ScoredRun, second: ScoredRun) -> Comparison:
    """Compare two runs question by question.

    Raises:
        RunError: The runs were made on different questions, or no question is scored in both.
    """
    _require_same_questions(first, second)
    tasks = [task for task in first.tasks if task.id in first.by_question and task.id in second.by_question]
    if not tasks:
        raise RunError(f"{first.run.path} and {second.run.path} share no question that both have scored.")
    ids = [task.id for task in tasks]
    metric = first.card.episode.metric
    # Those that both runs have on every question. Recall, for one, needs gold passages.
    shared = set.intersection(*(set(run.by_question[key]) for run in (first, second) for key in ids))
    names = [name for name in first.by_question[ids[0]] if name != metric and name in shared]
    differences = tuple(_difference(name, first, second, ids) for name in (metric, *names))
    change = {key: second.by_question[key][metric] - first.by_question[key][metric] for key in ids}
    return Comparison(
        environment=first.card.name,
        split=first.split,
        metric=metric,
        first=first.label,
        second=second.label,
        questions=len(ids),
        left_out=len(first.tasks) - len(ids),
        differences=differences,
        groups=tuple(_groups(first, second, metric, ids)),
        searches=(_mean_searches(first, ids), _mean_searches(second, ids)),
        tokens=(_mean_tokens(first, ids), _mean_tokens(second, ids)),
        won=tuple(key for key in ids if change[key] > 0),
        lost=tuple(key for key in ids if change[key] < 0),
        corrected=differences[0].p_value,
    )


def _require_same_questions(first: ScoredRun, second: ScoredRun) -> None:
    if first.key == second.key:
        return
    parts = ("environment", "split", "number of questions", "questions file", "metric")
    differing = [
        f"{part} {mine.lstrip('0')} and {theirs.lstrip('0')}"
        for part, mine, theirs in zip(parts, first.key, second.key, strict=True)
        if mine != theirs
    ]
    raise RunError(
        f"{first.run.path} and {second.run.path} were made on different questions, which cannot be paired: "
        f"{'; '.join(differing)}. Run both on the same environment, split and --limit."
    )


def _difference(metric: str, first: ScoredRun, second: ScoredRun, ids: Sequence[str]) -> Difference:
    before, after = _values(first, metric, ids), _values(second, metric, ids)
    change = after - before
    wins, losses = int((change > 0).sum()), int((change < 0).sum())
    return Difference(
        metric,
        float(before.mean()),
        float(after.mean()),
        paired_bootstrap(change),
        permutation_test(change),
        wins,
        len(ids) - wins - losses,
        losses,
        mcnemar(wins, losses) if metric in _BINARY else None,
    )


def _groups(first: ScoredRun, second: ScoredRun, metric: str, ids: Sequence[str]) -> Iterable[Group]:
    members: dict[tuple[str, str], list[str]] = {}
    shared = set(ids)
    for task in first.tasks:
        if task.id in shared:
            for field, value in groups_of(task).items():
                members.setdefault((field, value), []).append(task.id)
    for (field, value), group in sorted(members.items()):
        # A field with one value says nothing that the whole does not.
        if sum(other == field for other, _ in members) > 1:
            before, after = _values(first, metric, group), _values(second, metric, group)
            yield Group(
                field, value, len(group), float(before.mean()), float(after.mean()), paired_bootstrap(after - before)
            )


def _values(run: ScoredRun, metric: str, ids: Sequence[str]) -> NDArray[np.float64]:
    return np.array([run.by_question[key][metric] for key in ids])


def _mean_searches(run: ScoredRun, ids: Sequence[str]) -> float:
    return sum(searches_of(run.episodes[key]) for key in ids) / len(ids)


def _mean_tokens(run: ScoredRun, ids: Sequence[str]) -> float:
    usages = [run.episodes[key].usage for key in ids]
    return sum(usage.prompt_tokens + usage.completion_tokens for usage in usages) / len(ids)
