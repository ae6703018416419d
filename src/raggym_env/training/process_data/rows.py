"""Process data as rows in TRL's conversational formats: plain dictionaries, without TRL.

    kind          columns                       for                            teaches (arXiv:2502.13957)
    sft           prompt, completion            `SFTTrainer`                   the kept actions of the actor
    preference    prompt, chosen, rejected      `DPOTrainer`                   pairs of one state's candidates
    reward        chosen, rejected              `RewardTrainer`                eq. 1: pairs for a critic to rank

Every column is a list of messages, each with a `role` and a `content`. Scores and outcomes decide which rows there
are; no row contains them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from raggym_env.core import Action, Answer, Search, State, state_rng
from raggym_env.errors import MissingExtra, OptionError, RunError, check_option
from raggym_env.mdp.metrics import read_option
from raggym_env.mdp.records import Candidate
from raggym_env.protocols import Messages
from raggym_env.storage.atomic import atomic_folder, new_folder
from raggym_env.text.state_chat import render as reward_text
from raggym_env.text.untrusted import one_line
from raggym_env.training.process_data.prompts import Renderer
from raggym_env.training.process_data.trajectories import Collection, Trajectory, TrajectoryStep, drawn

__all__ = ["Best", "Kind", "Row"]
__all__ += ["comparable", "export", "graded", "preference_rows", "reward_rows", "rows_of", "sft_rows"]

Best = Literal["executed", "top"]
Kind = Literal["sft", "preference", "reward"]
Row = dict[str, Messages]

Json = dict[str, Any]
T = TypeVar("T")

# Scores are in single precision, so a difference of exactly the margin may come out slightly below it.
_ROUNDING = 1e-6


def sft_rows(
    trajectories: Iterable[Trajectory],
    renderer: Renderer,
    *,
    best: Best = "executed",
    balance: bool = False,
    seed: int = 0,
) -> Iterator[Row]:
    """Yield one row per step: its prompt, and the reply of the agent to train that takes the good action.

    With `best` "executed" that is the executed action; steps in which another candidate scored higher (because of
    `explore`) are left out. With "top" it is the best-scored candidate, also in states that exploring led to.

    With `balance` there are as many rows that search as rows that answer among the states in which both are plausible:
    those after a first search that have another one left. The rows of the rarer kind are repeated, as many as are
    missing; `seed` draws those of an incomplete round.

    Raises:
        RunError: `balance`, and in those states all rows search or all answer.
    """
    check_option("best", best, best in get_args(Best), f"one of {get_args(Best)}")
    rows = _good_rows(trajectories, renderer, best)
    yield from (row for _, row in (_balanced(rows, seed) if balance else rows))


def _good_rows(
    trajectories: Iterable[Trajectory], renderer: Renderer, best: Best
) -> Iterator[tuple[type[Action] | None, Row]]:
    """Yield the rows, each with the kind of its action, or None where only one kind is plausible."""
    for step in _steps(trajectories):
        good = _top(step)
        if best == "executed" and good is not None:
            # Equal scores do not count as explored: the policy may have preferred another of the best.
            executed = next((option for option in step.candidates if option.action == step.action), None)
            good = None if executed is None or _score(executed) < _score(good) else executed
        if good is not None and (reply := renderer.reply(step, good)) is not None:
            row = {"prompt": renderer.prompt(step), "completion": _assistant(reply)}
            yield type(good.action) if _is_open(step.state) and good.action is not None else None, row


def _is_open(state: State) -> bool:
    """True if both a search and an answer are plausible: after a first search, with another one left."""
    return bool(state.history) and state.searches_left > 0


def _balanced(rows: Iterable[tuple[type[Action] | None, Row]], seed: int) -> Iterator[tuple[type[Action] | None, Row]]:
    rows = list(rows)
    searches, replies = ([row for row in rows if row[0] is kind] for kind in (Search, Answer))
    if not searches or not replies:
        raise RunError(
            f"The rows cannot be balanced: after a first search with another one left, {len(searches)} search and "
            f"{len(replies)} answer. Collect more, or leave out balance."
        )
    rarer, more = sorted((searches, replies), key=len)
    yield from rows
    if missing := len(more) - len(rarer):
        yield from drawn(rarer, missing / len(rarer), seed)


def preference_rows(
    trajectories: Iterable[Trajectory],
    renderer: Renderer,
    *,
    margin: float = 0.05,
    pairs: int = 1,
    balance: bool = False,
    seed: int = 0,
) -> Iterator[Row]:
    """Yield up to `pairs` rows per step: its prompt, the reply of the best-scored candidate and that of a worse one.

    Their scores differ by `margin`, above 0, at least. The worse candidates are drawn without replacement. With
    `balance` as many rows prefer a search as prefer an answer, in the states and in the way of `sft_rows`; else the
    kind that is better more often is learned in place of what tells them apart.

    Raises:
        RunError: `balance`, and in those states all rows prefer a search or all an answer.
    """
    _check(margin, pairs)
    rows = _preferences(trajectories, renderer, margin, pairs, seed)
    yield from (row for _, row in (_balanced(rows, seed) if balance else rows))


def _preferences(
    trajectories: Iterable[Trajectory], renderer: Renderer, margin: float, pairs: int, seed: int
) -> Iterator[tuple[type[Action] | None, Row]]:
    """Yield the rows, each with the kind of its better action, or None where only one kind is plausible."""
    for step in _steps(trajectories):
        good = _top(step)
        chosen = None if good is None else renderer.reply(step, good)
        if good is None or chosen is None:
            continue
        worse = [other for other in step.candidates if _beats(good, other, margin, step.state)]
        # Different actions may have the same reply, such as searches whose drafts the agent does not write.
        replies = dict.fromkeys(reply for other in worse if (reply := renderer.reply(step, other)) is not None)
        kind = type(good.action) if _is_open(step.state) and good.action is not None else None
        for rejected in _draw([*replies], step.state, pairs, seed):
            row = {"prompt": renderer.prompt(step), "chosen": _assistant(chosen), "rejected": _assistant(rejected)}
            yield kind, row


def reward_rows(
    trajectories: Iterable[Trajectory],
    *,
    margin: float = 0.05,
    pairs: int = 4,
    seed: int = 0,
    fit: Callable[[State], State] = lambda state: state,
) -> Iterator[Row]:
    """Yield up to `pairs` rows per step: a better and a worse candidate in their state, rendered as for `ModelReward`.

    They are drawn without replacement from all pairs whose scores differ by `margin`, above 0, at least. `fit` shortens
    a state to the model's context; see `text.state_chat.fitted`.
    """
    _check(margin, pairs)
    for step in _steps(trajectories):
        sample = _draw(comparable(step, margin), step.state, pairs, seed)
        state = fit(step.state) if sample else step.state  # fitting is slow: only where there are rows
        for better, worse in sample:
            yield {"chosen": reward_text(state, better), "rejected": reward_text(state, worse)}


def rows_of(
    kind: Kind, trajectories: Iterable[Trajectory], renderer: Renderer | None = None, **options: Any
) -> Iterator[Row]:
    """Return the rows of a kind. `options` are keyword arguments of its function; only rewards need no `renderer`."""
    check_option("kind", kind, kind in get_args(Kind), f"one of {get_args(Kind)}")
    if kind == "reward":
        return reward_rows(trajectories, **options)
    if renderer is None:
        raise OptionError(f"Rows of kind {kind!r} are made for an agent: pass a renderer.")
    return (sft_rows if kind == "sft" else preference_rows)(trajectories, renderer, **options)


def graded(trajectories: Iterable[Trajectory], weight: float) -> Iterator[Trajectory]:
    """Yield the trajectories with `weight` times its outcome added to the score of every answer.

    A critic that scores searches alone (`evidence`) gives correct and wrong answers of a state the same score.
    """
    for trajectory in trajectories:
        steps = []
        for step in trajectory.steps:
            options = [
                option._replace(score=_score(option) + weight * (option.outcome or 0.0)) for option in step.candidates
            ]
            steps.append(step._replace(candidates=tuple(sorted(options, key=_score, reverse=True))))
        yield replace(trajectory, steps=tuple(steps))


def comparable(step: TrajectoryStep, margin: float = 0.05) -> list[tuple[Action, Action]]:
    """Return all pairs of a state's actions, better first, that differ, and in score by at least `margin`."""
    # Best first, so that the first of a pair is the better one, also in steps that were made by hand.
    ranked = sorted(step.candidates, key=_score, reverse=True)
    return [
        (good.action, bad.action)
        for good, bad in combinations(ranked, 2)
        if good.action is not None and bad.action is not None and _beats(good, bad, margin, step.state)
    ]


def export(
    collection: Collection,
    out: str | Path,
    kind: Kind,
    renderer: Renderer | None = None,
    *,
    kept: bool = True,
    outcome_weight: float = 0.0,
    **options: Any,
) -> Json:
    """Write the rows of a collection as a folder that `datasets.load_from_disk`, and so TRL, reads.

    The folder appears whole or not at all. Rows are made for the agent of `renderer`, which only rewards do not need;
    from the trajectories that the collection keeps or, without `kept`, from all; with outcomes added as by `graded`.
    `options` are keyword arguments of the kind's function.

    Returns:
        The provenance, as written to `provenance.json`: settings, the collection's config and checksum, and counts.

    Raises:
        MissingExtra: The `datasets` library is not installed.
        RunError: `out` exists, there are no rows, or the collection is being written to.
    """
    out = new_folder(out)
    digest = collection.sha256
    trajectories = list(collection.trajectories(kept=kept))
    rows = list(rows_of(kind, graded(trajectories, outcome_weight), renderer, **options))
    if not rows:
        raise RunError(
            f"{collection.run.path} gives no {kind} rows of its {len(trajectories)} trajectories. Collect more "
            "questions or candidates, keep all trajectories, or lower the margin."
        )
    if collection.sha256 != digest:  # then the recorded checksum would be of other rows
        raise RunError(f"{collection.run.path} is being written to. Wait until `raggym collect` is done.")
    provenance = {
        "kind": kind,
        "options": {name: value for name, value in options.items() if name != "fit"},  # a function is no JSON
        "render": None if renderer is None else renderer.identity(),
        "kept": kept,
        "outcome_weight": outcome_weight,
        "collection": collection.run.config,
        "episodes_sha256": digest,
        "counts": {"trajectories": len(trajectories), "rows": len(rows)},
    }
    try:
        from datasets import Dataset
    except ImportError as error:
        raise MissingExtra("Exporting process data", "train") from error
    with atomic_folder(out) as folder:
        Dataset.from_list(rows).save_to_disk(folder)
        (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return provenance


def _steps(trajectories: Iterable[Trajectory]) -> Iterator[TrajectoryStep]:
    return (step for trajectory in trajectories for step in trajectory.steps)


def _score(candidate: Candidate) -> float:
    return -math.inf if candidate.score is None else candidate.score


def _top(step: TrajectoryStep) -> Candidate | None:
    """Return the best-scored candidate; among equals the one with the best outcome, then the first."""
    return max(step.candidates, key=lambda option: (_score(option), option.outcome or 0.0), default=None)


def _beats(good: Candidate, bad: Candidate, margin: float, state: State) -> bool:
    differs = _key(good.action, state) != _key(bad.action, state)
    return differs and _score(good) - _score(bad) >= margin - _ROUNDING


def _key(action: Action | None, state: State) -> tuple[type, object]:
    """Return a value that equal actions share. The draft is not part of it: a search is scored by its passages."""
    if isinstance(action, Search):
        return Search, one_line(action.query).casefold()
    text = "" if action is None else action.text
    # "B" and the text of option B are the same answer.
    option = read_option(text, state.question.options)
    return Answer, one_line(text).casefold() if option is None else option


def _draw(items: list[T], state: State, count: int, seed: int) -> list[T]:
    # The generator depends on the state alone, so more data changes no row of the states that were there before.
    return state_rng(seed, state, "pairs").sample(items, min(count, len(items)))


def _check(margin: float, pairs: int) -> None:
    check_option("margin", margin, margin > 0, "above 0")
    check_option("pairs", pairs, pairs >= 1, "at least 1")


def _assistant(reply: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": reply}]
