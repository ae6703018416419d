"""`raggym leaderboard`: score runs and predictions again, and rank them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from raggym_env.cli._options import AsJson

__all__ = ["leaderboard"]


def leaderboard(
    sources: Annotated[list[Path], typer.Argument(help="Run folders, or predictions files (lines of id, prediction).")],
    env: Annotated[str | None, typer.Option(help="Environment of the predictions files.")] = None,
    split: Annotated[str, typer.Option(help="Split of the predictions files.")] = "test",
    published: Annotated[Path | None, typer.Option(help="TOML file of published results to show as well.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write an HTML page with the trajectories to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank finished runs. Answers are scored again from the records; no model is called, and nothing is downloaded.

    A source that cannot be scored is left out, with a line that says why. The exit code is 1 if none could be.
    """
    # Imported when called: `raggym --help` must not load pyarrow.
    from raggym_env.evaluation import build_leaderboard, html_report
    from raggym_env.text.untrusted import one_line

    left_out = []

    def leave_out(source: Path, error: Exception) -> None:
        left_out.append(source)
        typer.echo(f"raggym: {one_line(f'{source} is left out: {error}')}", err=True)

    board = build_leaderboard(sources, card=env, split=split, published=published, on_error=leave_out)
    if len(left_out) == len(sources):
        raise typer.Exit(1)
    if html is not None:
        html.write_text(html_report(board), encoding="utf-8")
    typer.echo(json.dumps(board.to_json(), indent=2) if as_json else board.to_markdown())
