"""`raggym eval`: evaluate a policy on an environment, into a run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raggym_env.cli._options import (
    LLM,
    Concurrency,
    Env,
    InFlight,
    Limit,
    Out,
    PolicyName,
    Ray,
    Seed,
    Settings,
    ShuffleSeed,
    Split,
    TrustCard,
    WorkerCount,
    WorkerGPUs,
    parse_settings,
    ray_workers,
)
from raggym_env.cli._output import say
from raggym_env.cli._progress import EpisodeBar
from raggym_env.errors import CardError

if TYPE_CHECKING:
    from pathlib import Path

    from raggym_env.evaluation import Judged, Scores

__all__ = ["evaluate"]

_GROUPS = 12  # of one field; a file of one's own may have any number


def evaluate(
    env: Env,
    policy: PolicyName,
    split: Split = "test",
    limit: Limit = None,
    shuffle_seed: ShuffleSeed = None,
    seed: Seed = 0,
    out: Out = None,
    settings: Settings = None,
    llm: LLM = None,
    best_of: Annotated[int | None, typer.Option(min=1, help="Sample N actions; the critic chooses.")] = None,
    vote: Annotated[int | None, typer.Option(min=1, help="Sample N actions; their answers vote.")] = None,
    tree: Annotated[str | None, typer.Option(metavar="WxD", help="Beam search of width W and depth D.")] = None,
    critic: Annotated[
        str | None, typer.Option(help="Process reward by which --best-of and --tree choose: a name or module:Class.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(metavar="P,C", help="US dollars per million prompt and completion tokens.")
    ] = None,
    judged: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Also have a model judge the answers; apart from the exact metrics."),
    ] = None,
    record_prompts: Annotated[
        bool, typer.Option("--record-prompts", help="Write the prompts too; `raggym show --prompt` shows them.")
    ] = False,
    in_flight: InFlight = 32,
    concurrency: Concurrency = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    worker_gpus: WorkerGPUs = None,
    trust_card: TrustCard = False,
) -> None:
    """Evaluate a policy. If it is interrupted, the same command resumes it."""
    from raggym_env.evaluation import evaluate as run_evaluation
    from raggym_env.evaluation import judge_answers
    from raggym_env.evaluation.scored_run import ScoredRun

    changes: dict[str, Any] = {
        "policy.options.llm": llm,
        "policy.search.best_of": best_of,
        "policy.search.vote": vote,
        "policy.search.tree": _tree(tree),
        "policy.search.critic": critic,
        "policy.price": _price(price),
    }
    # Flags go over --set, which goes over the card.
    changes = {key: value for key, value in changes.items() if value is not None}
    with EpisodeBar(policy) as bar:
        run, scores = run_evaluation(
            env,
            policy,
            split=split,
            limit=limit,
            shuffle_seed=shuffle_seed,
            concurrency=concurrency,
            seed=seed,
            out=out,
            settings={**parse_settings(settings), **changes},
            record_prompts=record_prompts,
            in_flight=in_flight,
            workers=ray_workers(ray, workers, worker_gpus),
            trust=trust_card,
            progress=bar,
        )
    _say_scores(scores, run.card.episode.metric, run.path)
    if judged is not None:
        _say_judged(judge_answers(ScoredRun.read(run.path).tasks, run.iter_episodes(), judged))
    bar.exit_if_failed(scores.failed)


def _say_scores(scores: Scores, metric: str, path: Path) -> None:
    for name, estimate in scores.metrics.items():
        say(f"{name:10} {estimate.mean:.3f}  95 % interval [{estimate.low:.3f}, {estimate.high:.3f}]")
    for field in dict.fromkeys(group.field for group in scores.groups):
        groups = [group for group in scores.groups if group.field == field and metric in group.means]
        parts = [f"{group.value} {group.means[metric]:.3f} ({group.questions})" for group in groups[:_GROUPS]]
        parts += [f"and {len(groups) - _GROUPS} more"] if len(groups) > _GROUPS else []
        say(f"{metric} by {field}: {', '.join(parts)}")
    say(f"{scores.scored} of {scores.questions} questions scored; run folder: {path}")
    if scores.no_action:
        say(f"{scores.no_action} outputs could not be read as an action and score 0. Most frequent reasons:")
        # A record of an older version has no reason.
        for reason, number in (scores.no_action_reasons or {"unknown": scores.no_action}).items():
            say(f"  {number} x {reason}")


def _say_judged(judged: Judged) -> None:
    share, differing = judged.correct, judged.disagreements
    say(f"judged by {judged.model} ({judged.protocol}), not an exact metric:")
    say(f"correct    {share.mean:.3f}  95 % interval [{share.low:.3f}, {share.high:.3f}]")
    say(f"{judged.count('wrong')} wrong, {judged.count('abstained')} abstained; {len(differing)} differ from EM")
    for row in differing:
        say(f"  {row.id}: EM {row.em:.0f}, judged {row.verdict}: {row.answer!r:.100} (gold: {row.gold!r:.100})")


def _tree(tree: str | None) -> dict[str, int] | None:
    if tree is None:
        return None
    width, separator, depth = tree.partition("x")
    # Checked here and not by the card, whose error would not name the flag.
    if not (separator and width.isdecimal() and depth.isdecimal()):
        raise CardError(f"--tree takes WIDTHxDEPTH such as 3x2, got {tree!r}.")
    return {"width": int(width), "depth": int(depth)}


def _price(price: str | None) -> dict[str, float] | None:
    if price is None:
        return None
    prompt, _, completion = price.partition(",")
    try:
        return {"prompt": float(prompt), "completion": float(completion)}
    except ValueError as error:
        raise CardError(f"--price takes two numbers such as 0.15,0.60, got {price!r}.") from error
