"""Rewards: answer metrics, process rewards and how they blend into the reward of a step.

A process reward is named in a card or on the command line, or passed as any object with the `ProcessReward`
method. Adding one is adding a file and a name to `PROCESS_REWARDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raggym_env.core import Task
from raggym_env.errors import CardError, RewardError, UnknownName
from raggym_env.process import Process
from raggym_env.rewards.base import ProcessReward
from raggym_env.rewards.step import Reward, StepReward

__all__ = ["PROCESS_REWARDS", "ProcessReward", "Reward", "StepReward", "make"]


def _none(tasks: Sequence[Task], process: Process | None, split: str) -> None:
    return None


def _random(tasks: Sequence[Task], process: Process | None, split: str, **options: Any) -> ProcessReward:
    from raggym_env.rewards.random import RandomReward

    return RandomReward(**options)


def _evidence(tasks: Sequence[Task], process: Process | None, split: str, **options: Any) -> ProcessReward:
    from raggym_env.rewards.evidence import EvidenceReward

    if not split.startswith("train"):
        raise RewardError(
            "The 'evidence' process reward reads gold supporting facts, so it is for splits named train... only, "
            f'not for {split!r}. Use split="train", or another process reward.'
        )
    if not tasks or process is None:
        raise RewardError(
            "The 'evidence' process reward needs the tasks and the process of an environment. Where only a policy "
            "is made, pass EvidenceReward(tasks, process)."
        )
    if lacking := sum(not task.supporting for task in tasks):
        raise RewardError(
            f"The 'evidence' process reward needs supporting facts, and {lacking} of {len(tasks)} questions name none."
        )
    return EvidenceReward(tasks, process, **options)


PROCESS_REWARDS: dict[str, Callable[..., ProcessReward | None]] = {
    "none": _none,
    "random": _random,
    "evidence": _evidence,
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
        CardError: It has no such option.
        RewardError: It cannot be used here.
    """
    if name not in PROCESS_REWARDS:
        raise UnknownName("process reward", name, PROCESS_REWARDS)
    try:
        return PROCESS_REWARDS[name](tasks, process, split, **options)
    except TypeError as error:
        raise CardError(f"Process reward {name!r} does not take {options!r:.200}: {error}") from error
