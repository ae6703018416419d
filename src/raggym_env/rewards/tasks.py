"""The tasks that states belong to, for what reads gold, and what their answers are graded by."""

from __future__ import annotations

from collections.abc import Iterable

from raggym_env.core import State, Task
from raggym_env.errors import RewardError, check_option
from raggym_env.mdp.metrics import METRICS, score

__all__ = ["GradedTasks", "TaskIndex"]


class TaskIndex:
    """Finds the task of a state: by the question's id, or by its text and options where the state has no id."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._by_id: dict[str, Task] = {}
        self._by_text: dict[str, list[Task]] = {}
        for task in tasks:
            self._by_id[task.id] = task
            self._by_text.setdefault(task.question.text, []).append(task)

    def matching(self, state: State) -> list[Task]:
        """Return the tasks with a state's question: one, if the question is known and its text is unique."""
        question = state.question
        # The text as well: the same id may belong to a question of another data set.
        if (task := self._by_id.get(question.id)) is not None and task.question.text == question.text:
            return [task]
        return [task for task in self._by_text.get(question.text, ()) if task.question.options == question.options]


class GradedTasks:
    """Finds the task of a state, and grades answers to it.

    Args:
        tasks: The tasks. A state without a question id is matched by its question's text and options.
        metric: Metric that grades answers; None is "f1", or "accuracy" for a question with options.
        reward: The name of the reward in error messages.

    Raises:
        OptionError: There is no such metric.
    """

    def __init__(self, tasks: Iterable[Task], metric: str | None, reward: str) -> None:
        check_option("metric", metric, metric is None or metric in METRICS, f"one of {sorted(METRICS)}")
        self.metric = metric
        self.reward = reward
        self._tasks = TaskIndex(tasks)

    def of(self, state: State) -> Task:
        """Return the task that a state belongs to.

        Raises:
            RewardError: The question matches no task, or several.
        """
        tasks = self._tasks.matching(state)
        if len(tasks) != 1:
            raise RewardError(
                f"The {self.reward} reward has {len(tasks) or 'no'} tasks with the question "
                f"{state.question.text!r:.100}, and needs exactly one to grade answers. Score states of the tasks it "
                "was made with."
            )
        return tasks[0]

    def grade(self, answer: str | None, task: Task) -> float:
        """Return the score in [0, 1] of an answer; 0 without one."""
        return score(self.metric or ("f1" if task.correct is None else "accuracy"), answer, task)
