"""`raggym train`: tune an agent's model, or train a process reward model, on what `raggym collect` wrote."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raggym_env.cli._options import parse_settings
from raggym_env.errors import RunError

__all__ = ["app"]

app = typer.Typer(
    help="Train on process data. Killed and started again with the same words, a training goes on where it was.",
    no_args_is_help=True,
)

_HOW, _EXAM = "How it is trained", "Evaluation before and after"

Data = Annotated[Path, typer.Argument(help="Folder made by `raggym collect`.")]
Out = Annotated[Path, typer.Option(help="Folder for what is trained.")]
Agent = Annotated[str, typer.Option("--as", metavar="POLICY", help="Prompt agent to train: a name or a card's path.")]
Margin = Annotated[float, typer.Option(min=0.001, help="Least difference of scores in a pair.")]
Pairs = Annotated[int, typer.Option(min=1, help="Pairs per state.")]
OutcomeWeight = Annotated[float, typer.Option(help="Weight of an answer's outcome, added to its score.")]


def _shared(
    model: Annotated[
        str, typer.Option(help="smollm2, a folder, a .gguf file or a hub name. MODEL+ADAPTER goes on with an adapter.")
    ] = "smollm2",
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of the weights.", rich_help_panel=_HOW)] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the data.", show_default="1", rich_help_panel=_HOW)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.", rich_help_panel=_HOW)] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Rows computed at once.", rich_help_panel=_HOW)] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Batches per step.", show_default="for 16 rows", rich_help_panel=_HOW)
    ] = None,
    max_length: Annotated[
        int, typer.Option(min=1, help="Tokens of a row; longer ones are left out.", rich_help_panel=_HOW)
    ] = 2048,
    lora_rank: Annotated[
        int, typer.Option(min=0, help="Of a new LoRA adapter; 0 trains all weights.", rich_help_panel=_HOW)
    ] = 16,
    seed: Annotated[int, typer.Option(help="Of everything drawn.", rich_help_panel=_HOW)] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take the first N trajectories only.", rich_help_panel=_HOW)
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.", rich_help_panel=_HOW)] = 50,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave the GPU alone.", rich_help_panel=_HOW)] = False,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="What is computed in; auto is bfloat16 on a GPU.", rich_help_panel=_HOW),
    ] = "auto",
    env: Annotated[
        str | None, typer.Option("--eval", metavar="ENV", help="An id or a card's path.", rich_help_panel=_EXAM)
    ] = None,
    eval_split: Annotated[str, typer.Option(help="Split of it.", rich_help_panel=_EXAM)] = "test",
    eval_limit: Annotated[
        int, typer.Option(min=1, help="Take the first N questions only.", rich_help_panel=_EXAM)
    ] = 50,
    eval_set: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Change a card, e.g. retrieval.k=3.", rich_help_panel=_EXAM),
    ] = None,
) -> None:
    """The options of all trainings, besides those of each."""


def _how(given: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of all trainings out of `given` and makes arguments of them."""
    from raggym_env.training.trl.options import Exam, Options

    shared = {name: given.pop(name) for name in inspect.signature(_shared).parameters}
    named = {each.name: shared[each.name] for each in fields(Options) if each.name in shared}
    try:
        options = Options(**named, device="cpu" if shared["cpu"] else "auto")
    except ValueError as error:
        raise RunError(str(error)) from error
    settings = parse_settings(shared["eval_set"] or [])
    exam = shared["env"] and Exam(shared["env"], shared["eval_split"], shared["eval_limit"], settings)
    return {"options": options, "exam": exam}


def _training(command: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a command of a function: it gets the options of all trainings too, a progress bar and a summary."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    shared = inspect.signature(_shared, eval_str=True).parameters.values()

    def run(**given: Any) -> None:
        how = _how(given)
        with _Bar() as bar:
            recipe = command(**given, **how, progress=bar)
        _summarise(recipe)

    named = [parameter for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
    run.__signature__ = inspect.Signature([*named, *shared])  # type: ignore[attr-defined]
    run.__doc__ = command.__doc__
    app.command(command.__name__)(run)
    return command


@_training
def sft(
    data: Data,
    out: Out,
    agent: Agent = "react",
    best: Annotated[
        Literal["executed", "top"],
        typer.Option(help="Learn what was executed, or the best-scored candidate of each state."),
    ] = "executed",
    outcome_weight: OutcomeWeight = 0.0,
    **how: Any,
) -> Any:
    """Fine-tune an agent's model on the good actions."""
    from raggym_env.training.trl.sft import train

    return train(data, agent, out, best=best, outcome_weight=outcome_weight, **how)


@_training
def dpo(
    data: Data,
    out: Out,
    agent: Agent = "react",
    beta: Annotated[float, typer.Option(min=1e-6, help="How closely the model is held to what it was.")] = 0.1,
    margin: Margin = 0.05,
    pairs: Pairs = 1,
    outcome_weight: OutcomeWeight = 0.0,
    **how: Any,
) -> Any:
    """Teach an agent's model to prefer better candidates; best from --model MODEL+SFT."""
    from raggym_env.training.trl.dpo import train
    from raggym_env.training.trl.options import Pairs

    return train(data, agent, out, pairs=Pairs(pairs, margin, outcome_weight), beta=beta, **how)


@_training
def prm(
    data: Data,
    out: Out,
    margin: Margin = 0.05,
    pairs: Pairs = 4,
    outcome_weight: OutcomeWeight = 0.0,
    holdout: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of the questions to test the ranking on.")
    ] = 0.1,
    center: Annotated[float, typer.Option(min=0, help="Weight of what holds the mean output near 0.")] = 0.01,
    policy: Annotated[
        str, typer.Option(help="Policy whose candidates it chooses among.", rich_help_panel=_EXAM)
    ] = "lexical",
    best_of: Annotated[int, typer.Option(min=1, help="Of how many.", rich_help_panel=_EXAM)] = 8,
    **how: Any,
) -> Any:
    """Train a language model as process reward model, the reward "model"."""
    from raggym_env.training.trl.options import Pairs
    from raggym_env.training.trl.prm import train

    learnt = Pairs(pairs, margin, outcome_weight)
    return train(data, out, pairs=learnt, holdout=holdout, center=center, policy=policy, best_of=best_of, **how)


@_training
def grpo(
    data: Annotated[
        str, typer.Argument(help="Folder made by `raggym collect`; or an environment, for the first states only.")
    ],
    out: Out,
    agent: Agent = "react",
    reward: Annotated[str, typer.Option(help="Process reward of a reply's action.")] = "mini",
    reward_set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of it, e.g. path=runs/prm.")
    ] = None,
    outcome_weight: OutcomeWeight = 0.0,
    algorithm: Annotated[Literal["grpo", "rloo"], typer.Option(help="How advantages are computed.")] = "grpo",
    generations: Annotated[int, typer.Option(min=2, help="Replies per state.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a reply.")] = 96,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the replies.")] = 1.0,
    beta: Annotated[float | None, typer.Option(min=0, help="How closely the model is held to what it was.")] = None,
    penalty: Annotated[
        float, typer.Option(min=0.001, help="Of a reply that is no action, below the worst of its state.")
    ] = 1.0,
    **how: Any,
) -> Any:
    """Reinforce an agent's model by the process reward of its actions in collected states."""
    from raggym_env.training.trl.grpo import Replies, Scoring, train

    scoring = Scoring(reward, parse_settings(reward_set or []), outcome_weight, penalty)
    replies = Replies(generations, max_tokens, temperature)
    return train(data, agent, out, scoring=scoring, replies=replies, algorithm=algorithm, beta=beta, **how)


@app.command()
def mini(
    data: Annotated[list[Path], typer.Argument(help="Folders made by `raggym collect --critic evidence_value`.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 20,
    networks: Annotated[int, typer.Option(min=1, help="Networks whose mean is kept.")] = 5,
    hidden: Annotated[int, typer.Option(min=1, help="Units of each.")] = 64,
    holdout: Annotated[float, typer.Option(min=0, max=0.99, help="Share of the questions to test it on.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
) -> None:
    """Train the small process reward, "mini": minutes on a CPU. If it is killed, nothing is written."""
    from raggym_env.training.mini import MiniSettings, train_mini
    from raggym_env.training.process_data.trajectories import Collection

    settings = MiniSettings(epochs=epochs, networks=networks, hidden=hidden, held_out=holdout, seed=seed)
    with _Bar() as bar:
        recipe = train_mini(
            [Collection.read(folder) for folder in data],
            out,
            settings,
            progress=lambda done, total, loss: bar("train", done, total, {"loss": loss}),
        )
    typer.echo(f"rows        {recipe['states']:,} states, {recipe['candidates']:,} candidates")
    if recipe["held_out"]["agreement"] is not None:
        typer.echo(f"held out    ranked right {recipe['held_out']['agreement']:.3f}")
    typer.echo(f"result      {out}")


class _Bar(Progress):
    """One line for each stage: the evaluation before, the training, the evaluation after."""

    _NAMES = {"before": "evaluating", "train": "training", "after": "evaluating"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._stages: dict[str, Any] = {}
        self._loading = self.add_task("loading", total=None, said="")

    def __call__(self, stage: str, done: int, total: int, news: dict[str, Any]) -> None:
        if stage not in self._stages:
            self.update(self._loading, visible=False)
            self._stages[stage] = self.add_task(self._NAMES[stage], total=total, said="")
        said = "  ".join(f"{name} {news[name]:.4g}" for name in ("loss", "accuracy", "reward") if name in news)
        self.update(self._stages[stage], completed=done, total=total, said=said if stage == "train" else "")


def _summarise(recipe: Any) -> None:
    report = recipe.report
    rows = ", ".join(f"{count:,} {name}" for name, count in report["rows"].items())
    typer.echo(f"rows        {rows}")
    if report["log"]:
        losses = [entry["loss"] for entry in report["log"]]
        typer.echo(f"loss        {losses[0]:.4f} -> {losses[-1]:.4f} in {report['steps']} steps")
    for name in ("heldout_before", "heldout_after"):
        if name in report:
            typer.echo(f"{name.replace('_', ' '):11} ranked right {report[name]['accuracy']:.3f}")
    for stage in ("before", "after"):
        for name, (mean, low, high) in report.get(stage, {}).get("scores", {}).items():
            typer.echo(f"{stage:11} {name:10} {mean:.3f}  95 % interval [{low:.3f}, {high:.3f}]")
    typer.echo(f"result      {report['result']}")
