"""`raggym report`: one HTML page about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raggym_env.cli._options import Published, published_file
from raggym_env.cli._output import say

__all__ = ["report"]


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, finished or still running.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("report.html"),
    published: Published = False,
    training: Annotated[
        list[Path] | None, typer.Option(help="Folder of `raggym train` whose curves to show. May be repeated.")
    ] = None,
) -> None:
    """Write one HTML file with leaderboard, paired differences, plots and every episode. It needs no network."""
    from raggym_env.evaluation import build_leaderboard, write_report

    runs, results = published_file(runs, published)
    board = build_leaderboard(runs, published=results)
    path = write_report(board, output, training=training or ())
    say(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB). Open it in a browser.")
