"""Process data as rows in TRL's conversational formats: plain dictionaries, without TRL.

    kind          columns                       for                            what it teaches (arXiv:2502.13957)
    sft           prompt, completion            `SFTTrainer`                   the kept actions of the actor
    preference    prompt, chosen, rejected      `DPOTrainer`                   pairs of one state's candidates
    reward        chosen, rejected              `RewardTrainer`                eq. 1: pairs that a critic has to rank

Every column is a list of messages, each with a `role` and a `content`. Labels (scores and outcomes) decide which
rows there are; they are never part of one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from raggym_env.core import Action, Answer, Search, State, state_rng
from raggym_env.errors import MissingExtra, OptionError, RunError
from raggym_env.mdp.metrics import read_option
from raggym_env.protocols import Messages
from raggym_env.text.state_chat import render as reward_text
from raggym_env.text.untrusted import one_line
from raggym_env.training.process_data.prompts import Render
from raggym_env.training.process_data.trajectories import Choice, Collection, Labelled, Trajectory

__all__ = [
    "Best",
    "Kind",
    "Render",
    "Row",
    "comparable",
    "export",
    "graded",
    "preference_rows",
    "reward_rows",
    "rows_of",
    "sft_rows",
]

Best = Literal["executed", "top"]
Kind = Literal["sft", "preference", "reward"]
Row = dict[str, list[dict[str, str]]]

Json = dict[str, Any]
T = TypeVar("T")

# Scores are single-precision: what differs by exactly the margin may come out a little below it.
_ROUNDING = 1e-6


def sft_rows(trajectories: Iterable[Trajectory], render: Render, *, best: Best = "executed") -> Iterator[Row]:
    """One row per step: its prompt, and the reply that takes the good action.

    Args:
        trajectories: Those to imitate, such as `Collection.trajectories()`.
        render: The agent to train.
        best: Which action is good. "executed": the one that was executed; steps in which it was not the best-scored
            (`explore`) are left out. "top": the best-scored candidate; also of states that exploring led to.
    """
    if best not in get_args(Best):
        raise OptionError(f"best must be one of {get_args(Best)}, got {best!r}.")
    for choice in _choices(trajectories):
        good = _top(choice) if best == "top" else _executed(choice)
        if good is not None and (reply := render.reply(choice, good)) is not None:
            yield {"prompt": _plain(render.prompt(choice)), "completion": [_said(reply)]}


def preference_rows(
    trajectories: Iterable[Trajectory], render: Render, *, margin: float = 0.05, pairs: int = 1, seed: int = 0
) -> Iterator[Row]:
    """Up to `pairs` rows per step: its prompt, the reply of the best-scored candidate and that of a worse one.

    Args:
        trajectories: Those to learn from.
        render: The agent to train.
        margin: What the worse one's score is lower by, at least; above 0.
        pairs: Rows per step, at least 1; the worse candidates are drawn without replacement.
        seed: Seed of what is drawn; the same state draws the same.
    """
    _check(margin, pairs)
    for choice in _choices(trajectories):
        good = _top(choice)
        chosen = None if good is None else render.reply(choice, good)
        if good is None or chosen is None:
            continue
        worse = [other for other in choice.candidates if _beats(good, other, margin, choice.state)]
        replies = dict.fromkeys(reply for other in worse if (reply := render.reply(choice, other)) is not None)
        for rejected in _drawn([*replies], choice.state, pairs, seed):
            yield {
                "prompt": _plain(render.prompt(choice)),
                "chosen": [_said(chosen)],
                "rejected": [_said(rejected)],
            }


def reward_rows(
    trajectories: Iterable[Trajectory],
    *,
    margin: float = 0.05,
    pairs: int = 4,
    seed: int = 0,
    fit: Callable[[State], State] = lambda state: state,
) -> Iterator[Row]:
    """Up to `pairs` rows per step: a candidate and one of lower score, in their state, as `ModelReward` is shown them.

    Args:
        trajectories: Those to learn from.
        margin: What the scores differ by, at least; above 0.
        pairs: Rows per step, at least 1; drawn without replacement from all pairs of candidates.
        seed: Seed of what is drawn; the same state draws the same.
        fit: Shortens a state to what the model has room for; see `rewards.text.fitted`.
    """
    _check(margin, pairs)
    for choice in _choices(trajectories):
        drawn = _drawn(comparable(choice, margin), choice.state, pairs, seed)
        state = fit(choice.state) if drawn else choice.state
        for good, bad in drawn:
            yield {"chosen": reward_text(state, good.action), "rejected": reward_text(state, bad.action)}


def rows_of(
    kind: Kind, trajectories: Iterable[Trajectory], render: Render | None = None, **options: Any
) -> Iterator[Row]:
    """The rows of a kind. `options` are the keyword arguments of its function; only rewards need no `render`."""
    if kind not in get_args(Kind):
        raise OptionError(f"kind must be one of {get_args(Kind)}, got {kind!r}.")
    if kind == "reward":
        return reward_rows(trajectories, **options)
    if render is None:
        raise OptionError(f"Rows of kind {kind!r} are made for an agent: pass a render.")
    return (sft_rows if kind == "sft" else preference_rows)(trajectories, render, **options)


def graded(trajectories: Iterable[Trajectory], weight: float) -> Iterator[Trajectory]:
    """The trajectories with `weight` times its outcome added to the score of every answer.

    A critic that looks at searches alone (`evidence`) gives right and wrong answers of a state the same score.
    """
    for trajectory in trajectories:
        yield replace(trajectory, choices=tuple(_graded(choice, weight) for choice in trajectory.choices))


def _graded(choice: Choice, weight: float) -> Choice:
    found = [each._replace(score=each.score + weight * (each.outcome or 0.0)) for each in choice.candidates]
    return choice._replace(candidates=tuple(sorted(found, key=lambda candidate: -candidate.score)))


def comparable(choice: Choice, margin: float = 0.05) -> list[tuple[Labelled, Labelled]]:
    """All pairs of a state's candidates, better first, that differ as actions and in score by at least `margin`."""
    ranked = sorted(choice.candidates, key=lambda candidate: -candidate.score)
    return [(good, bad) for good, bad in combinations(ranked, 2) if _beats(good, bad, margin, choice.state)]


def export(
    collection: Collection,
    out: str | Path,
    kind: Kind,
    render: Render | None = None,
    *,
    kept: bool = True,
    outcome_weight: float = 0.0,
    **options: Any,
) -> Json:
    """Write the rows of a collection as a folder that `datasets.load_from_disk` and so TRL read.

    The folder appears whole or not at all. Its `provenance.json` says what it was made from.

    Args:
        collection: Process data.
        out: Folder to make.
        kind: Which rows.
        render: The agent that rows are made for; only rewards need none.
        kept: False for rows of all trajectories, whatever was to be kept.
        outcome_weight: See `graded`.
        options: Keyword arguments of the kind's function.

    Returns:
        The provenance: settings, the collection's config and hash, and counts of trajectories and rows.

    Raises:
        MissingExtra: The `datasets` library is not installed.
        RunError: `out` exists, there are no rows, or the collection is just being written to.
    """
    out = Path(out)
    if out.exists():
        raise RunError(f"{out} exists. Choose another folder to export to, or delete that one.")
    digest = collection.sha256
    trajectories = list(collection.trajectories(kept=kept))
    rows = list(rows_of(kind, graded(trajectories, outcome_weight), render, **options))
    if not rows:
        raise RunError(
            f"{collection.run.path} gives no {kind} rows: {len(trajectories)} trajectories were kept. Collect more "
            "questions or candidates, keep all of them, or lower the margin."
        )
    if collection.sha256 != digest:
        raise RunError(f"{collection.run.path} is just being written to. Wait until `raggym collect` is done.")
    provenance = {
        "kind": kind,
        "options": {name: value for name, value in options.items() if name != "fit"},
        "render": None if render is None else render.identity(),
        "kept": kept,
        "outcome_weight": outcome_weight,
        "collection": collection.run.config,
        "episodes_sha256": digest,
        "counts": {"trajectories": len(trajectories), "rows": len(rows)},
    }
    _save(rows, provenance, out)
    return provenance


def _save(rows: list[Row], provenance: Json, out: Path) -> None:
    try:
        from datasets import Dataset
    except ImportError as error:
        raise MissingExtra("Exporting process data", "train") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
        folder = Path(beside) / "rows"
        Dataset.from_list(rows).save_to_disk(folder)
        (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
        folder.rename(out)


def _choices(trajectories: Iterable[Trajectory]) -> Iterator[Choice]:
    return (choice for trajectory in trajectories for choice in trajectory.choices)


def _top(choice: Choice) -> Labelled | None:
    """The best-scored candidate; between equals the one known to be more right, then the earlier."""
    return max(choice.candidates, key=lambda candidate: (candidate.score, candidate.outcome or 0.0), default=None)


def _executed(choice: Choice) -> Labelled | None:
    """The executed candidate if none is scored higher."""
    executed = next((candidate for candidate in choice.candidates if candidate.action == choice.action), None)
    top = _top(choice)
    return None if executed is None or top is None or executed.score < top.score else executed


def _beats(good: Labelled, bad: Labelled, margin: float, state: State) -> bool:
    return good.score - bad.score >= margin - _ROUNDING and _key(good.action, state) != _key(bad.action, state)


def _key(action: Action, state: State) -> tuple[type[Action], object]:
    """What equal actions share. A draft is no part of it: a search is scored for what it finds."""
    text = action.query if isinstance(action, Search) else action.text
    option = read_option(text, state.question.options) if isinstance(action, Answer) else None
    return type(action), one_line(text).casefold() if option is None else option


def _drawn(possible: list[T], state: State, count: int, seed: int) -> list[T]:
    return state_rng(seed, state, "pairs").sample(possible, min(count, len(possible)))


def _check(margin: float, pairs: int) -> None:
    if not margin > 0:
        raise OptionError(f"margin must be above 0, got {margin}.")
    if pairs < 1:
        raise OptionError(f"pairs must be at least 1, got {pairs}.")


def _plain(messages: Messages) -> list[dict[str, str]]:
    return [dict(message) for message in messages]


def _said(reply: str) -> dict[str, str]:
    return {"role": "assistant", "content": reply}
