"""Collecting process data: sample candidates in each state, score them, execute one (arXiv:2502.13957)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from raggym_env.cards import EnvCard, PolicyCard
from raggym_env.core import State, Task, state_rng
from raggym_env.errors import RunError, check_option
from raggym_env.mdp.records import Episode
from raggym_env.policies.best_of import BestOf
from raggym_env.policies.gold import GoldPolicy
from raggym_env.protocols import BasePolicy, Policy, Proposal, propose
from raggym_env.runs.plan import Plan, RunSpec
from raggym_env.runs.ray.pool import RayExecutor, Workers
from raggym_env.runs.run import LocalExecutor, Progress, is_finished
from raggym_env.runs.run import execute as execute_plan
from raggym_env.training.process_data.trajectories import Collection, trajectory_to_json

__all__ = ["Behaviour", "Execute", "Keep", "collect"]

Json = dict[str, Any]
Keep = Literal["correct", "all"]
Execute = Literal["best", "own"]


class Behaviour(BasePolicy):
    """The behaviour policy of a collection: decides which of the scored candidates is executed.

    A critic needs training data from the states that the actor visits, not only from those that a critic with access
    to gold answers leads to, and from some states that no policy prefers.

    `chooser` proposes and scores the candidates; the other arguments are those of `collect`.
    """

    def __init__(self, chooser: BestOf, execute: Execute = "best", explore: float = 0.0, seed: int = 0) -> None:
        _check(execute, explore)
        self.chooser = chooser
        self.execute = execute
        self.explore = explore
        self.seed = seed

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return one proposal per state: the action to execute, with all candidates of the chooser."""
        best = [row[0] for row in self.chooser.propose(states)]
        choices = best if self.execute == "best" else [row[0] for row in propose(self.chooser.policy, states)]
        return [[self._choose(*row)] for row in zip(states, best, choices, strict=True)]

    def _choose(self, state: State, best: Proposal, policy_choice: Proposal) -> Proposal:
        rng = state_rng(self.seed, state, "explore")  # drawn per state, so that it does not depend on the batch
        # An outage fails the episode, and without candidates there is nothing to explore.
        if best.outage or not best.candidates:
            return best
        executed = rng.choice(best.candidates) if rng.random() < self.explore else policy_choice
        # The policy's own choice was proposed in a call of its own, which is paid for too.
        usage = best.usage if policy_choice is best else best.usage + policy_choice.usage
        return replace(executed, candidates=best.candidates, usage=usage)


class Taught(BasePolicy):
    """A policy whose last sample in each state is the teacher's action: data aggregation (DAgger, arXiv:1011.0686).

    The teacher shows what is right in the states that the policy itself visits, also where none of its samples is.
    """

    def __init__(self, policy: Policy, teacher: Policy) -> None:
        self.policy = policy
        self.teacher = teacher

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return at most `n` proposals per state; for `n = 1` the policy's own."""
        rows = propose(self.policy, states, n)
        if n == 1:
            return rows
        lessons = propose(self.teacher, states)
        return [
            row if lesson.action is None or row[0].outage else [*row[: n - 1], lesson]
            for row, (lesson, *_) in zip(rows, lessons, strict=True)
        ]


def _check(execute: str, explore: float) -> None:
    check_option("execute", execute, execute in get_args(Execute), f"one of {get_args(Execute)}")
    check_option("explore", explore, 0 <= explore <= 1, "in [0, 1]")


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
    teacher: bool = False,
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    in_flight: int = 32,
    workers: Workers | None = None,
    shuffle_seed: int | None = None,
    concurrency: int | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Collection:
    """Collect process data, or resume a collection that was interrupted.

    In each state `n` candidates are sampled from the policy and scored, and one is executed. Arguments are those of
    `evaluate`, except:

    * `critic`: Name of the process reward that scores the candidates. Its options are the setting
      `policy.search.critic_options`.
    * `split`: Its name must start with "train", since training on data from another split would spoil the evaluation
      on it.
    * `keep`: Which trajectories `Collection.trajectories` returns: "correct" those whose answer the metric scores 1,
      or "all". All are written.
    * `execute`: Which action is executed: the "best" candidate by the critic (as in the paper), or the "own" choice
      of the policy without a critic.
    * `explore`: Share of the states, in [0, 1], in which a random candidate is executed instead.
    * `teacher`: Whether one of the `n` candidates of each state, at least 2, is the action of the policy `gold`, where
      it has one. The questions then need supporting facts.
    * `seed`: Seed of the policy and of the exploration.

    Raises:
        RunError: The split is not for training, a setting contradicts an argument, or `out` holds something else.
        OptionError: `keep`, `execute`, `explore` or `teacher` is not one of the values above.
        PolicyError: A question names no supporting facts, which the teacher needs.
    """
    if not split.startswith("train"):
        raise RunError(f"Process data is for training: its split must be named train..., got {split!r}.")
    check_option("keep", keep, keep in get_args(Keep), f"one of {get_args(Keep)}")
    _check(execute, explore)
    check_option("teacher", teacher, not teacher or n > 1, "false for n = 1: there is room for one candidate only")
    settings = settings or {}
    # One source for each value: a setting that contradicts an argument would silently win or lose.
    search = {"policy.search.best_of": n, "policy.search.critic": critic}
    if conflicts := sorted(key for key in settings if key == "policy.search" or key in search):
        raise RunError(f"n and critic set the candidates and the critic: remove {conflicts} from the settings.")
    options: Json = {"split": split, "limit": limit, "seed": seed, "settings": {**settings, **search}}
    options |= {"keep": keep, "execute": execute, "explore": explore, "teacher": teacher}
    options |= {"shuffle_seed": shuffle_seed, "concurrency": in_flight if concurrency is None else concurrency}
    spec = CollectSpec.of(card, policy, trust=trust, **options)
    executor = LocalExecutor(in_flight) if workers is None else RayExecutor(workers, in_flight)
    plan = spec.load(here=workers is None and not is_finished(out))
    return Collection(execute_plan(plan, executor, out, progress=progress))


@dataclass(frozen=True, kw_only=True)
class CollectSpec(RunSpec):
    """A run whose policy is a `Behaviour` and whose records are trajectories. The fields are arguments of `collect`."""

    keep: Keep
    execute: Execute
    explore: float
    teacher: bool = False

    def load(self, *, here: bool = True) -> CollectPlan:
        """See `RunSpec.load`."""
        plan = super().load(here=here)
        # Part of the run's config, so that collections with different settings never share a folder.
        collect = {"n": self.settings["policy.search.best_of"], "critic": self.settings["policy.search.critic"]}
        collect |= {"keep": self.keep, "execute": self.execute, "explore": self.explore}
        collect["metric"] = plan.mdp.reward.metric
        teacher = None
        if self.teacher:
            collect["teacher"] = True
            teacher = GoldPolicy(plan.tasks)

        def make_policy() -> Behaviour:
            chooser = plan.make_policy()
            assert isinstance(chooser, BestOf)  # noqa: S101  # the settings of `collect` name best_of and a critic
            if teacher is not None:
                chooser.policy = Taught(chooser.policy, teacher)
            return Behaviour(chooser, self.execute, self.explore, self.seed)

        # The presence of "collect" also tells process data from the run of an evaluation.
        config = {**plan.config, "collect": collect}
        return CollectPlan(self, plan.mdp, make_policy, plan.tasks, config, plan.price)


class CollectPlan(Plan):
    """A plan that records trajectories with every candidate."""

    def record(self, episode: Episode, task: Task) -> Json:
        """Return the trajectory of an ended episode."""
        return trajectory_to_json(episode, task, self.mdp.dynamics.max_searches, self.mdp.reward.metric)
