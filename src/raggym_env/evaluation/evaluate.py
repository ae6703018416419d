"""Evaluating a policy: a run, then its scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raggym_env.cards import EnvCard, PolicyCard
from raggym_env.errors import RunError
from raggym_env.evaluation.scores import Scores, score_records
from raggym_env.protocols import Policy
from raggym_env.runs.plan import RunSpec
from raggym_env.runs.ray.pool import RayExecutor, Workers
from raggym_env.runs.run import LocalExecutor, Progress, Run, execute, is_finished

__all__ = ["evaluate"]


def evaluate(
    card: str | Path | EnvCard,
    policy: str | Path | PolicyCard | Policy,
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    in_flight: int = 32,
    workers: Workers | None = None,
    shuffle_seed: int | None = None,
    concurrency: int | None = None,
    record_prompts: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> tuple[Run, Scores]:
    """Evaluate a policy on a split, or resume an evaluation that was interrupted.

    Args:
        card: Name, path or card of an environment.
        policy: Name, path or card of a policy, or an object with a `propose` method; see `RunSpec.policy`.
        split: Split of the environment.
        limit: Take the first `limit` questions only; None takes all.
        seed: Seed of the policy.
        out: Run folder. By default one below `runs/`, named after the configuration, so the same call resumes it.
        settings: Changes to the cards by dotted key: `retrieval.k`, `policy.options.x`.
        in_flight: Episodes that run side by side, in each worker if there are workers.
        workers: Ray workers that run the episodes instead of this process. The run is the same with and without.
        shuffle_seed: With a `limit`: take that many questions at random, by this seed, in place of the first ones.
        concurrency: Maximum number of requests at the same time to the API of an `openai:` model, in each worker. By
            default `in_flight`.
        record_prompts: Whether to write the prompts of a language model into the run folder, each distinct message
            once. Episodes that ended before stay without.
        trust: Whether cards at paths may use the user's authority; see `raggym_env.cards`.
        progress: Called as each episode ends; see `Progress`.

    Returns:
        The run and its scores. Failed episodes are counted apart; calling again tries them again.

    Raises:
        RunError: `out` holds something else, another process is writing to it, workers fail, or workers are given a
            policy object.
    """
    options: dict[str, Any] = {"split": split, "limit": limit, "seed": seed, "record_prompts": record_prompts}
    options |= {"shuffle_seed": shuffle_seed, "concurrency": in_flight if concurrency is None else concurrency}
    spec = RunSpec.of(card, policy, settings=settings or {}, trust=trust, **options)
    if workers is not None and not isinstance(spec.policy, PolicyCard):
        raise RunError(f"Workers make the policy themselves: name a policy or a card, not an object: {policy!r:.100}.")
    # A finished run is scored without its model.
    plan = spec.load(here=workers is None and not is_finished(out))
    executor = LocalExecutor(in_flight) if workers is None else RayExecutor(workers, in_flight)
    # Scores are computed once, here: executing a plan knows no metric but that of the environment's reward.
    run = execute(plan, executor, out, progress=progress)
    scores = score_records(run.iter_episodes(), plan.tasks, run.price)
    run.write("complete" if scores.complete else "incomplete", scores.metrics)
    return run, scores
