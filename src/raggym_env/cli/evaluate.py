"""`raggym eval`: a policy on an environment, into a run folder."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raggym_env.cli._progress import EpisodeBar
from raggym_env.errors import CardError, RunError

if TYPE_CHECKING:
    from raggym_env.runs.ray.pool import Workers

__all__ = ["RayOption", "WorkerGPUsOption", "WorkersOption", "evaluate", "parse_settings", "ray_workers"]

RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS|local",
        help="Run the episodes on Ray: local, HOST:PORT or auto on a machine of a cluster, or ray://HOST:PORT. Who "
        "can reach a cluster can run code on it: join those that you trust only.",
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Ray workers, of one CPU each. Default: as many as fit.")
]
WorkerGPUsOption = Annotated[
    float | None, typer.Option("--worker-gpus", min=0, help="GPUs of each Ray worker, e.g. 1 or 0.5. Default: none.")
]


def evaluate(
    env: Annotated[str, typer.Argument(help="Environment: an id (`raggym envs`) or the path of a card.")],
    policy: Annotated[str, typer.Option(help="Policy: a name (`raggym policies`) or the path of a card.")],
    split: Annotated[str, typer.Option(help="Split of the environment.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first N questions only.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the policy.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: below runs/, named after the run.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a card, e.g. retrieval.k=10 or policy.options.x=1."),
    ] = None,
    llm: Annotated[str | None, typer.Option(help="Model: hf:smollm2, hf:smollm2+ADAPTER or openai:MODEL@URL.")] = None,
    best_of: Annotated[int | None, typer.Option(min=1, help="Sample N actions; the critic chooses.")] = None,
    vote: Annotated[int | None, typer.Option(min=1, help="Sample N actions; their answers vote.")] = None,
    tree: Annotated[str | None, typer.Option(metavar="WxD", help="Beam search of width W and depth D.")] = None,
    critic: Annotated[str | None, typer.Option(help="Process reward that --best-of and --tree choose by.")] = None,
    price: Annotated[
        str | None, typer.Option(metavar="P,C", help="US dollars per million prompt and completion tokens.")
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Episodes that run side by side, in each worker.")] = 32,
    ray: RayOption = None,
    workers: WorkersOption = None,
    worker_gpus: WorkerGPUsOption = None,
) -> None:
    """Evaluate a policy. Killed and started again with the same words, it goes on where it was."""
    from raggym_env.evaluation import evaluate as run_evaluation

    with EpisodeBar(policy) as bar:
        run, scores = run_evaluation(
            env,
            policy,
            split=split,
            limit=limit,
            seed=seed,
            out=out,
            settings={
                **parse_settings(settings or []),
                **_inference(llm, best_of, vote, tree, critic),
                **_price(price),
            },
            in_flight=in_flight,
            workers=ray_workers(ray, workers, worker_gpus),
            progress=bar,
        )
    for name, estimate in scores.metrics.items():
        typer.echo(f"{name:10} {estimate.mean:.3f}  95 % interval [{estimate.low:.3f}, {estimate.high:.3f}]")
    typer.echo(f"{scores.scored} of {scores.questions} questions scored; run folder: {run.path}")
    bar.exit_if_failed(scores.failed)


def ray_workers(ray: str | None, workers: int | None, gpus: float | None) -> Workers | None:
    """What the options about Ray say; None for none of it."""
    if ray is not None:
        from raggym_env.runs.ray.pool import Workers

        return Workers(ray, workers, gpus or 0.0)
    if workers is not None or gpus is not None:
        raise RunError("--workers and --worker-gpus are of Ray: add --ray local, or --ray ADDRESS of a cluster.")
    return None


def _inference(
    llm: str | None, best_of: int | None, vote: int | None, tree: str | None, critic: str | None
) -> dict[str, Any]:
    """The flags as changes of the policy's card."""
    changes = {
        "policy.options.llm": llm,
        "policy.search.best_of": best_of,
        "policy.search.vote": vote,
        "policy.search.critic": critic,
    }
    if tree is not None:
        width, times, depth = tree.partition("x")
        if not (times and width.isdecimal() and depth.isdecimal()):
            raise CardError(f"--tree takes WIDTHxDEPTH such as 3x2, got {tree!r}.")
        changes["policy.search.tree"] = {"width": int(width), "depth": int(depth)}  # type: ignore[assignment]
    return {key: value for key, value in changes.items() if value is not None}


def _price(price: str | None) -> dict[str, Any]:
    if price is None:
        return {}
    prompt, _, completion = price.partition(",")
    try:
        return {"policy.price": {"prompt": float(prompt), "completion": float(completion)}}
    except ValueError as error:
        raise CardError(f"--price takes two numbers such as 0.15,0.60, got {price!r}.") from error


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """`["retrieval.k=10", "policy.options.mode=fast"]` as a dictionary; values are TOML, or else plain text.

    >>> parse_settings(["retrieval.k=10", "retrieval.name=rank-bm25"])
    {'retrieval.k': 10, 'retrieval.name': 'rank-bm25'}
    """
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise CardError(f"--set takes KEY=VALUE, got {setting!r}.")
        try:
            parsed[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed[key] = value
    return parsed
