"""Scores recorded answers against the gold answers. Reads records and tasks; calls no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from raggym_env.cards import PriceCard
from raggym_env.core import Search, StopReason, Task, Usage
from raggym_env.evaluation.statistics import Estimate, bootstrap
from raggym_env.mdp.metrics import all_scores
from raggym_env.mdp.records import Episode
from raggym_env.rewards.evidence import evidence_recall

__all__ = ["GroupScores", "Prediction", "Scores", "groups_of", "score_record", "score_records", "searches_of"]

_GROUP_FIELDS = ("hops", "level")


class Prediction(NamedTuple):
    """A line of a predictions file: an answer without an episode."""

    id: str
    """The question's id."""
    answer: str | None
    error: None = None
    """As `Episode.error`: a predictions file has no say in what failed."""


@dataclass(frozen=True, slots=True)
class GroupScores:
    """The scored questions of one group, such as those of type "bridge"."""

    field: str
    """What the questions are grouped by: "type", "hops" or "level"."""
    value: str
    questions: int
    means: Mapping[str, float]
    """Mean of each metric, in [0, 1]."""


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
    no_action_reasons: Mapping[str, int] = field(default_factory=dict)
    """The most frequent reasons of those, at most three, with the number of questions."""
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    """Mean of each metric over the scored questions, in [0, 1]; `recall` is the share of gold passages found."""
    groups: Sequence[GroupScores] = ()
    """The same means by type, hops and level of the questions, for each of these that tells some of them apart."""
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

    @property
    def ranked(self) -> bool:
        """True if a mean can be compared: every question is scored, and at least one output was an action.

        Where none was, a setting is more likely wrong than every reply of the model.
        """
        return self.complete and self.no_action < self.questions


def score_records(
    records: Iterable[Episode | Prediction], tasks: Sequence[Task], price: PriceCard | None = None
) -> Scores:
    """Score episodes or plain predictions on a set of tasks.

    Answers are scored here, whatever scores a record claims. Where a question has several records the last one counts,
    as when a failed episode was run again; the cost of all of them adds up. Records of other questions are ignored.
    """
    latest: dict[str, Episode | Prediction | None] = dict.fromkeys(task.id for task in tasks)
    usage = Usage()
    # One at a time: a folder from somebody else may hold any number of records.
    for record in records:
        if record.id in latest:
            latest[record.id] = record
            usage += record.usage if isinstance(record, Episode) else Usage()
    answered = [(last, task) for task in tasks if (last := latest[task.id]) is not None]
    scored = [(record, task) for record, task in answered if record.error is None]
    by_task = [(task, score_record(record, task)) for record, task in scored]
    episodes = [record for record, _ in scored if isinstance(record, Episode)]
    unread = [episode.failure for episode in episodes if episode.stop == StopReason.NO_ACTION]
    return Scores(
        questions=len(tasks),
        scored=len(scored),
        failed=len(answered) - len(scored),
        no_action=len(unread),
        no_action_reasons=dict(Counter(filter(None, unread)).most_common(3)),
        metrics={name: bootstrap(column) for name, column in _columns(by_task).items()},
        groups=_groups(by_task),
        searches=sum(map(searches_of, episodes)) / len(episodes) if episodes else None,
        usage=usage,
        cost=None if price is None else _cost(usage, price),
    )


_TaskScores = tuple[Task, Mapping[str, float]]


def _columns(by_task: Iterable[_TaskScores]) -> dict[str, list[float]]:
    # Metrics differ between tasks: recall exists only where there are supporting facts.
    columns: dict[str, list[float]] = {}
    for _, scores in by_task:
        for name, value in scores.items():
            columns.setdefault(name, []).append(value)
    return columns


def _groups(by_task: Sequence[_TaskScores]) -> tuple[GroupScores, ...]:
    members: dict[tuple[str, str], list[_TaskScores]] = {}
    for task, scores in by_task:
        for key in groups_of(task).items():
            members.setdefault(key, []).append((task, scores))
    groups = []
    for (name, value), group in sorted(members.items()):
        if len(group) < len(by_task):  # else it says nothing that the whole does not
            means = {metric: sum(column) / len(column) for metric, column in _columns(group).items()}
            groups.append(GroupScores(name, value, len(group), means))
    return tuple(groups)


def groups_of(task: Task) -> dict[str, str]:
    """Return the groups that a question is in, by field: its type, and its hops and level if the data set has them."""
    groups = {"type": task.type} if task.type else {}
    return groups | {name: str(task.metadata[name]) for name in _GROUP_FIELDS if name in task.metadata}


def _cost(usage: Usage, price: PriceCard) -> float:
    # Providers bill cached tokens at a lower price, or not at all.
    cached = price.prompt if price.cached is None else price.cached
    cached_tokens = min(usage.cached_tokens, usage.prompt_tokens)  # some servers count them apart
    prompt = (usage.prompt_tokens - cached_tokens) * price.prompt + cached_tokens * cached
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
