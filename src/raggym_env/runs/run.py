"""Run folders: one policy on one split, resumable after a kill at any moment.

A folder holds `run.json` (what was run, with what, and its state), `episodes.jsonl` (one line per ended episode,
appended as it ends) and nothing else that counts. Scores are always computed from the episodes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raggym_env import policies, rewards
from raggym_env.cards import EnvCard, PolicyCard, PriceCard, env_card, override, policy_card
from raggym_env.core import Task
from raggym_env.errors import RunError
from raggym_env.runs.ray.pool import Workers, spread
from raggym_env.evaluation.scores import Scores, score_records
from raggym_env.storage.work_folder import FolderKind, installed, locked
from raggym_env.build import MDP, load_mdp
from raggym_env.protocols import Policy
from raggym_env.mdp.records import Episode, append_record, check_episode, read_records, repair
from raggym_env.mdp.rollout import rollout

__all__ = ["Plan", "Play", "Run", "carry_out", "evaluate", "plan", "player"]

_CONFIG = {"environment", "policy", "split", "limit", "seed", "dataset", "corpus", "retriever", "version"}
_PACKAGES = ("raggym-env", "gymnasium", "numpy", "numba", "rank-bm25", "PyStemmer", "pyarrow")
_RUN = FolderKind("run.json", "run", "is no run folder", "raggym eval", _PACKAGES)

Json = dict[str, Any]
Progress = Callable[[int, int, Json], None]
Play = Callable[[Sequence[Task]], AbstractContextManager[Iterator[Json]]]
"""A context in which the tasks' episodes are run; it gives their records as they end."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder."""

    path: Path
    config: Json = field(repr=False)
    """What was run: two runs with the same config are the same run."""
    card_path: str = field(default="", repr=False)
    """Where the environment card lay: not part of what was run, but its data may lie beside it."""
    price: PriceCard | None = field(default=None, repr=False)
    """What the policy's model costs, where that is known."""

    @property
    def episodes_file(self) -> Path:
        return self.path / "episodes.jsonl"

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """Open a run folder.

        Raises:
            RunError: The folder holds no run, or one of another format.
        """
        path = Path(path)
        record = _RUN.read(path)
        config, card_path = record.get("config"), record.get("card_path")
        if not isinstance(config, dict) or not isinstance(card_path, str) or not config.keys() >= _CONFIG:
            raise RunError(f"{path / 'run.json'} was changed by hand: its config is incomplete.")
        price = record.get("price")
        return cls(path, config, card_path, None if price is None else PriceCard.model_validate(price))

    @property
    def card(self) -> EnvCard:
        """The environment card as it was when the run was started."""
        try:
            return EnvCard.model_validate({**self.config["environment"], "path": self.card_path})
        except (ValidationError, TypeError) as error:
            raise RunError(f"{self.path / 'run.json'} was changed by hand: {error}") from error

    def select(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Those of the split's tasks that the run covers."""
        return _first(tasks, self.config["limit"])

    def records(self) -> list[Json]:
        """The episode records written so far, in the order in which the episodes ended."""
        if not self.episodes_file.exists():
            return []
        records = list(read_records(self.episodes_file))
        for number, record in enumerate(records, 1):
            check_episode(record, self.episodes_file, f"line {number}")
        return records

    def write(self, status: str, scores: Scores | None = None) -> None:
        """Write `run.json`, whole or not at all.

        Args:
            status: "running", "incomplete" (some episodes failed) or "complete".
            scores: Kept for people who look into the folder; the leaderboard computes its own.
        """
        content: Json = {
            "status": status,
            "config": self.config,
            "card_path": self.card_path,
            "price": self.price and self.price.model_dump(),
        }
        if scores is not None:
            content["scores"] = {name: list(estimate) for name, estimate in scores.metrics.items()}
        _RUN.write(self.path, content)


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
    progress: Progress | None = None,
) -> tuple[Run, Scores]:
    """Evaluate a policy on a split, or go on with an evaluation that was cut off.

    Args:
        card: Name, path or card of an environment.
        policy: Name, path or card of a policy; or an object with a `propose` method. It is named by its `name` or
            its class, and can be gone on with only if it has a `fingerprint`: a string that changes with everything
            that changes what it does.
        split: Split of the environment.
        limit: Take the first `limit` questions only; None takes all.
        seed: Seed of the policy.
        out: Run folder. By default one below `runs/`, named after what is run, so that the same call goes on with
            the same folder.
        settings: Changes to the cards by dotted key: `retrieval.k`, `policy.options.x`.
        in_flight: Episodes that run side by side, in each worker if there are workers.
        workers: Ray workers to run the episodes on, instead of this process; see `evaluation.distributed`. The run
            is the same: begun without them, it can be gone on with on them, and the other way round.
        progress: Called as each episode ends with the number done, the number of all and the episode's record.

    Returns:
        The run and its scores. Failed episodes are counted apart; calling again tries them again.

    Raises:
        RunError: `out` holds something else, or another process is writing to it; or workers are asked for and the
            policy is an object, or they fail as `evaluation.distributed.spread` says.
    """
    if isinstance(policy, str | Path):
        policy = policy_card(policy)
    elif workers is not None and not isinstance(policy, PolicyCard):
        raise RunError(f"Workers make the policy themselves: name a policy or a card, not an object: {policy!r:.100}.")
    make = partial(plan, env_card(card), policy, split=split, limit=limit, seed=seed, settings=settings)
    planned = make()
    run = carry_out(planned, player(make, planned, in_flight, workers), out, progress=progress)
    return run, score_records(run.records(), planned.tasks, run.price)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do, made from cards before anything is written."""

    mdp: MDP
    make_agent: Callable[[], Policy]
    """Makes the policy, which may load a model: only where the episodes are run."""
    tasks: Sequence[Task]
    config: Json
    price: PriceCard | None = None
    record: Callable[[Episode, Task], Json] = lambda episode, task: episode.to_json()
    """Makes the record of an ended episode: that of a run, or one with more in it."""

    def play(self, agent: Policy, tasks: Iterable[Task], in_flight: int) -> Iterator[Json]:
        """Run episodes on some of the tasks and yield the record of each as it ends."""
        known = {task.id: task for task in self.tasks}
        for episode in rollout(agent, tasks, self.mdp.process, self.mdp.reward, in_flight=in_flight):
            yield self.record(episode, known[episode.id])


def plan(
    card: str | Path | EnvCard,
    policy: str | Path | PolicyCard | Policy,
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """Load what a run needs. Arguments and errors as for `evaluate`."""
    settings = settings or {}
    of_policy = {key.removeprefix("policy."): settings[key] for key in settings if key.startswith("policy.")}
    card = override(env_card(card), {key: settings[key] for key in settings if not key.startswith("policy.")})
    mdp = load_mdp(card, split)
    make_agent, identity, price = _agent(policy, seed, of_policy, mdp)
    config = {
        "environment": identity_of(card),
        "policy": identity,
        "split": mdp.split,
        "limit": limit,
        "seed": seed,
        "dataset": mdp.dataset.fingerprint,
        "corpus": mdp.dataset.corpus.fingerprint,
        "retriever": getattr(mdp.process.retriever, "fingerprint", None),
        "version": installed("raggym-env"),
    }
    return Plan(mdp, make_agent, _first(mdp.tasks, limit), config, price)


def player(make: Callable[[], Plan], plan: Plan, in_flight: int, workers: Workers | None) -> Play:
    """What runs a plan's episodes: this process, or workers that make the plan again."""
    if workers is not None:
        return partial(spread, workers, make, plan, in_flight)
    agent = plan.make_agent()
    return lambda tasks: nullcontext(plan.play(agent, tasks, in_flight))


def carry_out(
    plan: Plan,
    play: Play,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
) -> Run:
    """Run what is planned in a run folder, or go on with it where it was cut off.

    Args:
        plan: What to run.
        play: What runs its episodes; see `player`.
        out: Run folder; by default one below `runs/`, named after what is run.
        progress: As for `evaluate`.

    Raises:
        RunError: `out` holds something else, or another process is writing to it.
    """
    card_path = str(plan.mdp.card.path)
    run = _open(Path(out) if out is not None else _default_folder(plan.config), plan.config, card_path)
    run = replace(run, price=plan.price or run.price)
    with locked(run.path):
        repair(run.episodes_file)
        done = {written["id"] for written in run.records() if written["error"] is None}
        todo = [task for task in plan.tasks if task.id not in done]
        with play(todo) if todo else nullcontext(iter(())) as records:  # what is wrong comes out before it is begun
            run.write("running")
            for number, written in enumerate(records, len(done) + 1):
                append_record(run.episodes_file, written)
                if progress is not None:
                    progress(number, len(plan.tasks), written)
        scores = score_records(run.records(), plan.tasks, run.price)
        run.write("complete" if scores.complete else "incomplete", scores)
    return run


def _agent(
    policy: str | Path | PolicyCard | Policy, seed: int, changes: Mapping[str, Any], mdp: MDP
) -> tuple[Callable[[], Policy], Json, PriceCard | None]:
    """What makes the policy, what identifies it, and what its model costs."""
    if not isinstance(policy, str | Path | PolicyCard):
        if isinstance(policy, type) or not hasattr(policy, "propose"):
            raise TypeError(f"policy must be a name, a path, a card or an object with propose, got {policy!r:.100}.")
        if changes:
            raise RunError(f"Settings {sorted(changes)} change a policy's card, but a policy object was given.")
        kind = type(policy)
        identity = {
            "name": getattr(policy, "name", kind.__name__),
            "policy": f"{kind.__module__}.{kind.__qualname__}",
            "fingerprint": getattr(policy, "fingerprint", None),
        }
        return lambda: policy, identity, None
    card = override(policy_card(policy), changes)

    def make() -> Policy:
        way = card.search
        critic = way.critic and rewards.make(way.critic, mdp.tasks, mdp.process, mdp.split, **way.critic_options)
        return policies.make(card, seed=seed, critic=critic, process=mdp.process)

    return make, identity_of(card), card.price


def identity_of(card: EnvCard | PolicyCard) -> Json:
    """The card without where it lies, which differs between machines, and what it costs, which may be learnt later."""
    content: Json = card.model_dump(mode="json", exclude={"path", "price"})
    return content


def _default_folder(config: Json) -> Path:
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4).hexdigest()
    policy = re.sub(r"[^\w.+-]+", "-", config["policy"]["name"]).lstrip(".")
    return Path("runs") / "_".join((config["environment"]["name"], config["split"], policy, digest))


def _first(tasks: Sequence[Task], limit: int | None) -> Sequence[Task]:
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, got {limit}.")
    return tasks if limit is None else tasks[:limit]


def _open(path: Path, config: Json, card_path: str) -> Run:
    if not _RUN.begun(path):
        return Run(path, config, card_path)
    run = Run.read(path)
    if "fingerprint" in config["policy"] and config["policy"]["fingerprint"] is None:
        raise RunError(
            f"{path} holds a run already, and the policy object has no `fingerprint` to tell whether it is the same "
            "policy. Give it one, choose another out, or delete that folder."
        )
    _RUN.require_same(path, run.config, config)
    return run
