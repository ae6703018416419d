"""`raggym export`: process data as rows for TRL, and runs for other evaluation tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raggym_env.cards import policy_card
from raggym_env.cli._options import TrustCard
from raggym_env.cli._output import say

__all__ = ["export"]


def export(
    data: Annotated[
        Path, typer.Argument(help="Folder made by `raggym collect`; for inspect and trec, by `raggym eval`.")
    ],
    to: Annotated[
        Literal["sft", "preference", "reward", "inspect", "trec"],
        typer.Option(help="Rows for TRL (sft, preference, reward), a log for `inspect view`, or TREC's run and qrels."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to create; `datasets.load_from_disk` reads one of rows.")],
    agent: Annotated[str, typer.Option("--as", metavar="POLICY", help="Prompt agent to train.")] = "react",
    every: Annotated[bool, typer.Option("--all", help="Use all trajectories, not only the kept ones.")] = False,
    margin: Annotated[float, typer.Option(min=0.001, help="Least difference of scores in a pair.")] = 0.05,
    pairs: Annotated[int | None, typer.Option(min=1, help="Maximum number of pairs per state.")] = None,
    outcome_weight: Annotated[float, typer.Option(help="Weight of an answer's outcome, added to its score.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the pairs that are drawn.")] = 0,
    trust_card: TrustCard = False,
) -> None:
    """Export process data for TRL's SFT, DPO or reward trainer, or a run for inspect_ai or TREC's tools."""
    if to == "inspect":
        return _export_inspect(data, out)
    if to == "trec":
        return _export_trec(data, out)
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


def _export_inspect(run: Path, out: Path) -> None:
    from raggym_env.integrations.inspect import export_log

    log = export_log(run, out)
    say(f"A log for inspect_ai: {log}. `inspect view --log-dir {out}` shows it.")


def _export_trec(run: Path, out: Path) -> None:
    from raggym_env.integrations.trec import export_trec

    counts = export_trec(run, out)
    left_out = f" ({counts.left_out:,} left out)" if counts.left_out else ""
    say(f"{counts.documents:,} documents for {counts.questions:,} questions{left_out}: {out}")
