"""Steps that all trainers share: reading process data, and running a TRL trainer in a folder that can be resumed."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raggym_env.cards import PolicyCard
from raggym_env.errors import MissingExtra, RunError
from raggym_env.evaluation.evaluate import evaluate
from raggym_env.runs.plan import card_identity
from raggym_env.storage.work_folder import locked
from raggym_env.training.process_data.rows import graded
from raggym_env.training.process_data.trajectories import AnyCollection, Collection, Trajectory, WeightedCollection
from raggym_env.training.trl.config import EvalSpec, TrainingConfig
from raggym_env.training.trl.lm import Base, Chats, quiet, save, trainable
from raggym_env.training.trl.passes import trainer_class
from raggym_env.training.trl.recipe import Recipe

try:
    import datasets
    import transformers.integrations as _integrations
    from torch.utils.tensorboard import SummaryWriter
    from transformers import PrinterCallback, TrainerCallback
except ImportError as error:
    raise MissingExtra("Training a language model", "train") from error

__all__ = ["Job", "ProcessData", "Progress", "agent_job", "drop_long", "held_out_split", "make_trainer", "run_job"]

integrations: Any = _integrations  # resolves its names at run time, so a type checker sees none

Json = dict[str, Any]
Progress = Callable[[str, int, int, Json], None]
"""Called as a training proceeds, with the stage ("before", "train" or "after"), the number of steps or episodes
completed in it, their total number, and the latest metrics or episode record."""

_LOGGED = 200  # most entries of the loss history in recipe.json; TensorBoard has every step


@dataclass(frozen=True, slots=True)
class ProcessData:
    """The trajectories that a training uses."""

    collections: tuple[Collection, ...]
    trajectories: list[Trajectory]
    identity: Json
    """Checksum and settings of the data, for the recipe."""

    @classmethod
    def read(
        cls,
        data: AnyCollection | Sequence[AnyCollection],
        limit: int | None = None,
        outcome_weight: float = 0.0,
        seed: int = 0,
    ) -> ProcessData:
        """Read the trajectories that collections keep, with outcomes added as by `rows.graded`.

        Args:
            data: Process data or its folder, or several; see `WeightedCollection`.
            limit: Use the first `limit` trajectories of each collection only.
            outcome_weight: Weight of an answer's outcome.
            seed: Draws the trajectories of a collection whose weight is not a whole number.

        Raises:
            RunError: A folder is not process data, or a collection keeps no trajectory.
            OptionError: The weight of a collection is out of range.
            MalformedData: A record was changed by hand.
        """
        sources = [data] if isinstance(data, AnyCollection) else data
        parts = [WeightedCollection.read(source) for source in sources]
        if not parts:
            raise RunError("There is no process data to train on. Name at least one folder of `raggym collect`.")
        trajectories: list[Trajectory] = []
        for part in parts:
            sample = part.trajectories(limit=limit, seed=seed)
            if not sample:
                run, keep = part.collection.run, part.collection.settings["keep"]
                raise RunError(
                    f"{run.path} holds no trajectory to train on: none of its {len(run.records())} episodes passes "
                    f"keep={keep!r}. Collect more questions, or collect with --keep all."
                )
            trajectories += graded(sample, outcome_weight)
        identity = {**_identity(parts), "outcome_weight": outcome_weight}
        return cls(tuple(part.collection for part in parts), trajectories, identity)


def _identity(parts: Sequence[WeightedCollection]) -> Json:
    rows = [
        {"episodes_sha256": part.collection.sha256, "collect": part.collection.settings, "weight": part.weight}
        for part in parts
    ]
    if len(rows) > 1 or rows[0]["weight"] != 1:
        return {"collections": rows}
    # One collection as it is: as in the recipes of trainings that were started before there were mixtures.
    return {name: rows[0][name] for name in ("episodes_sha256", "collect")}


@dataclass(slots=True)
class Job:
    """A training that is ready to run."""

    config: Json
    """Identity of the training, for the recipe."""
    base: Base
    make_trainer: Callable[[], Any]
    """Makes TRL's trainer. It is called only if the training is not already finished."""
    rows: Json
    """Numbers of rows, for the report."""
    policy: str | PolicyCard
    """The policy that is evaluated."""
    settings_before: Json
    """Settings of the evaluation before training."""
    settings_after: Callable[[str], Json]
    """Settings of the evaluation of the trained model, given the name that `hf:` loads it by."""


def agent_job(
    card: PolicyCard, base: Base, config: TrainingConfig, identity: Json, rows: Json, make_trainer: Callable[[], Any]
) -> Job:
    """Return the training of a prompt agent's model, evaluated as that agent before and after.

    `identity` is what identifies the training besides agent, model and config: its kind, data and own options.
    """
    # Evaluated on the device of the training; other options of the card's model stay.
    llm_options = {**card.options.get("llm_options", {}), "device": config.device}

    def with_model(name: str) -> Json:
        return {"policy.options.llm": f"hf:{name}", "policy.options.llm_options": llm_options}

    identity = {**identity, "agent": card_identity(card), "model": base.identity(), "options": config.identity()}
    return Job(identity, base, make_trainer, rows, card, with_model(config.model), with_model)


def drop_long(rows: Iterable[Chats], base: Base, max_length: int, unit: str) -> tuple[list[Any], Json]:
    """Return the rows, called `unit` in messages, of at most `max_length` tokens, and how many are used and dropped.

    Raises:
        RunError: There are no rows, or all are too long.
    """
    rows = list(rows)
    if not rows:
        raise RunError(f"The process data makes no {unit}. Collect more, or lower the margin between the scores.")
    lengths = [base.tokens(row) for row in rows]
    short = [(row, length) for row, length in zip(rows, lengths, strict=True) if length <= max_length]
    if not short:
        raise RunError(
            f"All {len(rows)} {unit} are longer than max_length = {max_length}; the shortest has {min(lengths)} "
            "tokens. Raise max_length, or shorten the agent's prompts (passage_chars, examples)."
        )
    mean = sum(length for _, length in short) / len(short)
    counts = {"used": len(short), "too_long": len(rows) - len(short), "mean_tokens": round(mean, 1)}
    return [row for row, _ in short], counts


def make_trainer(
    name: str,
    base: Base,
    adapter: Any,
    args: Any,
    rows: list[Any],
    test_rows: Sequence[Any] = (),
    *,
    config: TrainingConfig | None = None,
    **options: Any,
) -> Any:
    """Return a trainer of TRL's class `name`, such as "SFTTrainer", with further arguments of that class as `options`.

    `adapter` is made by `lora_config` and `args` by `trl_config`. On `test_rows` the model is tested before and after.
    `config` says how batches are computed: `tokens_per_batch` and `share_prefix`.
    """
    config = config or TrainingConfig()
    return trainer_class(name, config.tokens_per_batch, config.share_prefix)(
        **trainable(base, adapter),
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=datasets.Dataset.from_list(list(test_rows)) if test_rows else None,
        processing_class=base.tokenizer,
        **options,
    )


def run_job(
    job: Job, out: str | Path, evaluation: EvalSpec | None = None, *, trust: bool, progress: Progress | None
) -> Recipe:
    """Run a training in a folder, or resume the one that is there; evaluate before and after.

    Raises:
        RunError: The folder holds something else, or another process is writing to it.
    """
    recipe = Recipe.open(out, job.config)
    with locked(recipe.path), quiet():
        # Written before anything that takes long, so that the folder is recognized when the training is resumed.
        recipe.report |= {"rows": job.rows}
        recipe.write()
        if evaluation is not None:
            _evaluate("before", evaluation, job, job.settings_before, recipe, trust, progress)
        if recipe.status == "running":
            _train(job, recipe, progress)
        if evaluation is not None:
            settings = job.settings_after(recipe.report["result"])
            _evaluate("after", evaluation, job, settings, recipe, trust, progress)
    return recipe


def _evaluate(
    stage: str, spec: EvalSpec, job: Job, settings: Json, recipe: Recipe, trust: bool, progress: Progress | None
) -> None:
    config = {"env": spec.env, "split": spec.split, "limit": spec.limit, "settings": dict(spec.settings)}
    if recipe.report.get(stage, {}).items() >= config.items():
        return  # it was evaluated the same way before the training was interrupted
    options: Json = {"split": spec.split, "limit": spec.limit, "settings": {**spec.settings, **settings}}
    options |= {"out": recipe.path / stage, "trust": trust}
    report = None if progress is None else partial(progress, stage)
    _, scores = evaluate(spec.env, job.policy, progress=report, **options)
    means = {metric: list(estimate) for metric, estimate in scores.metrics.items()}
    recipe.report[stage] = {**config, "scores": means, "scored": scores.scored, "failed": scores.failed}
    recipe.write()


def _train(job: Job, recipe: Recipe, progress: Progress | None) -> None:
    trainer = job.make_trainer()
    # A killed process may leave an incomplete checkpoint. The trainer's state is written last, so it marks those
    # that are complete.
    states = recipe.checkpoints.glob("checkpoint-*/trainer_state.json")
    complete = [state.parent for state in states if state.stat().st_size]
    checkpoint = max(complete, key=_step_of, default=None)
    start = 0 if checkpoint is None else _step_of(checkpoint)
    trainer.remove_callback(PrinterCallback)  # it prints every log entry as a dictionary
    # purge_step drops the curves of steps after the checkpoint, which are trained again.
    writer = SummaryWriter(str(recipe.path / "tensorboard"), purge_step=start + 1 if start else None)
    trainer.add_callback(integrations.TensorBoardCallback(writer))
    if progress is not None:
        trainer.add_callback(_ReportProgress(progress))
    if trainer.eval_dataset is not None and checkpoint is None:  # a resumed training has measured it already
        recipe.report["heldout_before"] = _held_out_metrics(trainer)
        recipe.write()
    clock = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    recipe.report |= _report(trainer, time.perf_counter() - clock, start)
    if trainer.eval_dataset is not None:
        recipe.report["heldout_after"] = _held_out_metrics(trainer)
    model = trainer.accelerator.unwrap_model(trainer.model)
    recipe.report["result"] = save(model, job.base.tokenizer, job.base.name, recipe.path)
    # The status changes only after the weights are written: a process killed in between writes them again.
    recipe.status = "trained"
    recipe.write()
    shutil.rmtree(recipe.checkpoints, ignore_errors=True)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])  # "checkpoint-50"


def _report(trainer: Any, seconds: float, start: int) -> Json:
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    stride = max(1, -(-len(log) // _LOGGED))
    steps = trainer.state.global_step - start  # those of this process, which `seconds` is the time of
    weights = list(trainer.model.parameters())
    curve = [entry for entry in trainer.state.log_history if "held_out/searches" in entry]  # of `episode_grpo`
    return {
        **({"curve": curve} if curve else {}),
        "steps": trainer.state.global_step,
        "epochs": round(float(trainer.state.epoch or 0.0), 4),
        "seconds_per_step": round(seconds / steps, 3) if steps else None,
        "device": str(trainer.args.device),
        "parameters": sum(tensor.numel() for tensor in weights),
        "trained_parameters": sum(tensor.numel() for tensor in weights if tensor.requires_grad),
        "log": log[::stride],
    }


def _held_out_metrics(trainer: Any) -> Json:
    """Return the loss and metrics on the held-out rows."""
    metrics: Json = trainer.evaluate()
    timing = ("runtime", "_time", "per_second", "num_tokens", "epoch")
    return {key.removeprefix("eval_"): value for key, value in metrics.items() if not key.endswith(timing)}


class _ReportProgress(TrainerCallback):
    """Reports each step with the metrics logged last."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.metrics: Json = {}

    # Both: a step's metrics arrive only after on_step_end, and not for every step if logging_steps was changed.
    def on_log(self, args: Any, state: Any, control: Any, logs: Json | None = None, **kwargs: Any) -> None:
        self.metrics = {**self.metrics, **(logs or {})}
        self.on_step_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress("train", state.global_step, state.max_steps, self.metrics)


def held_out_split(
    trajectories: Sequence[Trajectory], share: float, seed: int
) -> tuple[list[Trajectory], list[Trajectory]]:
    """Return the trajectories to train on, and those of a random `share` of the questions, to test on."""
    # By question: several collections may have the same, and a weight repeats its trajectory.
    questions = list(dict.fromkeys(trajectory.question for trajectory in trajectories))
    places = random.Random(seed).sample(range(len(questions)), round(share * len(questions)))
    test = {questions[place] for place in places}
    parts: tuple[list[Trajectory], list[Trajectory]] = ([], [])
    for trajectory in trajectories:
        parts[trajectory.question in test].append(trajectory)
    return parts
