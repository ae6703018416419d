"""`raggym eval`: a policy on an environment, into a run folder."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from raggym_env.cli._options import (
    LLM,
    Env,
    InFlight,
    Limit,
    Out,
    PolicyName,
    Ray,
    Seed,
    Settings,
    Split,
    TrustCard,
    WorkerCount,
    WorkerGPUs,
    parse_settings,
    ray_workers,
)
from raggym_env.cli._progress import EpisodeBar
from raggym_env.errors import CardError

__all__ = ["evaluate"]


def evaluate(
    env: Env,
    policy: PolicyName,
    split: Split = "test",
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = None,
    settings: Settings = None,
    llm: LLM = None,
    best_of: Annotated[int | None, typer.Option(min=1, help="Sample N actions; the critic chooses.")] = None,
    vote: Annotated[int | None, typer.Option(min=1, help="Sample N actions; their answers vote.")] = None,
    tree: Annotated[str | None, typer.Option(metavar="WxD", help="Beam search of width W and depth D.")] = None,
    critic: Annotated[str | None, typer.Option(help="Process reward that --best-of and --tree choose by.")] = None,
    price: Annotated[
        str | None, typer.Option(metavar="P,C", help="US dollars per million prompt and completion tokens.")
    ] = None,
    in_flight: InFlight = 32,
    ray: Ray = None,
    workers: WorkerCount = None,
    worker_gpus: WorkerGPUs = None,
    trust_card: TrustCard = False,
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
                **parse_settings(settings),
                **_inference(llm, best_of, vote, tree, critic),
                **_price(price),
            },
            in_flight=in_flight,
            workers=ray_workers(ray, workers, worker_gpus),
            trust=trust_card,
            progress=bar,
        )
    for name, estimate in scores.metrics.items():
        typer.echo(f"{name:10} {estimate.mean:.3f}  95 % interval [{estimate.low:.3f}, {estimate.high:.3f}]")
    typer.echo(f"{scores.scored} of {scores.questions} questions scored; run folder: {run.path}")
    bar.exit_if_failed(scores.failed)


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
