"""Rewards: answer metrics, process rewards and how they blend into the reward of a step.

A process reward is named in a card or on the command line, or passed as any object with the `ProcessReward`
method. Adding one is adding a file and a name to `PROCESS_REWARDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raggym_env.core import Task
from raggym_env.errors import CardError, RAGGymError, RewardError, UnknownName
from raggym_env.mdp.dynamics import Process
from raggym_env.mdp.step_reward import Reward, StepReward
from raggym_env.protocols import ProcessReward

__all__ = ["PROCESS_REWARDS", "ProcessReward", "Reward", "StepReward", "make"]


def _none(tasks: Sequence[Task], process: Process | None, split: str) -> None:
    return None


def _random(tasks: Sequence[Task], process: Process | None, split: str, **options: Any) -> ProcessReward:
    from raggym_env.rewards.random import RandomReward

    return RandomReward(**options)


def _evidence(tasks: Sequence[Task], process: Process | None, split: str, **options: Any) -> ProcessReward:
    from raggym_env.rewards.evidence import EvidenceReward

    return EvidenceReward(tasks, _with_facts("evidence", EvidenceReward, tasks, process, split), **options)


def _evidence_value(tasks: Sequence[Task], process: Process | None, split: str, **options: Any) -> ProcessReward:
    from raggym_env.rewards.evidence import EvidenceValue

    return EvidenceValue(tasks, _with_facts("evidence_value", EvidenceValue, tasks, process, split), **options)


def _with_facts(name: str, kind: type, tasks: Sequence[Task], process: Process | None, split: str) -> Process:
    process = _for_training(name, "supporting facts", f"{kind.__name__}(tasks, process)", tasks, process, split)
    if lacking := sum(not task.supporting for task in tasks):
        raise RewardError(
            f"The {name!r} process reward needs supporting facts, and {lacking} of {len(tasks)} questions name none."
        )
    return process


def _mini(tasks: Sequence[Task], process: Process | None, split: str, **options: Any) -> ProcessReward:
    from raggym_env.rewards.mini import MiniReward

    return MiniReward(**options)


def _rollout(
    tasks: Sequence[Task],
    process: Process | None,
    split: str,
    policy: Any = "lexical",
    policy_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ProcessReward:
    """`policy` is a card's name or path, or a policy; `policy_options` are arguments of `policies.make`."""
    from raggym_env import policies
    from raggym_env.rewards.rollout import RolloutReward

    process = _for_training("rollout", "gold answers", "RolloutReward(policy, process, tasks)", tasks, process, split)
    if isinstance(policy, str | Path):
        policy = policies.make(policy, process=process, **(policy_options or {}))
    return RolloutReward(policy, process, tasks, **options)


def _for_training(
    name: str, gold: str, call: str, tasks: Sequence[Task], process: Process | None, split: str
) -> Process:
    """The process, for a reward that reads what only training may."""
    if not split.startswith("train"):
        raise RewardError(
            f"The {name!r} process reward reads {gold}, so it is for splits named train... only, "
            f'not for {split!r}. Use split="train", or another process reward.'
        )
    if not tasks or process is None:
        raise RewardError(
            f"The {name!r} process reward needs the tasks and the process of an environment. Where only a policy "
            f"is made, pass {call}."
        )
    return process


def _judge(tasks: Sequence[Task], process: Process | None, split: str, **options: Any) -> ProcessReward:
    from raggym_env.rewards.judge import JudgeReward

    return JudgeReward(**options)


def _model(tasks: Sequence[Task], process: Process | None, split: str, **options: Any) -> ProcessReward:
    from raggym_env.rewards.model import ModelReward

    return ModelReward(**options)


PROCESS_REWARDS: dict[str, Callable[..., ProcessReward | None]] = {
    "none": _none,
    "random": _random,
    "evidence": _evidence,
    "evidence_value": _evidence_value,
    "mini": _mini,
    "judge": _judge,
    "model": _model,
    "rollout": _rollout,
}


def make(name: str, tasks: Sequence[Task], process: Process | None, split: str, **options: Any) -> ProcessReward | None:
    """Make a process reward by name; "none" gives None.

    Args:
        name: A key of `PROCESS_REWARDS`.
        tasks: The tasks whose states it will score. Only rewards that need gold facts keep any of them.
        process: The process the states belong to, for rewards that look ahead.
        split: The split the tasks are from.
        options: Keyword arguments of the reward.

    Raises:
        UnknownName: No process reward has that name.
        CardError: It has no such option, or the option is out of range.
        RewardError: It cannot be used here.
    """
    if name not in PROCESS_REWARDS:
        raise UnknownName("process reward", name, PROCESS_REWARDS)
    try:
        return PROCESS_REWARDS[name](tasks, process, split, **options)
    except RAGGymError:
        raise
    except TypeError as error:
        raise CardError(f"Process reward {name!r} does not take {options!r:.200}: {error}") from error
    except ValueError as error:
        raise CardError(f"Process reward {name!r}: {error}") from error
