"""Scores of recorded answers against the gold answers. Reads records and tasks; calls no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from raggym_env.cards import PriceCard
from raggym_env.core import StopReason, Task, Usage
from raggym_env.mdp.metrics import all_scores
from raggym_env.rewards.evidence import evidence_recall

__all__ = ["Estimate", "Scores", "bootstrap", "score_record", "score_records"]

_RESAMPLES = 2000


class Estimate(NamedTuple):
    """A mean over questions with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Scores:
    """What a set of records is worth on a set of tasks.

    Every question of the set is scored, failed or missing; only scored ones enter a mean. So a mean is the score
    on the whole set exactly if `complete`, and an incomplete set is not to be ranked.
    """

    questions: int
    """Questions of the set."""
    scored: int
    """Questions with an answer, or with an episode that ended without one (which scores 0)."""
    failed: int
    """Questions whose episode failed for no fault of the policy's, such as a dead server. They have no score."""
    no_action: int = 0
    """Questions scored 0 because the policy's output was no action; part of `scored`."""
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    """Mean of each metric over the scored questions, in [0, 1]; `recall` is the share of gold passages found."""
    searches: float | None = None
    """Mean number of searches of a scored episode; None for plain predictions."""
    usage: Usage = field(default_factory=Usage)
    """Totals over all episodes, failed ones included."""
    cost: float | None = None
    """Total in US dollars; None where no price is known."""

    @property
    def missing(self) -> int:
        """Questions without any record."""
        return self.questions - self.scored - self.failed

    @property
    def tokens(self) -> int:
        """Total of prompt and completion tokens."""
        return self.usage.prompt_tokens + self.usage.completion_tokens

    @property
    def complete(self) -> bool:
        return self.scored == self.questions


def bootstrap(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean and its 95 % percentile-bootstrap interval (Efron, 1979), from 2,000 resamples.

    >>> bootstrap([1.0, 1.0])
    Estimate(mean=1.0, low=1.0, high=1.0)

    Raises:
        ValueError: There are no values.
    """
    if not len(values):
        raise ValueError("A mean needs at least one value, got none.")
    sample = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    # A block at a time: all resamples of a large set at once would take gigabytes.
    block = max(1, 2_000_000 // len(sample))
    means = np.concatenate(
        [
            sample[rng.integers(len(sample), size=(min(block, _RESAMPLES - start), len(sample)))].mean(axis=1)
            for start in range(0, _RESAMPLES, block)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(sample.mean()), float(low), float(high))


def score_records(
    records: Iterable[Mapping[str, Any]], tasks: Sequence[Task], price: PriceCard | None = None
) -> Scores:
    """Score episode records, or plain predictions (`{"id", "prediction"}`), on a set of tasks.

    Answers are scored here, whatever a record claims of its score. Where a question has several records the last
    counts for its score, as when a failed episode was run again; what all of them cost adds up. Records of other
    questions are passed over.
    """
    records = list(records)
    latest = {record["id"]: record for record in records}
    found = [(latest[task.id], task) for task in tasks if task.id in latest]
    done = [(record, task) for record, task in found if record.get("error") is None]
    values: dict[str, list[float]] = {}
    for record, task in done:
        for name, value in score_record(record, task).items():
            values.setdefault(name, []).append(value)
    searches = [_searches(record) for record, _ in done if "steps" in record]
    asked = {task.id for task in tasks}
    usages = (Usage(**record["usage"]) for record in records if "usage" in record and record["id"] in asked)
    usage = sum(usages, Usage())
    return Scores(
        questions=len(tasks),
        scored=len(done),
        failed=len(found) - len(done),
        no_action=sum(record.get("stop") == StopReason.NO_ACTION for record, _ in done),
        metrics={name: bootstrap(column) for name, column in values.items()},
        searches=sum(searches) / len(searches) if searches else None,
        usage=usage,
        cost=None if price is None else _cost(usage, price),
    )


def _cost(usage: Usage, price: PriceCard) -> float:
    cached = price.prompt if price.cached is None else price.cached
    prompt = (usage.prompt_tokens - usage.cached_tokens) * price.prompt + usage.cached_tokens * cached
    return (prompt + usage.completion_tokens * price.completion) / 1e6


def score_record(record: Mapping[str, Any], task: Task) -> dict[str, float]:
    """The scores in [0, 1] of one ended episode, or of one prediction, by metric; `recall` where there is evidence."""
    scores = dict(all_scores(record["prediction"] if "prediction" in record else record["answer"], task))
    if "steps" in record:
        titles = (title for step in record["steps"] for _, title, *_ in step.get("passages", ()))
        if (recall := evidence_recall(task, titles)) is not None:
            scores["recall"] = recall
    return scores


def _searches(record: Mapping[str, Any]) -> int:
    """Searches that were run: the one that exceeded the budget was not."""
    return sum("search" in step for step in record["steps"]) - (record.get("stop") == StopReason.SEARCH_BUDGET)
