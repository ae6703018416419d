"""Scores recorded answers against the gold answers. Reads records and tasks; calls no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from raggym_env.cards import PriceCard
from raggym_env.core import Search, StopReason, Task, Usage
from raggym_env.evaluation.statistics import Estimate, bootstrap
from raggym_env.mdp.metrics import all_scores
from raggym_env.mdp.records import Episode
from raggym_env.rewards.evidence import evidence_recall

__all__ = ["Prediction", "Scores", "score_record", "score_records", "searches_of"]


class Prediction(NamedTuple):
    """A line of a predictions file: an answer without an episode."""

    id: str
    """The question's id."""
    answer: str | None
    error: None = None
    """As `Episode.error`: a predictions file has no say in what failed."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a set of records on a set of tasks.

    Each question counts as exactly one of scored, failed or missing, and only scored ones enter a mean. A mean is
    therefore the score on the whole set only if `complete`, and an incomplete set must not be ranked.
    """

    questions: int
    """Questions of the set."""
    scored: int
    """Questions with an answer, or with an episode that ended without one (which scores 0)."""
    failed: int
    """Questions whose episode failed through no fault of the policy, such as a dead server. They have no score."""
    no_action: int = 0
    """Questions scored 0 because the policy's output was no action; part of `scored`."""
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    """Mean of each metric over the scored questions, in [0, 1]; `recall` is the share of gold passages found."""
    searches: float | None = None
    """Mean number of searches of a scored episode; None for plain predictions."""
    usage: Usage = field(default_factory=Usage)
    """Totals over all episodes, failed ones included."""
    cost: float | None = None
    """Total cost in US dollars; None if the model has no price."""

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


def score_records(
    records: Iterable[Episode | Prediction], tasks: Sequence[Task], price: PriceCard | None = None
) -> Scores:
    """Score episodes or plain predictions on a set of tasks.

    Answers are scored here, whatever scores a record claims. Where a question has several records the last one counts,
    as when a failed episode was run again; the cost of all of them adds up. Records of other questions are ignored.
    """
    records = list(records)
    # A later record of the same question replaces an earlier one.
    latest = {record.id: record for record in records}
    answered = [(latest[task.id], task) for task in tasks if task.id in latest]
    scored = [(record, task) for record, task in answered if record.error is None]
    # Metrics differ between tasks: recall exists only where there are supporting facts.
    values: dict[str, list[float]] = {}
    for record, task in scored:
        for name, value in score_record(record, task).items():
            values.setdefault(name, []).append(value)
    episodes = [record for record, _ in scored if isinstance(record, Episode)]
    ids = {task.id for task in tasks}
    usage = sum((record.usage for record in records if isinstance(record, Episode) and record.id in ids), Usage())
    return Scores(
        questions=len(tasks),
        scored=len(scored),
        failed=len(answered) - len(scored),
        no_action=sum(episode.stop == StopReason.NO_ACTION for episode in episodes),
        metrics={name: bootstrap(column) for name, column in values.items()},
        searches=sum(map(searches_of, episodes)) / len(episodes) if episodes else None,
        usage=usage,
        cost=None if price is None else _cost(usage, price),
    )


def _cost(usage: Usage, price: PriceCard) -> float:
    # Providers bill cached tokens at a lower price, or not at all.
    cached = price.prompt if price.cached is None else price.cached
    prompt = (usage.prompt_tokens - usage.cached_tokens) * price.prompt + usage.cached_tokens * cached
    return (prompt + usage.completion_tokens * price.completion) / 1e6  # prices are per million tokens


def score_record(record: Episode | Prediction, task: Task) -> dict[str, float]:
    """Return a record's scores in [0, 1] by metric, with `recall` for episodes on tasks with supporting facts."""
    scores = dict(all_scores(record.answer, task))
    if isinstance(record, Episode):
        titles = (passage.title for step in record.steps for passage in step.passages)
        if (recall := evidence_recall(task, titles)) is not None:
            scores["recall"] = recall
    return scores


def searches_of(episode: Episode) -> int:
    """Return the number of searches that were run; the one beyond the budget was not."""
    searches = sum(isinstance(step.action, Search) for step in episode.steps)
    return searches - (episode.stop == StopReason.SEARCH_BUDGET)
