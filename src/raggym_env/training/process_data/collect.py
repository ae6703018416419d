"""Collecting process data: sample candidates in each state, score them, execute one (arXiv:2502.13957)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from raggym_env.cards import EnvCard, PolicyCard, env_card, policy_card
from raggym_env.core import State, Task, state_rng
from raggym_env.errors import OptionError, RunError
from raggym_env.mdp.records import Episode
from raggym_env.policies.best_of import BestOf
from raggym_env.protocols import BasePolicy, Proposal, propose
from raggym_env.runs.plan import Plan, RunSpec
from raggym_env.runs.ray.pool import RayExecutor, Workers
from raggym_env.runs.run import LocalExecutor, Progress
from raggym_env.runs.run import execute as execute_plan
from raggym_env.training.process_data.trajectories import Collection, trajectory_to_json

__all__ = ["Behaviour", "Execute", "Keep", "collect"]

Json = dict[str, Any]
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
        own = [row[0] for row in propose(self.chooser.policy, states)] if self.execute == "own" else best
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
        raise OptionError(f"execute must be one of {get_args(Execute)}, got {execute!r}.")
    if not 0 <= explore <= 1:
        raise OptionError(f"explore must be in [0, 1], got {explore}.")


def collect(
    card: str | Path | EnvCard,
    policy: str | Path | PolicyCard,
    *,
    critic: str,
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
    trust: bool = False,
    progress: Progress | None = None,
) -> Collection:
    """Collect process data, or go on with a collection that was cut off.

    In each state `n` candidates are sampled from the policy and scored, and one is executed.

    Args:
        card: Name, path or card of an environment.
        policy: Name, path or card of a policy.
        critic: Name of the process reward that scores the candidates. Its options are the setting
            `policy.search.critic_options`.
        n: Candidates asked for per state.
        split: A split named train...; data from another would spoil the evaluation on it.
        keep: What `Collection.trajectories` gives: "correct" are those whose answer the metric scores 1. All are
            written.
        execute: What is executed: the "best" candidate by the critic, or the policy's "own" choice.
        explore: Share of the states, in [0, 1], in which a random candidate is executed instead.
        limit: Take the first `limit` questions only.
        seed: Seed of the policy and of what is explored.
        out: Folder. By default one below `runs/`, named after what is collected, so that the same call goes on.
        settings: Changes to the cards by dotted key, as for `evaluate`.
        in_flight: As for `evaluate`.
        workers: As for `evaluate`.
        trust: As for `evaluate`.
        progress: As for `evaluate`.

    Raises:
        RunError: The split is not for training, a setting says otherwise than an argument, or `out` holds something
            else.
        ValueError: `keep`, `execute` or `explore` is none of the values above.
    """
    if not split.startswith("train"):
        raise RunError(f"Process data is for training: it is collected on splits named train..., not on {split!r}.")
    if keep not in get_args(Keep):
        raise OptionError(f"keep must be one of {get_args(Keep)}, got {keep!r}.")
    _check(execute, explore)
    settings = settings or {}
    search = {"policy.search.best_of": n, "policy.search.critic": critic}
    if taken := sorted(key for key in settings if key == "policy.search" or key in search):
        raise RunError(f"Candidates and critic are the arguments n and critic; remove the settings {taken}.")
    spec = CollectSpec(
        card=env_card(card, trust=trust),
        policy=policy_card(policy, trust=trust),
        split=split,
        limit=limit,
        seed=seed,
        settings={**settings, **search},
        keep=keep,
        execute=execute,
        explore=explore,
    )
    executor = LocalExecutor(in_flight) if workers is None else RayExecutor(workers, in_flight)
    return Collection(execute_plan(spec.load(), executor, out, progress=progress))


@dataclass(frozen=True, kw_only=True)
class CollectSpec(RunSpec):
    """A run whose policy is a `Behaviour` and whose records are trajectories."""

    keep: Keep
    execute: Execute
    explore: float

    def load(self) -> CollectPlan:
        """See `RunSpec.load`."""
        plan = super().load()
        search = self.settings
        collect = {
            "n": search["policy.search.best_of"],
            "critic": search["policy.search.critic"],
            "keep": self.keep,
            "execute": self.execute,
            "explore": self.explore,
            "metric": plan.mdp.reward.metric,
        }

        def make_policy() -> Behaviour:
            chooser = plan.make_policy()
            assert isinstance(chooser, BestOf)  # noqa: S101  # by the settings of `collect`
            return Behaviour(chooser, self.execute, self.explore, self.seed)

        config = {**plan.config, "collect": collect}
        return CollectPlan(self, plan.mdp, make_policy, plan.tasks, config, plan.price)


class CollectPlan(Plan):
    """A plan that records trajectories with every candidate."""

    def record(self, episode: Episode, task: Task) -> Json:
        """The trajectory of an ended episode."""
        return trajectory_to_json(episode, task, self.mdp.dynamics.max_searches, self.mdp.reward.metric)
