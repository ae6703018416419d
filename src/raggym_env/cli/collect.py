"""`raggym collect`: process data from a policy and a critic, and a look at it."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raggym_env.cli import _options as shared
from raggym_env.cli._output import say, show
from raggym_env.cli._progress import EpisodeBar
from raggym_env.errors import OptionError, RunError

__all__ = ["collect"]


def collect(
    env: Annotated[
        str | None, typer.Argument(help="Environment: an id (`raggym envs`) or the path of a card.", show_default=False)
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Policy: a name (`raggym policies`) or a card's path.")] = None,
    critic: Annotated[str, typer.Option(help="Process reward that scores the candidates.")] = "mini",
    n: Annotated[int, typer.Option("--n", min=1, help="Candidates per state.")] = 10,
    split: Annotated[str, typer.Option(help="Split of the environment; its name must start with train.")] = "train",
    keep: Annotated[
        Literal["correct", "all"], typer.Option(help="Trajectories to learn from: right answers only, or all.")
    ] = "correct",
    execute: Annotated[
        Literal["best", "own"], typer.Option(help="What is executed: the best candidate, or the policy's own choice.")
    ] = "best",
    explore: Annotated[float, typer.Option(min=0, max=1, help="Share of states with a random action.")] = 0.0,
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Add the action of the policy `gold` to the candidates of each state.")
    ] = False,
    limit: shared.Limit = None,
    shuffle_seed: shared.ShuffleSeed = None,
    seed: shared.Seed = 0,
    out: shared.Out = None,
    llm: shared.LLM = None,
    settings: shared.Settings = None,
    in_flight: shared.InFlight = 32,
    concurrency: shared.Concurrency = None,
    ray: shared.Ray = None,
    workers: shared.WorkerCount = None,
    worker_gpus: shared.WorkerGPUs = None,
    trust_card: shared.TrustCard = False,
    inspect: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Print some trajectories of FOLDER instead of collecting.")
    ] = None,
    relabel: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Let --llm rate the candidates of FOLDER in hindsight, into --out."),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Number of trajectories that --inspect prints.")] = 3,
) -> None:
    """Collect process data: sample candidates in every state, score them and execute the best.

    The same command resumes a collection that was interrupted. With --inspect it shows what a folder holds. With
    --relabel a language model that sees the gold answer and the whole episode scores the candidates of a folder again,
    into --out; --set passage_chars=200 sets an option of it. Use `raggym export` to turn process data into rows for
    TRL.
    """
    if sum(source is not None for source in (env, inspect, relabel)) != 1:
        raise RunError("Name an environment to collect on, --inspect FOLDER or --relabel FOLDER.")
    if relabel is not None:
        _relabel(relabel, llm, out, shared.parse_settings(settings), trust_card)
        return
    if inspect is not None:
        _inspect(inspect, show, kept=keep == "correct")
        return
    # Not a required option: --inspect needs none.
    if policy is None:
        raise RunError("Collecting needs a policy that proposes the candidates: --policy NAME (`raggym policies`).")
    from raggym_env.training import collect as run_collection

    # A flag goes over a --set of the same key.
    changes = {**shared.parse_settings(settings), **({} if llm is None else {"policy.options.llm": llm})}
    options: dict[str, Any] = {"critic": critic, "n": n, "keep": keep, "execute": execute, "explore": explore}
    options |= {"teacher": teacher, "split": split, "limit": limit, "seed": seed, "out": out, "settings": changes}
    options |= {"shuffle_seed": shuffle_seed, "concurrency": concurrency}
    options |= {"in_flight": in_flight, "workers": shared.ray_workers(ray, workers, worker_gpus), "trust": trust_card}
    with EpisodeBar(policy) as bar:
        collection = run_collection(env or "", policy, progress=bar, **options)
    bar.exit_if_failed(_summary(collection))


def _relabel(folder: Path, llm: str | None, out: Path | None, options: dict[str, Any], trust: bool) -> None:
    from raggym_env.training import relabel as run_relabelling

    if llm is None:
        raise RunError("Relabelling needs the language model that judges: --llm openai:MODEL@URL, or hf:NAME.")
    names = signature(run_relabelling).parameters.keys() - {"data", "llm", "out", "trust", "progress"}
    if unknown := sorted(options.keys() - names):
        raise OptionError(f"--relabel has no option {unknown[0]!r}. Its options: {', '.join(sorted(names))}.")
    with EpisodeBar("hindsight") as bar:
        collection = run_relabelling(folder, llm, out=out, trust=trust, progress=bar, **options)
    bar.exit_if_failed(_summary(collection))


def _inspect(folder: Path, count: int, *, kept: bool) -> None:
    from raggym_env.cli._trajectories import render, sample
    from raggym_env.training import Collection

    collection = Collection.read(folder)
    for trajectory in sample(collection.trajectories(kept=kept), count):
        show(render(trajectory))
    _summary(collection)


def _summary(collection: Any) -> int:
    """Print counts and means over a collection. Returns the number of questions whose episode failed."""
    from raggym_env.cli._trajectories import summarise

    summary = summarise(collection)
    for name, value in summary.rows():
        say(f"{name:13} {value}")
    say(f"{'folder':13} {collection.run.path}")
    return summary.failed
