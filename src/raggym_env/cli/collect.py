"""`raggym collect`: process data from a policy and a scorer; a look at it; its export for TRL."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from raggym_env.cli._progress import EpisodeBar
from raggym_env.cli.evaluate import parse_settings
from raggym_env.errors import RunError

__all__ = ["collect"]

_LOOK, _EXPORT = "Looking at process data", "Exporting process data"


class Keep(enum.StrEnum):
    correct = "correct"
    all = "all"


class Execute(enum.StrEnum):
    best = "best"
    own = "own"


class To(enum.StrEnum):
    sft = "sft"
    preference = "preference"
    reward = "reward"


def collect(
    env: Annotated[
        str | None, typer.Argument(help="Environment: an id (`raggym envs`) or the path of a card.", show_default=False)
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Policy: a name (`raggym policies`) or the path of a card.")
    ] = None,
    scorer: Annotated[str, typer.Option(help="Process reward that scores the candidates.")] = "mini",
    n: Annotated[int, typer.Option("--n", min=1, help="Candidates per state.")] = 10,
    split: Annotated[str, typer.Option(help="Split of the environment, one named train...")] = "train",
    keep: Annotated[
        Keep | None,
        typer.Option(help="Trajectories to learn from: right answers only, or all.", show_default="correct"),
    ] = None,
    execute: Annotated[
        Execute, typer.Option(help="What is executed: the best candidate, or the policy's own choice.")
    ] = Execute.best,
    explore: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the states in which a random candidate is executed.")
    ] = 0.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first N questions only.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the policy, of what is explored and of the pairs exported.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder. Default for collecting: below runs/.")] = None,
    llm: Annotated[str | None, typer.Option(help="Language model, e.g. hf:smollm2 or openai:MODEL@URL.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a card, e.g. policy.search.critic_options.seed=1."),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Episodes that run side by side.")] = 32,
    inspect: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Print some trajectories of it.", rich_help_panel=_LOOK)
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="How many.", rich_help_panel=_LOOK)] = 3,
    export: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write rows for TRL to --out.", rich_help_panel=_EXPORT)
    ] = None,
    to: Annotated[To, typer.Option(help="For which training.", rich_help_panel=_EXPORT)] = To.sft,
    render_as: Annotated[
        str, typer.Option("--as", metavar="POLICY", help="Prompt agent to train.", rich_help_panel=_EXPORT)
    ] = "react",
    margin: Annotated[
        float | None, typer.Option(min=0.001, help="Least difference of scores in a pair.", rich_help_panel=_EXPORT)
    ] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="Pairs per state.", rich_help_panel=_EXPORT)] = None,
    outcome_weight: Annotated[
        float, typer.Option(help="Weight of an answer's outcome, added to its score.", rich_help_panel=_EXPORT)
    ] = 0.0,
) -> None:
    """Collect process data: candidates for every state, scored, the best executed.

    Killed and started again with the same words, it goes on where it was.

    With --inspect or --export it reads a folder that was collected before.
    """
    if [env, inspect, export].count(None) != 2:
        raise RunError("Name one of: an environment to collect on, --inspect FOLDER or --export FOLDER.")
    if inspect is not None:
        _inspect(inspect, show, kept=keep is not Keep.all)
    elif export is not None:
        options = {"seed": seed, "margin": margin, "pairs": pairs} if to is not To.sft else {}
        given = {name: value for name, value in options.items() if value is not None}
        _export(export, out, to, render_as, kept=keep is not Keep.all, outcome_weight=outcome_weight, **given)
    else:
        changes = {**parse_settings(settings or []), **({} if llm is None else {"policy.options.llm": llm})}
        how = {"scorer": scorer, "n": n, "split": split, "keep": (keep or Keep.correct).value}
        how |= {"execute": execute.value, "explore": explore}
        rest = {"limit": limit, "seed": seed, "out": out, "settings": changes, "in_flight": in_flight}
        _collect(env or "", policy, {**how, **rest})


def _collect(env: str, policy: str | None, options: dict[str, Any]) -> None:
    from raggym_env.training.collect import collect as run_collection

    if policy is None:
        raise RunError("Collecting needs a policy that proposes the candidates: --policy NAME (`raggym policies`).")
    with EpisodeBar(policy) as bar:
        collection = run_collection(env, policy, progress=bar, **options)
    bar.exit_if_failed(_summary(collection))


def _inspect(folder: Path, show: int, *, kept: bool) -> None:
    from raggym_env.training.inspect import sample, shown
    from raggym_env.training.trajectories import Collection

    collection = Collection.read(folder)
    console = Console(highlight=False)
    for trajectory in sample(collection.trajectories(kept=kept), show):
        console.print(shown(trajectory))
    _summary(collection)


def _export(folder: Path, out: Path | None, to: To, agent: str, **options: Any) -> None:
    from raggym_env.training.rows import Render, export
    from raggym_env.training.trajectories import Collection

    if out is None:
        raise RunError("--export needs --out FOLDER to write to.")
    collection = Collection.read(folder)
    counts = export(collection, out, to.value, None if to is To.reward else Render(agent), **options)["counts"]
    typer.echo(f"{counts['rows']:,} {to} rows of {counts['trajectories']:,} trajectories: {out}")


def _summary(collection: Any) -> int:
    """Print what a collection amounts to; returns how many questions failed."""
    from raggym_env.training.inspect import summarise

    summary = summarise(collection)
    for name, value in summary.rows():
        typer.echo(f"{name:13} {value}")
    typer.echo(f"{'folder':13} {collection.run.path}")
    return summary.failed
