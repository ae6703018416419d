"""A run folder with its questions, scored question by question: what leaderboard, compare, show and report all read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raggym_env.cards import EnvCard, policy_card
from raggym_env.core import Task
from raggym_env.data.dataset import TaskSet, resolve_split
from raggym_env.errors import RunError
from raggym_env.evaluation.scores import Scores, score_record, score_records
from raggym_env.mdp.records import Episode, Step
from raggym_env.registry import names_code
from raggym_env.runs.prompts import read_prompts
from raggym_env.runs.run import Run
from raggym_env.storage.paths import card_names

__all__ = ["LoadTasks", "ScoredRun", "cached_tasks", "local_tasks"]

LoadTasks = Callable[[EnvCard, str], TaskSet]


@dataclass(frozen=True)
class ScoredRun:
    """A run, the questions it covers, and the scores of its answers, all computed from the records."""

    run: Run
    card: EnvCard
    taskset: TaskSet
    tasks: Sequence[Task]
    """The questions that the run covers, in the split's order."""

    @classmethod
    def read(cls, path: str | Path, load_tasks: LoadTasks | None = None) -> ScoredRun:
        """Read a run folder and the questions of its split.

        Raises:
            RunError: The folder holds no evaluation, or was made on other questions than those of the local data set.
            DataError: The data set is not here.
        """
        run = Run.read(path)
        # Its policy was steered by a critic that may read gold answers.
        if "collect" in run.config:
            raise RunError(
                f"{run.path} is process data of `raggym collect`, not an evaluation. `--inspect` shows its contents."
            )
        card = run.card
        taskset = (load_tasks or local_tasks)(card, run.config["split"])
        # Scoring old answers on changed questions would give a number that nobody could reproduce.
        if taskset.fingerprint != run.config["dataset"]:
            raise RunError(
                f"{run.path} was made on other questions than those in {taskset.source} now, so it cannot be scored "
                "on them. Restore that file, or run the evaluation again."
            )
        return cls(run, card, taskset, run.select(taskset.tasks))

    @property
    def split(self) -> str:
        return str(self.run.config["split"])

    @property
    def key(self) -> tuple[str, ...]:
        """What two runs must share to be compared: the environment, the questions and the metric."""
        # Of two samples of one size, too, each has its own questions.
        sample = self.run.config.get("shuffle_seed")
        size = f"{len(self.tasks):09}" + ("" if sample is None else f", sample {sample}")
        return self.card.name, self.split, size, self.taskset.fingerprint, self.card.episode.metric

    @cached_property
    def episodes(self) -> Mapping[str, Episode]:
        """The episode that counts by question id, the last one recorded, for every question that has one."""
        ids = {task.id for task in self.tasks}
        # Read as a stream: a file may hold any number of records of other questions.
        latest = {episode.id: episode for episode in self.run.iter_episodes() if episode.id in ids}
        return {question: latest[question] for question in (task.id for task in self.tasks) if question in latest}

    @cached_property
    def by_question(self) -> Mapping[str, Mapping[str, float]]:
        """The scores in [0, 1] by question id and metric, for every question whose episode did not fail."""
        tasks = {task.id: task for task in self.tasks}
        return {
            question: score_record(episode, tasks[question])
            for question, episode in self.episodes.items()
            if episode.error is None
        }

    @cached_property
    def scores(self) -> Scores:
        """The scores over all questions. They count the cost of every record, also of those that were run again."""
        return score_records(self.run.iter_episodes(), self.tasks, self.run.price)

    @cached_property
    def prompts(self) -> Mapping[str, Mapping[str, str]]:
        """The recorded messages by id; empty if the run recorded none."""
        return read_prompts(self.run.prompts_file)

    def messages(self, holder: Step | Episode) -> list[Mapping[str, str]]:
        """Return the recorded prompt of a step, or of the output that ended an episode; empty if there is none."""
        missing = {"role": "missing", "content": f"This message is not in {self.run.prompts_file.name}."}
        return [self.prompts.get(name, missing) for name in holder.prompt] or list(holder.messages)

    @property
    def setting(self) -> str:
        """The retriever, passages per search, search budget and fingerprint of the corpus, as one line."""
        retrieval, episode = self.card.retrieval, self.card.episode
        options = "".join(f", {name}={value}" for name, value in retrieval.options.items())
        corpus = str(self.run.config["corpus"])[:6]  # runs over different passages are not comparable
        draft = ", last draft counts" if episode.answer_with_last_draft else ""
        return f"{retrieval.name}, k={retrieval.k}{options}, {episode.max_searches} searches{draft}, corpus {corpus}"

    @property
    def label(self) -> str:
        """The policy's name with the model, changed options, the search at inference and the seed."""
        policy, seed = self.run.config["policy"], self.run.config["seed"]
        name = str(policy["name"])
        # The record of a policy object lacks the table.
        search = {key: value for key, value in policy.get("search", {}).items() if value}
        if tree := search.pop("tree", None):
            search["tree"] = f"{tree['width']}x{tree['depth']}"
        parts = [*_options(policy), *(f"{key.replace('_', ' ')} {value}" for key, value in search.items())]
        parts += [f"seed {seed}"] if seed else []
        return f"{name} ({', '.join(parts)})" if parts else name


def _options(policy: Mapping[str, Any]) -> list[str]:
    """Return the model, and the options in which a run of a shipped card differs from that card."""
    options = dict(policy.get("options", {}))
    llm = options.pop("llm", None)
    # The name comes from a run folder, so it is looked up among the shipped cards only, never opened as a path.
    shipped = policy["name"] in card_names("policies")
    # A class named without a card has no options but those that were set.
    defaults = policy_card(policy["name"]).options if shipped else {} if names_code(str(policy["policy"])) else options
    changed = [
        f"{key} changed" if isinstance(value, dict | list) else f"{key}={value}"
        for key, value in options.items()
        if value != defaults.get(key)
    ]
    return [*([str(llm)] if llm else []), *changed]


def local_tasks(card: EnvCard, split: str) -> TaskSet:
    """Return the tasks of a split from the files of this machine. Errors are those of `data.load_tasks`."""
    # Reading somebody else's run must not ask the hub for the data set that its card names.
    return resolve_split(card, split, use_hub=False).task_set


def cached_tasks() -> LoadTasks:
    """Return `local_tasks` with a cache, since the runs of a board share their data set."""
    cache: dict[str, TaskSet] = {}

    def load(card: EnvCard, split: str) -> TaskSet:
        # Not by the card's name: two runs may have different cards of one name.
        key = f"{card.path} {card.dataset.model_dump_json()} {split}"
        if key not in cache:
            cache[key] = local_tasks(card, split)
        return cache[key]

    return load
