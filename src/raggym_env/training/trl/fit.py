"""What all trainings share: reading process data, and running one of TRL's trainers in a folder that can be resumed."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard
from raggym_env.errors import MissingExtra, RunError
from raggym_env.evaluation.evaluate import evaluate
from raggym_env.runs.plan import card_identity
from raggym_env.training.process_data.rows import graded
from raggym_env.training.process_data.trajectories import Collection, Trajectory
from raggym_env.training.trl.lm import Base, Chats, quiet, save
from raggym_env.training.trl.options import Exam, Options
from raggym_env.training.trl.recipe import Recipe

try:
    import transformers.integrations as _integrations
    from torch.utils.tensorboard import SummaryWriter
    from transformers import PrinterCallback, TrainerCallback
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["Job", "ProcessData", "Progress", "agent_job", "carry_out", "fitting", "held_out"]

integrations: Any = _integrations  # its names are made at run time

Json = dict[str, Any]
Progress = Callable[[str, int, int, Json], None]
"""Called with a stage ("before", "train" or "after"), how much of it is done, how much there is, and what is new."""

_LOGGED = 200  # entries of the losses kept in recipe.json; TensorBoard has them all


@dataclass(frozen=True, slots=True)
class ProcessData:
    """What a training reads of a folder made by `raggym collect`."""

    collection: Collection
    trajectories: list[Trajectory]
    identity: Json

    @classmethod
    def read(cls, path: str | Path, limit: int | None = None, outcome_weight: float = 0.0) -> ProcessData:
        """Read the kept trajectories, the first `limit` of them, their scores as by `rows.graded`.

        Raises:
            RunError: It is no process data, or holds no trajectory that was to be kept.
            MalformedData: A record was changed by hand.
        """
        collection = Collection.read(path)
        trajectories = list(collection.trajectories())
        if not trajectories:
            seen = len(collection.run.records())
            raise RunError(
                f"{path} holds no trajectory to train on: of {seen} episodes none ended as keep="
                f"{collection.settings['keep']!r} asks for. Collect more, or with --keep all."
            )
        made_from = {"episodes_sha256": collection.sha256, "collect": collection.settings}
        identity = {**made_from, "outcome_weight": outcome_weight}
        return cls(collection, list(graded(trajectories[:limit], outcome_weight)), identity)


@dataclass(slots=True)
class Job:
    """One training, ready to be run."""

    config: Json
    """What identifies it."""
    base: Base
    trainer: Callable[[Path], Any]
    """Makes TRL's trainer, given the folder for its checkpoints."""
    rows: Json
    """Numbers of rows, for the report."""
    policy: str | PolicyCard
    """What an exam evaluates."""
    before: Json
    """Settings of the exam before training."""
    after: Callable[[str], Json]
    """Settings of the exam after it, given what the result is called."""


def agent_job(
    card: PolicyCard, base: Base, options: Options, config: Json, rows: Json, trainer: Callable[[Path], Any]
) -> Job:
    """The training of a prompt agent's model. Its exam is the agent, with the model before and after."""
    llm_options = {**card.options.get("llm_options", {}), "device": options.device}

    def with_model(name: str) -> Json:
        return {"policy.options.llm": f"hf:{name}", "policy.options.llm_options": llm_options}

    config = {**config, "agent": card_identity(card), "model": base.identity(), "options": options.identity()}
    return Job(config, base, trainer, rows, card, with_model(options.model), with_model)


def fitting(rows: Iterable[Chats], base: Base, max_length: int, what: str) -> tuple[list[Any], Json]:
    """The rows that are short enough, for TRL, and how many there were.

    Raises:
        RunError: There are none.
    """
    every = list(rows)
    if not every:
        raise RunError(f"The process data makes no {what}. Collect more, or lower the margin between the scores.")
    lengths = [base.tokens(row) for row in every]
    kept = [row for row, length in zip(every, lengths, strict=True) if length <= max_length]
    if not kept:
        raise RunError(
            f"All {len(every)} {what} are longer than max_length = {max_length}; the shortest has {min(lengths)} "
            "tokens. Raise --max-length, or train an agent that is shown less (passage_chars, examples)."
        )
    short = [length for length in lengths if length <= max_length]
    counts = {"used": len(kept), "too_long": len(every) - len(kept), "mean_tokens": round(sum(short) / len(short), 1)}
    return kept, counts


def carry_out(job: Job, out: str | Path, exam: Exam | None = None, progress: Progress | None = None) -> Recipe:
    """Train in a folder, or go on with a training that was cut off; evaluate before and after.

    Raises:
        RunError: The folder holds something else, or another process is writing to it.
    """
    recipe = Recipe.open(out, job.config)
    with recipe.lock(), quiet():
        recipe.report |= {"rows": job.rows}
        recipe.write()
        if exam is not None:
            _examine("before", exam, job, job.before, recipe, progress)
        if recipe.status == "running":
            _train(job, recipe, progress)
        if exam is not None:
            _examine("after", exam, job, job.after(recipe.report["result"]), recipe, progress)
    return recipe


def _examine(stage: str, exam: Exam, job: Job, settings: Json, recipe: Recipe, progress: Progress | None) -> None:
    asked = {"env": exam.env, "split": exam.split, "limit": exam.limit, "settings": dict(exam.settings)}
    if recipe.report.get(stage, {}).items() >= asked.items():
        return
    _, scores = evaluate(
        exam.env,
        job.policy,
        split=exam.split,
        limit=exam.limit,
        settings={**exam.settings, **settings},
        out=recipe.path / stage,
        progress=None if progress is None else lambda done, total, record: progress(stage, done, total, record),
    )
    means = {name: list(estimate) for name, estimate in scores.metrics.items()}
    recipe.report[stage] = {**asked, "scores": means, "scored": scores.scored, "failed": scores.failed}
    recipe.write()


def _train(job: Job, recipe: Recipe, progress: Progress | None) -> None:
    trainer = job.trainer(recipe.checkpoints)
    checkpoint = _last_checkpoint(recipe.checkpoints)
    begun = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(
        integrations.TensorBoardCallback(
            SummaryWriter(str(recipe.path / "tensorboard"), purge_step=begun + 1 if begun else None)
        )
    )
    if progress is not None:
        trainer.add_callback(_Tell(progress))
    if trainer.eval_dataset is not None and checkpoint is None:
        recipe.report["heldout_before"] = _measured(trainer)
        recipe.write()
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    recipe.report |= _report(trainer, time.perf_counter() - started, begun)
    if trainer.eval_dataset is not None:
        recipe.report["heldout_after"] = _measured(trainer)
    model = trainer.accelerator.unwrap_model(trainer.model)
    recipe.report["result"] = save(model, job.base.tokenizer, job.base.name, recipe.path)
    recipe.status = "trained"
    recipe.write()
    shutil.rmtree(recipe.checkpoints, ignore_errors=True)


def _report(trainer: Any, seconds: float, begun: int) -> Json:
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    every = max(1, -(-len(log) // _LOGGED))
    steps = trainer.state.global_step - begun
    weights = list(trainer.model.parameters())
    return {
        "steps": trainer.state.global_step,
        "epochs": round(float(trainer.state.epoch or 0.0), 4),
        "seconds_per_step": round(seconds / steps, 3) if steps else None,
        "device": str(trainer.args.device),
        "parameters": sum(each.numel() for each in weights),
        "trained_parameters": sum(each.numel() for each in weights if each.requires_grad),
        "log": log[::every],
    }


def _measured(trainer: Any) -> Json:
    """Loss and metrics on the rows that are not trained on."""
    metrics: Json = trainer.evaluate()
    timing = ("runtime", "_time", "per_second", "num_tokens", "epoch")
    return {key.removeprefix("eval_"): value for key, value in metrics.items() if not key.endswith(timing)}


def _last_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint. Of one that a killed process was writing, the trainer's state is missing."""
    whole = [each.parent for each in folder.glob("checkpoint-*/trainer_state.json") if each.stat().st_size]
    return max(whole, key=lambda each: int(each.name.rpartition("-")[2]), default=None)


class _Tell(TrainerCallback):
    """Passes on how far training is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.logged: Json = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Json | None = None, **more: Any) -> None:
        self.logged = {**self.logged, **(logs or {})}
        self.progress("train", state.global_step, state.max_steps, self.logged)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.progress("train", state.global_step, state.max_steps, self.logged)


def held_out(trajectories: Sequence[Trajectory], share: float, seed: int) -> tuple[list[Trajectory], list[Trajectory]]:
    """Trajectories to train on, and those of a share of the questions to test on."""
    count = round(share * len(trajectories))
    chosen = set(random.Random(seed).sample(range(len(trajectories)), count))
    return (
        [each for index, each in enumerate(trajectories) if index not in chosen],
        [each for index, each in enumerate(trajectories) if index in chosen],
    )
