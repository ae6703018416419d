"""Collecting process data: sample candidates in each state, score them, execute one (arXiv:2502.13957)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from raggym_env.cards import EnvCard, PolicyCard, env_card, policy_card
from raggym_env.core import State, state_rng
from raggym_env.errors import RunError
from raggym_env.policies.best_of import BestOf
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.runs.ray.pool import Workers
from raggym_env.runs.run import Plan, Progress, carry_out, plan, player
from raggym_env.training.process_data.trajectories import Collection, trajectory_to_json

__all__ = ["Behaviour", "Execute", "Keep", "collect"]

Keep = Literal["correct", "all"]
Execute = Literal["best", "own"]


class Behaviour(BasePolicy):
    """Decides which of the scored candidates is executed.

    A critic has to know the states that the actor will get it into, not only those of a critic that knows the gold
    answers; and some that nobody means to get into.

    Args:
        chooser: Proposes and scores the candidates.
        execute: "best", the candidate with the best score (the paper's way), or "own", what the policy would do
            by itself.
        explore: Share of the states, in [0, 1], in which a random candidate is executed instead.
        seed: Seed of what is drawn; the same state draws the same.
    """

    def __init__(self, chooser: BestOf, execute: Execute = "best", explore: float = 0.0, seed: int = 0) -> None:
        _check(execute, explore)
        self.chooser = chooser
        self.execute = execute
        self.explore = explore
        self.seed = seed

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """One proposal per state: what is executed, with all candidates of the chooser."""
        best = [row[0] for row in self.chooser.propose(states)]
        own = [row[0] for row in self.chooser.policy.propose(states)] if self.execute == "own" else best
        return [[self._executed(*each)] for each in zip(states, best, own, strict=True)]

    def _executed(self, state: State, best: Proposal, own: Proposal) -> Proposal:
        rng = state_rng(self.seed, state, "explore")
        if best.outage or not best.candidates:
            return best
        taken = rng.choice(best.candidates) if rng.random() < self.explore else own
        usage = best.usage if own is best else best.usage + own.usage
        return replace(taken, candidates=best.candidates, usage=usage)


def _check(execute: str, explore: float) -> None:
    if execute not in get_args(Execute):
        raise ValueError(f"execute must be one of {get_args(Execute)}, got {execute!r}.")
    if not 0 <= explore <= 1:
        raise ValueError(f"explore must be in [0, 1], got {explore}.")


def collect(
    card: str | Path | EnvCard,
    policy: str | Path | PolicyCard,
    *,
    scorer: str,
    n: int = 10,
    split: str = "train",
    keep: Keep = "correct",
    execute: Execute = "best",
    explore: float = 0.0,
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    in_flight: int = 32,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> Collection:
    """Collect process data, or go on with a collection that was cut off.

    In each state `n` candidates are sampled from the policy and scored, and one is executed.

    Args:
        card: Name, path or card of an environment.
        policy: Name, path or card of a policy.
        scorer: Name of the process reward that scores the candidates. Its options are the setting
            `policy.search.critic_options`.
        n: Candidates asked for per state.
        split: A split named train...; data from another would spoil the evaluation on it.
        keep: What `Collection.trajectories` gives: "correct" are those whose answer the metric scores 1. All are
            written.
        execute: What is executed: the "best" candidate by the scorer, or the policy's "own" choice.
        explore: Share of the states, in [0, 1], in which a random candidate is executed instead.
        limit: Take the first `limit` questions only.
        seed: Seed of the policy and of what is explored.
        out: Folder. By default one below `runs/`, named after what is collected, so that the same call goes on.
        settings: Changes to the cards by dotted key, as for `evaluate`.
        in_flight: As for `evaluate`.
        workers: As for `evaluate`.
        progress: As for `evaluate`.

    Raises:
        RunError: The split is not for training, a setting says otherwise than an argument, or `out` holds something
            else.
        ValueError: `keep`, `execute` or `explore` is none of the values above.
    """
    if not split.startswith("train"):
        raise RunError(f"Process data is for training: it is collected on splits named train..., not on {split!r}.")
    if keep not in get_args(Keep):
        raise ValueError(f"keep must be one of {get_args(Keep)}, got {keep!r}.")
    _check(execute, explore)
    settings = settings or {}
    way = {"policy.search.best_of": n, "policy.search.critic": scorer}
    if said := sorted(key for key in settings if key == "policy.search" or key in way):
        raise RunError(f"Candidates and scorer are the arguments n and scorer; remove the settings {said}.")
    how = {"n": n, "scorer": scorer, "keep": keep, "execute": execute, "explore": explore}
    options = {"split": split, "limit": limit, "seed": seed, "settings": {**settings, **way}}
    make = partial(_plan, env_card(card), policy_card(policy), how, options)
    planned = make()
    return Collection(carry_out(planned, player(make, planned, in_flight, workers), out, progress=progress))


def _plan(card: EnvCard, policy: PolicyCard, how: Mapping[str, Any], options: Mapping[str, Any]) -> Plan:
    """The plan of a run whose policy is a `Behaviour` and whose records are trajectories."""
    planned = plan(card, policy, **options)
    metric = planned.mdp.reward.metric
    budget = planned.mdp.process.max_searches

    def agent() -> Behaviour:
        chooser = planned.make_agent()
        assert isinstance(chooser, BestOf)  # noqa: S101  of the settings of `collect`
        return Behaviour(chooser, how["execute"], how["explore"], options["seed"])

    return replace(
        planned,
        make_agent=agent,
        config={**planned.config, "collect": {**how, "metric": metric}},
        record=lambda episode, task: trajectory_to_json(episode, task, budget, metric),
    )
