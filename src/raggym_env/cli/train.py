"""`raggym train`: tune an agent's model, or train a process reward model, on what `raggym collect` wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raggym_env.cli._options import TrustCard, parse_settings
from raggym_env.cli._output import say

__all__ = ["app"]

app = typer.Typer(help="Train on process data. The same command resumes an interrupted training.", no_args_is_help=True)

Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA[:WEIGHT]",
        help="Folders made by `raggym collect`. DATA:0.5 uses half of its trajectories, drawn by the seed; DATA:2 all "
        "of them twice.",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder of the training.")]
Agent = Annotated[str, typer.Option("--as", metavar="POLICY", help="Prompt agent to train: a name or a card's path.")]
Margin = Annotated[float, typer.Option(min=0.001, help="Least difference of scores in a pair.")]
Pairs = Annotated[int, typer.Option(min=1, help="Maximum number of pairs per state.")]
OutcomeWeight = Annotated[float, typer.Option(help="Weight of an answer's outcome, added to its score.")]

# Fields of `TrainingConfig`, which all trainers on TRL share; `--set` reaches those that have no option of their own.
_PANEL: dict[str, Any] = {"rich_help_panel": "Training"}
Model = Annotated[
    str | None,
    typer.Option(
        help="Name, folder, .gguf file or hub name; MODEL+ADAPTER continues an adapter.",
        show_default="smollm2",
        **_PANEL,
    ),
]
MaxSteps = Annotated[int | None, typer.Option(min=1, help="Weight updates.", show_default="one epoch", **_PANEL)]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate.", **_PANEL)]
Limit = Annotated[int | None, typer.Option(min=1, help="Use the first N trajectories of each DATA only.", **_PANEL)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a field of TrainingConfig, such as lora_rank=8, device=cpu or save_steps=10; an argument of TRL's "
        "config, such as trl.weight_decay=0.01; or one of LoraConfig, such as lora.lora_dropout=0.05.",
        **_PANEL,
    ),
]

# The options of `EvalSpec`.
_EVALUATION: dict[str, Any] = {"rich_help_panel": "Evaluation before and after"}
EvalEnv = Annotated[str | None, typer.Option("--eval", metavar="ENV", help="An id or a card's path.", **_EVALUATION)]
EvalSplit = Annotated[str, typer.Option(help="Split of the environment.", **_EVALUATION)]
EvalLimit = Annotated[int, typer.Option(min=1, help="Take the first N questions only.", **_EVALUATION)]
EvalSet = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Change a card, e.g. retrieval.k=3.", **_EVALUATION)
]


def _run(ctx: typer.Context, trainer: Callable[..., Any], data: str | list[str], out: Path, **options: Any) -> None:
    """Call a trainer with the command's shared options, which are read from the context, and its own `options`."""
    from raggym_env.training import EvalSpec, TrainingConfig

    values = ctx.params
    # Flags go over --set, as they do in `raggym eval`.
    names = ("model", "max_steps", "learning_rate", "limit")
    flags = {name: values[name] for name in names if values[name] is not None}
    config = TrainingConfig.from_settings({**parse_settings(values["settings"]), **flags})
    evaluation = None
    if values["eval_env"] is not None:
        settings = parse_settings(values["eval_set"], "--eval-set")
        evaluation = EvalSpec(values["eval_env"], values["eval_split"], values["eval_limit"], settings)
        _check_evaluation(evaluation, values, config.model, options)
    shared = {"config": config, "evaluation": evaluation, "trust": values["trust_card"]}
    with _Bar() as bar:
        recipe = trainer(data, out, **options, **shared, progress=bar)
    _summarise(recipe)


def _check_evaluation(spec: Any, values: dict[str, Any], model: str, options: dict[str, Any]) -> None:
    """Raise what the evaluation would raise about its options. It comes after data and model are loaded."""
    from raggym_env.runs.plan import RunSpec

    settings = dict(spec.settings)
    if "agent" in options:
        settings["policy.options.llm"] = f"hf:{model}"
    # Whole episodes are evaluated in their own format and not by a policy: then any policy checks the environment.
    policy = options.get("agent") or options.get("policy") or "random"
    RunSpec.of(
        spec.env, policy, split=spec.split, limit=spec.limit, settings=settings, trust=values["trust_card"]
    ).check(here=False)


@app.command()
def sft(
    ctx: typer.Context,
    data: Data,
    out: Out,
    agent: Agent = "react",
    best: Annotated[
        Literal["executed", "top"], typer.Option(help="Learn the executed action, or the best-scored one.")
    ] = "executed",
    balance: Annotated[
        bool, typer.Option("--balance", help="Repeat rows: after a first search, as many that search as answer.")
    ] = False,
    outcome_weight: OutcomeWeight = 0.0,
    trust_card: TrustCard = False,
    # `_run` reads these from the context.
    model: Model = None,
    max_steps: MaxSteps = None,
    learning_rate: LearningRate = None,
    limit: Limit = None,
    settings: Set = None,
    eval_env: EvalEnv = None,
    eval_split: EvalSplit = "test",
    eval_limit: EvalLimit = 50,
    eval_set: EvalSet = None,
) -> None:
    """Fine-tune an agent's model on the good actions."""
    from raggym_env.training import train_sft

    _run(ctx, train_sft, data, out, agent=agent, best=best, balance=balance, outcome_weight=outcome_weight)


@app.command()
def dpo(
    ctx: typer.Context,
    data: Data,
    out: Out,
    agent: Agent = "react",
    beta: Annotated[float, typer.Option(min=1e-6, help="Strength of the constraint to the original model.")] = 0.1,
    margin: Margin = 0.05,
    pairs: Pairs = 1,
    balance: Annotated[
        bool, typer.Option("--balance", help="Repeat rows: after a first search, as many prefer a search as an answer.")
    ] = False,
    outcome_weight: OutcomeWeight = 0.0,
    trust_card: TrustCard = False,
    # `_run` reads these from the context.
    model: Model = None,
    max_steps: MaxSteps = None,
    learning_rate: LearningRate = None,
    limit: Limit = None,
    settings: Set = None,
    eval_env: EvalEnv = None,
    eval_split: EvalSplit = "test",
    eval_limit: EvalLimit = 50,
    eval_set: EvalSet = None,
) -> None:
    """Teach an agent's model to prefer better candidates; best after sft, from --model MODEL+SFT."""
    from raggym_env.training import PairConfig, train_dpo

    _run(ctx, train_dpo, data, out, agent=agent, pairs=PairConfig(pairs, margin, outcome_weight, balance), beta=beta)


@app.command()
def prm(
    ctx: typer.Context,
    data: Data,
    out: Out,
    margin: Margin = 0.05,
    pairs: Pairs = 4,
    outcome_weight: OutcomeWeight = 0.0,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of the questions to test the ranking on.")
    ] = 0.1,
    center_rewards_coefficient: Annotated[float, typer.Option(min=0, help="Weight of the centering loss.")] = 0.01,
    history_chars: Annotated[
        int | None,
        typer.Option(min=1, help="Show the sentences that matter, in so many characters.", show_default="all passages"),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="Policy whose candidates the trained critic chooses among.", **_EVALUATION)
    ] = "lexical",
    best_of: Annotated[int, typer.Option(min=1, help="Number of those candidates.", **_EVALUATION)] = 8,
    trust_card: TrustCard = False,
    # `_run` reads these from the context.
    model: Model = None,
    max_steps: MaxSteps = None,
    learning_rate: LearningRate = None,
    limit: Limit = None,
    settings: Set = None,
    eval_env: EvalEnv = None,
    eval_split: EvalSplit = "test",
    eval_limit: EvalLimit = 50,
    eval_set: EvalSet = None,
) -> None:
    """Train a language model as process reward model, the reward "model"."""
    from raggym_env.training import PairConfig, train_prm

    options: dict[str, Any] = {"held_out": held_out, "center_rewards_coefficient": center_rewards_coefficient}
    options["history_chars"] = history_chars
    chooser = {"policy": policy, "best_of": best_of}
    _run(ctx, train_prm, data, out, pairs=PairConfig(pairs, margin, outcome_weight), **options, **chooser)


@app.command()
def grpo(
    ctx: typer.Context,
    data: Annotated[
        str, typer.Argument(help="Folder made by `raggym collect`; or an environment, for the first states only.")
    ],
    out: Out,
    agent: Agent = "react",
    reward: Annotated[str, typer.Option(help="Process reward of a reply's action.")] = "mini",
    reward_set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the reward, e.g. path=runs/prm.")
    ] = None,
    outcome_weight: OutcomeWeight = 0.0,
    algorithm: Annotated[Literal["grpo", "rloo"], typer.Option(help="How advantages are computed.")] = "grpo",
    num_generations: Annotated[int, typer.Option(min=2, help="Replies per state.")] = 4,
    max_completion_length: Annotated[int, typer.Option(min=1, help="Maximum number of tokens of a reply.")] = 96,
    temperature: Annotated[float, typer.Option(min=0.01, help="Sampling temperature of the replies.")] = 1.0,
    beta: Annotated[float | None, typer.Option(min=0, help="Weight of the divergence from the original model.")] = None,
    penalty: Annotated[float, typer.Option(min=0.001, help="How far an invalid reply scores below the worst.")] = 1.0,
    trust_card: TrustCard = False,
    # `_run` reads these from the context.
    model: Model = None,
    max_steps: MaxSteps = None,
    learning_rate: LearningRate = None,
    limit: Limit = None,
    settings: Set = None,
    eval_env: EvalEnv = None,
    eval_split: EvalSplit = "test",
    eval_limit: EvalLimit = 50,
    eval_set: EvalSet = None,
) -> None:
    """Reinforce an agent's model by the process reward of its actions in collected states."""
    from raggym_env.training import ReplyConfig, StepRewardConfig, train_grpo

    reward_options = parse_settings(reward_set, "--reward-set")
    options = {
        "reward": StepRewardConfig(reward, reward_options, outcome_weight, penalty),
        "replies": ReplyConfig(num_generations, max_completion_length, temperature),
    }
    _run(ctx, train_grpo, data, out, agent=agent, **options, algorithm=algorithm, beta=beta)


@app.command()
def episodes(
    ctx: typer.Context,
    env: Annotated[str, typer.Argument(help="An id or a card's path; its training questions are used.")],
    out: Out,
    reward: Annotated[str, typer.Option(help="Process reward of each turn; none for the outcome alone.")] = "mini",
    reward_set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the reward, e.g. search_cost=0.1.")
    ] = None,
    outcome_weight: Annotated[float, typer.Option(help="Weight of the answer's score, on the last turn.")] = 1.0,
    process_weight: Annotated[float, typer.Option(help="Weight of the process reward.")] = 1.0,
    invalid_reward: Annotated[float, typer.Option(help="Reward of a reply without an action.")] = -1.0,
    credit: Annotated[
        Literal["turn", "episode"], typer.Option(help="An advantage per turn, or one per episode.")
    ] = "turn",
    discount: Annotated[
        float, typer.Option(min=0, max=1, help="Weight of the next turn's return, for credit per turn.")
    ] = 1.0,
    scale_rewards: Annotated[
        Literal["group", "batch", "none"], typer.Option(help="Standard deviation that advantages are divided by.")
    ] = "batch",
    passage_chars: Annotated[int, typer.Option(min=1, help="Characters shown of each passage.")] = 600,
    env_set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Change the card, e.g. episode.max_searches=3.")
    ] = None,
    num_generations: Annotated[int, typer.Option(min=2, help="Episodes per question.")] = 4,
    max_completion_length: Annotated[int, typer.Option(min=1, help="Maximum number of tokens of a reply.")] = 96,
    temperature: Annotated[float, typer.Option(min=0.01, help="Sampling temperature of the replies.")] = 1.0,
    beta: Annotated[float | None, typer.Option(min=0, help="Weight of the divergence from the original model.")] = None,
    eval_every: Annotated[
        int, typer.Option(min=1, help="Weight updates between evaluations; --eval names what on.", **_EVALUATION)
    ] = 25,
    trust_card: TrustCard = False,
    # `_run` reads these from the context.
    model: Model = None,
    max_steps: MaxSteps = None,
    learning_rate: LearningRate = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first N questions only.", **_PANEL)] = None,
    settings: Set = None,
    eval_env: EvalEnv = None,
    eval_split: EvalSplit = "test",
    eval_limit: EvalLimit = 50,
    eval_set: EvalSet = None,
) -> None:
    """Reinforce a model in whole episodes: each turn is credited for what it led to."""
    from raggym_env.training import EpisodeConfig, ReplyConfig, train_episodes

    config = EpisodeConfig(
        process_reward=reward,
        options=parse_settings(reward_set, "--reward-set"),
        outcome_weight=outcome_weight,
        process_weight=process_weight,
        invalid_reward=invalid_reward,
        credit=credit,
        discount=discount,
        scale_rewards=scale_rewards,
        passage_chars=passage_chars,
        settings=parse_settings(env_set, "--env-set"),
    )
    replies = ReplyConfig(num_generations, max_completion_length, temperature)
    _run(ctx, train_episodes, env, out, episodes=config, replies=replies, beta=beta, eval_every=eval_every)


@app.command()
def mini(
    data: Data,
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 20,
    networks: Annotated[int, typer.Option(min=1, help="Number of networks, whose mean is saved.")] = 5,
    hidden: Annotated[int, typer.Option(min=1, help="Hidden units per network.")] = 64,
    held_out: Annotated[float, typer.Option(min=0, max=0.99, help="Share of the questions to test it on.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Train the small process reward, "mini": minutes on a CPU. An interrupted training writes nothing.

    The data must have values as scores: `raggym collect --critic evidence_value`.
    """
    from raggym_env.training import MiniConfig, train_mini

    config = MiniConfig(epochs=epochs, networks=networks, hidden=hidden, held_out=held_out, seed=seed)
    with _Bar() as bar:
        recipe = train_mini(data, out, config=config, progress=bar)
    say(f"rows        {recipe['states']:,} states, {recipe['candidates']:,} candidates")
    if recipe["held_out"]["agreement"] is not None:
        say(f"held out    ranked right {recipe['held_out']['agreement']:.3f}")
    say(f"result      {out}")


class _Bar(Progress):
    """One line per stage: the evaluation before, the training, the evaluation after."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._stages: dict[str, Any] = {}
        self._loading = self.add_task("loading", total=None, metrics="")

    def __call__(self, stage: str, done: int, total: int, info: dict[str, Any]) -> None:
        # A row per stage appears with its first report: loading a model before it can take minutes.
        if stage not in self._stages:
            self.update(self._loading, visible=False)
            name = "training" if stage == "train" else "evaluating"
            self._stages[stage] = self.add_task(name, total=total, metrics="")
        metrics = "  ".join(f"{key} {info[key]:.4g}" for key in ("loss", "accuracy", "reward") if key in info)
        self.update(self._stages[stage], completed=done, total=total, metrics=metrics if stage == "train" else "")


def _summarise(recipe: Any) -> None:
    report = recipe.report
    say(f"rows        {', '.join(f'{count:,} {name}' for name, count in report['rows'].items())}")
    if report["log"]:  # empty if logging_steps, passed through to TRL, is greater than the number of steps
        losses = [entry["loss"] for entry in report["log"]]
        say(f"loss        {losses[0]:.4f} -> {losses[-1]:.4f} in {report['steps']} steps")
    for entry in report.get("curve", ()):  # of `raggym train episodes`
        values = {name: entry.get(f"held_out/{name}") for name in ("f1", "accuracy", "searches", "no_action")}
        means = (f"{name} {value:.3f}" for name, value in values.items() if value is not None)
        say(f"held out    step {entry['step']:<5} {'  '.join(means)}")
    for key in ("heldout_before", "heldout_after"):
        if key in report:
            say(f"{key.replace('_', ' '):11} ranked right {report[key]['accuracy']:.3f}")
    for stage in ("before", "after"):
        for metric, (mean, low, high) in report.get(stage, {}).get("scores", {}).items():
            say(f"{stage:11} {metric:10} {mean:.3f}  95 % interval [{low:.3f}, {high:.3f}]")
    say(f"result      {report['result']}")
