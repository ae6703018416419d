"""`raggym compare`: is one run better than another, by how much, and where?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raggym_env.cli._options import AsJson
from raggym_env.cli._output import say, say_json, show_table

if TYPE_CHECKING:
    from raggym_env.evaluation.compare import Comparison
    from raggym_env.evaluation.statistics import Estimate

__all__ = ["compare"]

_MAX_FLIPS = 20


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders on the same questions; the first is the baseline.")],
    flips: Annotated[bool, typer.Option("--flips", help="List the questions that one run has right only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare runs with the first one, question by question.

    Each difference has a paired bootstrap interval and the p-value of a permutation test. With more than two runs, the
    p-values of the ranking metric are also corrected by Holm's method.
    """
    from raggym_env.evaluation.compare import compare as compare_runs

    comparisons = compare_runs(runs)
    if as_json:
        say_json([comparison.to_json() for comparison in comparisons])
        return
    for number, comparison in enumerate(comparisons):
        if number:
            say("")
        _print(comparison, (runs[0], runs[number + 1]), len(comparisons))
        if flips:
            _print_flips("Gained", comparison.won, runs[number + 1])
            _print_flips("Lost", comparison.lost, runs[number + 1])


def _print(comparison: Comparison, folders: tuple[Path, Path], comparisons: int) -> None:
    from rich.table import Column

    from raggym_env.evaluation.leaderboard import COLUMNS

    left_out = f" ({comparison.left_out:,} left out: not scored in both)" if comparison.left_out else ""
    # Two runs of one policy, with other settings of the environment, have one label.
    names = (comparison.first, comparison.second) if comparison.first != comparison.second else folders
    lines = (
        f"{comparison.environment}, {comparison.split} split: {comparison.questions:,} questions{left_out}",
        f"  A      {comparison.first}: {folders[0]}",
        f"  B      {comparison.second}: {folders[1]}",
        f"  B - A  how much higher {names[1]} scores than {names[0]}",
    )
    for line in lines:
        say(line)
    rows: list[tuple[str, ...]] = []
    for part in comparison.differences:
        figures = (_figure(part.first), _figure(part.second), _interval(part.difference), _p_value(part.p_value))
        rows.append((COLUMNS.get(part.metric, part.metric), *figures, f"{part.wins}/{part.ties}/{part.losses}"))
    for name, (first, second), digits in (("Searches", comparison.searches, 2), ("Tokens", comparison.tokens, 0)):
        if first or second:
            change = f"{second - first:+,.{digits}f}"
            rows.append((name, f"{first:,.{digits}f}", f"{second:,.{digits}f}", change, "", ""))
    for group in comparison.groups:
        size = f"n={group.questions}"
        means = (_figure(group.first), _figure(group.second), _interval(group.difference))
        rows.append((f"{group.field} {group.value}", *means, "", size))
    heads = ("A", "B", "B - A [95 %]", "p", "win/tie/loss")
    columns = [Column("", no_wrap=True), *(Column(head, justify="right", no_wrap=True) for head in heads)]
    show_table(columns, rows, lines=False)
    main = comparison.main
    notes = [f"Kinds of questions by {COLUMNS.get(main.metric, main.metric)}."] if comparison.groups else []
    if main.mcnemar is not None:
        notes.append(f"McNemar, {COLUMNS.get(main.metric, main.metric)}: p {_p_value(main.mcnemar)}.")
    if comparisons > 1:
        notes.append(f"Corrected for {comparisons} comparisons (Holm): p {_p_value(comparison.corrected)}.")
    say(" ".join(notes))


def _figure(value: float, sign: str = "") -> str:
    """Return a score or a difference without its leading zero, so that a line fits into 80 columns."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1)


def _interval(estimate: Estimate) -> str:
    mean, low, high = (_figure(value, "+") for value in estimate)
    return f"{mean} [{low}, {high}]"


def _p_value(p_value: float) -> str:
    # The smallest that the permutation test can give is .0001.
    return "<.001" if p_value < 0.001 else _figure(p_value)


def _print_flips(title: str, ids: Sequence[str], run: Path) -> None:
    say(f"{title}: {len(ids)} questions" + (f" (`raggym show {run} ID` shows one)" if ids else ""))
    for question in ids[:_MAX_FLIPS]:
        say(f"  {question}")
    if len(ids) > _MAX_FLIPS:
        say(f"  and {len(ids) - _MAX_FLIPS} more: --json lists all")
