"""`raggym export`: process data as rows for TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

__all__ = ["export"]


def export(
    data: Annotated[Path, typer.Argument(help="Folder made by `raggym collect`.")],
    to: Annotated[Literal["sft", "preference", "reward"], typer.Option(help="For which training.")],
    out: Annotated[Path, typer.Option(help="Folder to make; `datasets.load_from_disk` reads it.")],
    agent: Annotated[str, typer.Option("--as", metavar="POLICY", help="Prompt agent to train.")] = "react",
    every: Annotated[bool, typer.Option("--all", help="Of all trajectories, not only of those to be kept.")] = False,
    margin: Annotated[float, typer.Option(min=0.001, help="Least difference of scores in a pair.")] = 0.05,
    pairs: Annotated[int | None, typer.Option(min=1, help="Pairs per state.")] = None,
    outcome_weight: Annotated[float, typer.Option(help="Weight of an answer's outcome, added to its score.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the pairs that are drawn.")] = 0,
) -> None:
    """Export process data as rows for TRL's SFT, DPO or reward trainer."""
    from raggym_env.training.process_data.rows import Render
    from raggym_env.training.process_data.rows import export as run_export
    from raggym_env.training.process_data.trajectories import Collection

    options: dict[str, Any] = {} if to == "sft" else {"seed": seed, "margin": margin}
    if to != "sft" and pairs is not None:
        options["pairs"] = pairs
    render = None if to == "reward" else Render(agent)
    collection = Collection.read(data)
    written = run_export(collection, out, to, render, kept=not every, outcome_weight=outcome_weight, **options)
    counts = written["counts"]
    typer.echo(f"{counts['rows']:,} {to} rows of {counts['trajectories']:,} trajectories: {out}")
