"""`raggym collect`: process data from a policy and a critic, and a look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from raggym_env.cli._options import Ray, WorkerCount, WorkerGPUs, parse_settings, ray_workers
from raggym_env.cli._progress import EpisodeBar
from raggym_env.errors import RunError

__all__ = ["collect"]


def collect(
    env: Annotated[
        str | None, typer.Argument(help="Environment: an id (`raggym envs`) or the path of a card.", show_default=False)
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Policy: a name (`raggym policies`) or the path of a card.")
    ] = None,
    critic: Annotated[str, typer.Option(help="Process reward that scores the candidates.")] = "mini",
    n: Annotated[int, typer.Option("--n", min=1, help="Candidates per state.")] = 10,
    split: Annotated[str, typer.Option(help="Split of the environment, one named train...")] = "train",
    keep: Annotated[
        Literal["correct", "all"], typer.Option(help="Trajectories to learn from: right answers only, or all.")
    ] = "correct",
    execute: Annotated[
        Literal["best", "own"], typer.Option(help="What is executed: the best candidate, or the policy's own choice.")
    ] = "best",
    explore: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the states in which a random candidate is executed.")
    ] = 0.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first N questions only.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the policy and of what is explored.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder. Default: below runs/.")] = None,
    llm: Annotated[str | None, typer.Option(help="Model: hf:smollm2, hf:smollm2+ADAPTER or openai:MODEL@URL.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a card, e.g. policy.search.critic_options.seed=1."),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Episodes that run side by side, in each worker.")] = 32,
    ray: Ray = None,
    workers: WorkerCount = None,
    worker_gpus: WorkerGPUs = None,
    inspect: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Print some of its trajectories instead.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="How many.")] = 3,
) -> None:
    """Collect process data: candidates for every state, scored, the best executed.

    Killed and started again with the same words, it goes on where it was. With --inspect it shows what a folder
    holds. `raggym export` makes rows for TRL of it.
    """
    if (env is None) == (inspect is None):
        raise RunError("Name an environment to collect on, or --inspect FOLDER.")
    if inspect is not None:
        _inspect(inspect, show, kept=keep == "correct")
        return
    changes = {**parse_settings(settings or []), **({} if llm is None else {"policy.options.llm": llm})}
    how = {"critic": critic, "n": n, "split": split, "keep": keep, "execute": execute, "explore": explore}
    rest = {"limit": limit, "seed": seed, "out": out, "settings": changes, "in_flight": in_flight}
    _collect(env or "", policy, {**how, **rest, "workers": ray_workers(ray, workers, worker_gpus)})


def _collect(env: str, policy: str | None, options: dict[str, Any]) -> None:
    from raggym_env.training.process_data.collect import collect as run_collection

    if policy is None:
        raise RunError("Collecting needs a policy that proposes the candidates: --policy NAME (`raggym policies`).")
    with EpisodeBar(policy) as bar:
        collection = run_collection(env, policy, progress=bar, **options)
    bar.exit_if_failed(_summary(collection))


def _inspect(folder: Path, show: int, *, kept: bool) -> None:
    from raggym_env.cli._trajectories import sample, shown
    from raggym_env.training.process_data.trajectories import Collection

    collection = Collection.read(folder)
    console = Console(highlight=False)
    for trajectory in sample(collection.trajectories(kept=kept), show):
        console.print(shown(trajectory))
    _summary(collection)


def _summary(collection: Any) -> int:
    """Print what a collection amounts to; returns how many questions failed."""
    from raggym_env.cli._trajectories import summarise

    summary = summarise(collection)
    for name, value in summary.rows():
        typer.echo(f"{name:13} {value}")
    typer.echo(f"{'folder':13} {collection.run.path}")
    return summary.failed
