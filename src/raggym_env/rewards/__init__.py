"""Process rewards: they score actions and never propose any.

A process reward is named in a card or on the command line, or passed as any object with the `ProcessReward` method.
Adding one is adding a file and a name to `raggym_env.registry.PROCESS_REWARDS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from raggym_env.core import Passage, Task
from raggym_env.errors import RewardError
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.protocols import ProcessReward
from raggym_env.registry import PROCESS_REWARDS, Factory

__all__ = ["PROCESS_REWARDS", "ProcessReward", "make"]


def make(
    process_reward: str | Factory,
    tasks: Sequence[Task] = (),
    dynamics: Dynamics | None = None,
    split: str = "train",
    corpus: Sequence[Passage] | None = None,
    **options: Any,
) -> ProcessReward | None:
    """Make a process reward; "none" gives None.

    Args:
        process_reward: A key of `PROCESS_REWARDS`, "module:Class", or a class.
        tasks: The tasks whose states it will score. Given to a class whose constructor takes `tasks`, which reads
            gold answers or facts and is for training splits only.
        dynamics: The dynamics of the environment. Given to a class whose constructor takes `dynamics`.
        split: The split the tasks are from.
        corpus: The passages that are searched. Given to a class whose constructor takes `corpus`.
        options: Keyword arguments of the class.

    Raises:
        UnknownName: No process reward has that name.
        OptionError: It has no such option, or the option is out of range.
        RewardError: It reads gold and the split is not for training, or it needs an environment and there is none.
    """
    if process_reward == "none":
        return None
    factory = PROCESS_REWARDS.resolve(process_reward)
    context = {"tasks": tasks, "dynamics": dynamics}
    parameters = inspect.signature(factory).parameters
    needed = {name: value for name, value in context.items() if name in parameters}
    if needed:
        _check_context(process_reward, tasks, dynamics, split, reads_gold="tasks" in needed)
    if corpus is not None and "corpus" in parameters:
        options["corpus"] = corpus
    if check_tasks := getattr(factory, "check_tasks", None):
        check_tasks(tasks)
    made: ProcessReward = PROCESS_REWARDS.make(process_reward, **needed, **options)
    return made


def check_split(process_reward: str | Factory, split: str) -> None:
    """Raise `RewardError` if a process reward reads gold answers or facts, and the split is not for training."""
    if (
        split.startswith("train")
        or "tasks" not in inspect.signature(PROCESS_REWARDS.resolve(process_reward)).parameters
    ):
        return
    raise RewardError(
        f"The process reward {process_reward!r} reads gold answers or facts, so it is for splits named train... only, "
        f'not for {split!r}. Use split="train", or another process reward.'
    )


def _check_context(
    name: str | Factory, tasks: Sequence[Task], dynamics: Dynamics | None, split: str, *, reads_gold: bool
) -> None:
    if reads_gold:
        check_split(name, split)
    if (reads_gold and not tasks) or dynamics is None:
        raise RewardError(
            f"The process reward {name!r} needs the tasks and the dynamics of an environment. Where only a policy is "
            "made, pass the object: make it with its class first."
        )
