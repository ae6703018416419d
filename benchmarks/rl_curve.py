"""Reward and held-out F1 over the steps of GRPO on whole episodes, with the outcome alone as control.

    python benchmarks/rl_curve.py --env RAGGym-Synth-v0 --steps 100
    python benchmarks/rl_curve.py --small                                  two steps on few questions

Every arm starts from one model that was taught the format on right episodes of the gold chain, and sees the same
questions in the same order:

    turn       process reward in every turn, one advantage per turn
    outcome    the control: the outcome alone, one advantage per episode
    sum        process reward in every turn, but one advantage per episode, of their sum

Everything is below --out: warm_up, one training folder per arm, results.json, table.md and curve.png. The same command
resumes an interrupted benchmark from the checkpoints.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from gold_chain import GoldChain
from raggym_env.build import MDP, load_mdp
from raggym_env.cards import env_card, override
from raggym_env.core import Action, State, Task
from raggym_env.mdp.metrics import score
from raggym_env.training import EpisodeConfig, EvalSpec, Recipe, ReplyConfig, TrainingConfig, train_episodes
from raggym_env.training.trl.config import lora_config, trl_config
from raggym_env.training.trl.episodes import episode_examples
from raggym_env.training.trl.fit import Job, drop_long, make_trainer, run_job
from raggym_env.training.trl.lm import load

ARMS = ("turn", "outcome", "sum")
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The options of the command line, by their names."""

    out: Path = Path("runs/rl_curve")
    env: str = "RAGGym-Synth-v0"
    arms: tuple[str, ...] = ("turn", "outcome")
    process_reward: str = "mini"
    discount: float = 1.0
    model: str = "smollm2"
    warm_up: int = 200
    warm_up_epochs: float = 2.0
    steps: int = 100
    questions: int = 4
    num_generations: int = 4
    rows_per_pass: int = 1
    learning_rate: float = 2e-5
    eval_every: int = 20
    eval_split: str = "test"
    eval_limit: int = 100
    max_searches: int = 3
    k: int = 3
    passage_chars: int = 220
    max_completion_length: int = 48
    save_steps: int = 10
    dtype: str = "auto"
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        return {"episode.max_searches": self.max_searches, "retrieval.k": self.k, "episode.metric": "f1"}

    def config(self, model: str, **changes: Any) -> TrainingConfig:
        return TrainingConfig(model, seed=self.seed, save_steps=self.save_steps, dtype=self.dtype, **changes)


def right_episodes(mdp: MDP, tasks: Sequence[Task]) -> Iterator[list[tuple[State, Action]]]:
    """Yield the states and actions of the gold chain's episodes that end in the right answer."""
    teacher = GoldChain(tasks)
    for task in tasks:
        state, steps = mdp.dynamics.start(task.question), []
        while state.stop is None:
            action = teacher.propose([state])[0][0].chosen()
            steps.append((state, action))
            (state,) = mdp.dynamics.transition([state], [action])
        if score("em", state.answer, task) == 1.0:
            yield steps


def warm_up(plan: Plan) -> str:
    """Teach the format, and return the name of the resulting model."""
    config = plan.config(plan.model, num_train_epochs=plan.warm_up_epochs)
    config = config.with_defaults(learning_rate=2e-4, batch_size=8)
    out = plan.out / "warm_up"
    args = trl_config("SFTConfig", config, out, max_length=None, completion_only_loss=True)
    mdp = load_mdp(override(env_card(plan.env), {**plan.settings, "reward.process_reward": "none"}), "train")
    base = load(config.model)
    episodes = right_episodes(mdp, mdp.tasks[: plan.warm_up])
    examples = (
        base.row(row) for steps in episodes for row in episode_examples(steps, passage_chars=plan.passage_chars)
    )
    rows, counts = drop_long(examples, base, config.max_length, "steps to imitate")
    identity = {"kind": "format", "env": plan.env, "settings": plan.settings, "episodes": plan.warm_up}
    identity |= {"passage_chars": plan.passage_chars, "model": base.identity(), "options": config.identity()}
    trainer = partial(make_trainer, "SFTTrainer", base, lora_config(config), args, rows)
    job = Job(identity, base, trainer, counts, "", {}, lambda name: {})
    return str(run_job(job, out, trust=False, progress=None).report["result"])


def train(plan: Plan, arm: str, model: str) -> Recipe:
    """Train one arm, or resume it."""
    episodes = EpisodeConfig(
        "none" if arm == "outcome" else plan.process_reward,
        credit="turn" if arm == "turn" else "episode",
        discount=plan.discount,
        passage_chars=plan.passage_chars,
        settings=plan.settings,
    )
    config = plan.config(
        model,
        max_steps=plan.steps,
        learning_rate=plan.learning_rate,
        per_device_train_batch_size=plan.rows_per_pass,
        gradient_accumulation_steps=plan.questions * plan.num_generations // plan.rows_per_pass,
    )

    def report(stage: str, done: int, total: int, metrics: dict[str, Any]) -> None:
        if "reward" in metrics:
            print(f"\r{arm} {done}/{total}  reward {metrics['reward']:.3f}", end="", flush=True)

    return train_episodes(
        plan.env,
        plan.out / arm,
        config=config,
        episodes=episodes,
        replies=ReplyConfig(plan.num_generations, plan.max_completion_length),
        evaluation=EvalSpec(plan.env, plan.eval_split, plan.eval_limit),
        eval_every=plan.eval_every,
        progress=report,
    )


def rl(plan: Plan) -> Iterator[Row]:
    """Yield a row per arm and evaluation; training metrics are means over the steps since the evaluation before."""
    model = warm_up(plan)
    for arm in plan.arms:
        report, last = train(plan, arm, model).report, 0
        for entry in report["curve"]:
            held_out = {key.removeprefix("held_out/"): value for key, value in entry.items() if "held_out/" in key}
            since = [step for step in report["log"] if last < step["step"] <= entry["step"]]
            means = {
                name: fmean(values)
                for name in ("reward", "episodes/outcome", "episodes/process_reward", "episodes/searches",
                             "episodes/no_action", "credit/same_state")
                if (values := [step[name] for step in since if step.get(name) is not None])
            }  # fmt: skip
            last = entry["step"]
            yield {"arm": arm, "step": last, **means, "held_out": held_out}


def table(rows: Sequence[Row]) -> str:
    columns = ("reward", "episodes/outcome", "episodes/process_reward", "episodes/searches", "episodes/no_action")
    lines = [
        "| | step | reward | outcome | process reward | searches | invalid | held-out F1 | searches | invalid |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        training = " | ".join(f"{row[name]:.3f}" if name in row else "-" for name in columns)
        held_out = row["held_out"]
        f1 = "{f1:.3f} [{f1_low:.3f}, {f1_high:.3f}]".format(**held_out)
        more = f"{held_out['searches']:.2f} | {held_out['no_action']:.3f}"
        lines.append(f"| {row['arm']} | {row['step']} | {training} | {f1} | {more} |")
    return "\n".join(lines) + "\n"


def picture(rows: Sequence[Row], out: Path) -> None:
    """Plot the outcome in training and F1 on held-out questions over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for arm in dict.fromkeys(row["arm"] for row in rows):
        points = [row for row in rows if row["arm"] == arm]
        trained = [(row["step"], row["episodes/outcome"]) for row in points if "episodes/outcome" in row]
        axes[0].plot(*zip(*trained, strict=True), marker="o", label=arm)
        f1 = [row["held_out"]["f1"] for row in points]
        errors = [
            [row["held_out"]["f1"] - row["held_out"]["f1_low"] for row in points],
            [row["held_out"]["f1_high"] - row["held_out"]["f1"] for row in points],
        ]
        axes[1].errorbar([row["step"] for row in points], f1, errors, marker="o", capsize=3, label=arm)
    for axis, title in zip(axes, ("outcome in training", "held-out F1, greedy"), strict=True):
        axis.set_xlabel("weight updates")
        axis.set_title(title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def small(plan: Plan) -> Plan:
    """Return the plan with sizes that take a minute."""
    sizes: dict[str, Any] = {"warm_up": 20, "warm_up_epochs": 1.0, "steps": 2, "questions": 1, "num_generations": 2}
    sizes |= {"eval_every": 1, "eval_limit": 4, "max_searches": 2, "k": 1, "passage_chars": 80, "save_steps": 1}
    return replace(plan, **sizes, max_completion_length=24)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two steps on few questions")
    parser.add_argument("--arm", dest="arms", action="append", choices=ARMS, help="may be repeated (turn, outcome)")
    for name, default in vars(Plan()).items():
        if name != "arms":
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), help=f"default: {default}")
    return parser.parse_args()


def main() -> None:
    values = {name: value for name, value in vars(options()).items() if value is not None}
    plan = small(Plan()) if values.pop("small") else Plan()
    if "arms" in values:
        values["arms"] = tuple(values["arms"])
    plan = replace(plan, **values)
    rows = list(rl(plan))
    print("\n" + table(rows))
    (plan.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (plan.out / "table.md").write_text(table(rows))
    picture(rows, plan.out / "curve.png")


if __name__ == "__main__":
    main()
