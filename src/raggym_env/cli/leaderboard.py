"""`raggym leaderboard`: score runs and predictions again, and rank them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column

from raggym_env.cli._options import AsJson, Published, TrustCard, published_file
from raggym_env.cli._output import say, say_json, say_lines, show_table

if TYPE_CHECKING:
    from raggym_env.evaluation.leaderboard import Board

__all__ = ["leaderboard"]


def leaderboard(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders, folders of them, or predictions files (JSON: {ID: ANSWER}, or rows of id, prediction)."
        ),
    ],
    env: Annotated[str | None, typer.Option(help="Environment of the predictions files.")] = None,
    split: Annotated[str, typer.Option(help="Split of the predictions files.")] = "test",
    published: Published = False,
    as_json: AsJson = False,
    trust_card: TrustCard = False,
) -> None:
    """Rank finished runs. Answers are scored again from the records; no model is called, and nothing is downloaded.

    A source that cannot be scored is left out, with a line that says why. The exit code is 1 if none could be.
    """
    # Imported when called: `raggym --help` must not load pyarrow.
    from raggym_env.cards import env_card
    from raggym_env.evaluation import build_leaderboard

    def leave_out(source: Path, error: Exception) -> None:
        say(f"raggym: {source} is left out: {error}", err=True)

    sources, results = published_file(sources, published)
    card = None if env is None else env_card(env, trust=trust_card)
    board = build_leaderboard(sources, card=card, split=split, published=results, on_error=leave_out)
    if not board.boards:
        raise typer.Exit(1)
    if as_json:
        say_json(board.to_json())
    elif sys.stdout.isatty():
        for part in board.boards:
            _show(part)
    else:
        say_lines(board.to_markdown())


def _show(board: Board) -> None:
    from raggym_env.evaluation.leaderboard import COLUMNS

    say(f"{board.environment}, {board.split} split, {board.questions} questions")
    others = [name for name in board.metrics if name != board.metric]
    right = [f"{COLUMNS[board.metric]} [95 %]", *(COLUMNS[name] for name in others), "Searches", "Scored"]
    right += ["Tokens"] if board.has_tokens else []
    rows = []
    for place, row in enumerate(board.rows, 1):
        if (scores := row.scores) is None:
            continue
        figures = [_figure(row.figure(board.metric), interval=True), *(_figure(row.figure(name)) for name in others)]
        searches = "" if scores.searches is None else f"{scores.searches:.1f}"
        cells = [*figures, searches, f"{scores.scored}/{scores.questions}"]
        cells += [f"{scores.tokens:,}"] if board.has_tokens else []
        rows.append((str(place) if scores.ranked else "", row.policy, *cells))
    columns = [Column("", justify="right"), Column("Policy", ratio=1)]
    show_table([*columns, *(Column(head, justify="right") for head in right)], rows, lines=False)
    _show_cited(board)
    for note in board.notes():
        say(note)
    say("")


def _show_cited(board: Board) -> None:
    """Show the published rows in a table per publication and setting, for which a row of the ranking has no room."""
    from raggym_env.evaluation.leaderboard import COLUMNS, Row

    groups: dict[str, list[Row]] = {}
    for row in board.rows:
        if row.cited is not None:
            groups.setdefault("; ".join(filter(None, (row.source, row.setting))), []).append(row)
    for heading, rows in groups.items():
        say(f"Cited from {heading}")
        metrics = [name for name in COLUMNS if any(row.figure(name) for row in rows)]
        columns = [Column("Policy", ratio=1), *(Column(COLUMNS[name], justify="right") for name in metrics)]
        show_table(
            columns, [(row.policy, *(_figure(row.figure(name)) for name in metrics)) for row in rows], lines=False
        )


def _figure(figure: tuple[float, float | None, float | None] | None, *, interval: bool = False) -> str:
    if figure is None:
        return ""
    mean, low, high = figure
    # Two digits of the interval leave room for the policy's name in 80 columns.
    return f"{mean:.3f} [{low:.2f}, {high:.2f}]" if interval and low is not None else f"{mean:.3f}"
