"""`raggym leaderboard`: score runs and predictions again, and rank them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raggym_env.cli._options import AsJson, TrustCard
from raggym_env.cli._output import say_json, say_lines

__all__ = ["leaderboard"]


def leaderboard(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Run folders, or predictions files (JSON: {ID: ANSWER}, or rows of id, prediction)."),
    ],
    env: Annotated[str | None, typer.Option(help="Environment of the predictions files.")] = None,
    split: Annotated[str, typer.Option(help="Split of the predictions files.")] = "test",
    published: Annotated[Path | None, typer.Option(help="TOML file of published results to show as well.")] = None,
    as_json: AsJson = False,
    trust_card: TrustCard = False,
) -> None:
    """Rank finished runs. Answers are scored again from the records; no model is called."""
    # Imported when called: `raggym --help` must not load pyarrow.
    from raggym_env.cards import env_card
    from raggym_env.evaluation import build_leaderboard

    card = None if env is None else env_card(env, trust=trust_card)
    board = build_leaderboard(sources, card=card, split=split, published=published)
    if as_json:
        say_json(board.to_json())
    else:
        say_lines(board.to_markdown())
