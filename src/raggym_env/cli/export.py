"""`raggym export`: process data as rows for TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raggym_env.cli._options import Data, TrustCard
from raggym_env.cli._output import say

__all__ = ["export"]


def export(
    data: Data,
    to: Annotated[Literal["sft", "preference", "reward"], typer.Option(help="Kind of rows.")],
    out: Annotated[Path, typer.Option(help="Folder to create; `datasets.load_from_disk` reads it.")],
    agent: Annotated[str, typer.Option("--as", metavar="POLICY", help="Prompt agent to train.")] = "react",
    every: Annotated[bool, typer.Option("--all", help="Use all trajectories, not only the kept ones.")] = False,
    margin: Annotated[float, typer.Option(min=0.001, help="Least difference of scores in a pair.")] = 0.05,
    pairs: Annotated[int | None, typer.Option(min=1, help="Maximum number of pairs per state.")] = None,
    outcome_weight: Annotated[float, typer.Option(help="Weight of an answer's outcome, added to its score.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the pairs that are drawn.")] = 0,
    trust_card: TrustCard = False,
) -> None:
    """Export process data as rows for TRL's SFT, DPO or reward trainer."""
    from raggym_env.cards import policy_card
    from raggym_env.training import Collection, Renderer
    from raggym_env.training import export as run_export

    options: dict[str, Any] = {} if to == "sft" else {"seed": seed, "margin": margin}
    if to != "sft" and pairs is not None:  # otherwise the kind's own default
        options["pairs"] = pairs
    options |= {"kept": not every, "outcome_weight": outcome_weight}
    renderer = None if to == "reward" else Renderer(policy_card(agent, trust=trust_card))
    provenance = run_export(Collection.read(data), out, to, renderer, **options)
    counts = provenance["counts"]
    say(f"{counts['rows']:,} {to} rows of {counts['trajectories']:,} trajectories: {out}")
