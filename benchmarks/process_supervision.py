"""The experiments of the RAG-Gym paper (arXiv:2502.13957) at a small scale.

    python benchmarks/process_supervision.py                    the `lexical` actor, full size: about half an hour
    python benchmarks/process_supervision.py --small            the same on the synthetic world alone, in a minute
    python benchmarks/process_supervision.py --part agent       a language model that learns to search: hours, resumable
    python benchmarks/process_supervision.py --part actors --card compact --adapter sft=runs/sft --adapter dpo=runs/dpo

Critics are `mini` rewards. Those of the parts sources and size are trained on HotpotQA training questions alone and
tested on its held-out ones, and on 2WikiMultihopQA and the synthetic world, which they never see. Parts, each of
which prints its table:

    best_of   best-of-n with the critic that ships, n = 1, 2, 4, 8, 16; n = 1 is the policy by itself
    sources   critics trained on labels from different sources, on the same trajectories (as in the paper's table 4)
    size      critics trained on 250, 500 and 1,000 questions
    actors    a language model by itself and with LoRA adapters made by `raggym train`, each compared with the one
              before it, 3 searches per episode; with --actor-n, also best-of-n with the critic that ships, which was
              trained on data of `lexical`
    agent     the ladder of one language model, from worked examples to a critic; see `agent_study`

Results go to --out: results.json, table.md and pictures. Runs are run folders below it, so the same command resumes an
interrupted benchmark.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import agent_study
from raggym_env.build import load_mdp
from raggym_env.cards import env_card, override
from raggym_env.core import Action, State
from raggym_env.data import load_tasks
from raggym_env.errors import DataNotFound
from raggym_env.evaluation import Run, Scores, bootstrap, evaluate
from raggym_env.evaluation.scores import score_record
from raggym_env.training import Collection, MiniConfig, collect, train_mini

# On a CPU a model rereads all passages at every step: fewer searches than the card's 8, and half precision.
ACTOR_SETTINGS = {"episode.max_searches": 3, "policy.options.llm_options": {"dtype": "bfloat16"}}
PARTS = ("best_of", "sources", "size", "actors", "agent")
METRICS = ("em", "f1", "recall")


@dataclass(frozen=True)
class Plan:
    """The experiments and their sizes."""

    out: Path
    train_on: str
    test_on: tuple[str, ...]
    sizes: tuple[int, ...]
    sources_size: int
    test_limit: int | None
    """Test questions of the parts sources and size; best_of takes all."""
    networks: int = 2
    ns: tuple[int, ...] = (1, 2, 4, 8, 16)
    best_of: int = 8
    llm: str = "smollm2"
    lm_questions: int = 30
    """Training questions that a language model labels, in the part sources; 0 for none."""
    quality_questions: int = 100
    """Training questions on which sources themselves are measured."""
    small: bool = False


def full(out: Path) -> Plan:
    tests = ("RAGGym-HotpotQA-v0", "RAGGym-2WikiMultihopQA-v0", "RAGGym-Synth-v0")
    return Plan(out, "RAGGym-HotpotQA-v0", tests, (250, 500, 1000), 300, 500)


def small(out: Path) -> Plan:
    return Plan(
        out,
        "RAGGym-Synth-v0",
        ("RAGGym-Synth-v0",),
        (40, 80),
        40,
        60,
        ns=(1, 4, 8),
        lm_questions=0,
        quality_questions=10,
        small=True,
    )


Row = dict[str, Any]


def row(part: str, name: str, env: str, scores: Scores, **more: Any) -> Row:
    metrics = {metric: list(scores.metrics[metric]) for metric in METRICS if metric in scores.metrics}
    return {"part": part, "name": name, "env": env, "questions": scores.questions, **metrics,
            "searches": scores.searches, **more}  # fmt: skip


def run(
    plan: Plan,
    env: str,
    name: str,
    settings: dict[str, Any],
    policy: str = "lexical",
    limit: int | None = None,
    split: str = "test",
) -> Scores:
    folder = plan.out / "runs" / f"{env}_{name}"
    settings = {"reward.process_reward": "none", **settings}
    scores: Scores = evaluate(env, policy, split=split, limit=limit, out=folder, settings=settings)[1]
    return scores


def gain(plan: Plan, env: str, name: str, baseline: str) -> dict[str, list[float]]:
    """Return a run's mean gain over another on the same questions, with its paired 95 % interval."""
    base, scores = (scores_by_question(plan, env, run_name) for run_name in (baseline, name))
    return {
        metric: list(bootstrap([scores[key][metric] - base[key][metric] for key in base]))
        for metric in METRICS
        if all(metric in values for values in base.values())
    }


def scores_by_question(plan: Plan, env: str, name: str) -> dict[str, dict[str, float]]:
    recorded = Run.read(plan.out / "runs" / f"{env}_{name}")
    tasks = {task.id: task for task in load_tasks(recorded.card, recorded.config["split"]).tasks}
    return {episode.id: score_record(episode, tasks[episode.id]) for episode in recorded.episodes()}


def critic(weights: Path | None, n: int) -> dict[str, Any]:
    options = {} if weights is None else {"policy.search.critic_options": {"weights": str(weights)}}
    return {"policy.search.best_of": n, "policy.search.critic": "mini", **options}


def collected(
    plan: Plan, critic: str, limit: int, n: int, options: dict[str, Any] | None = None, name: str = ""
) -> Collection:
    """Collect trajectories of `lexical`: the same for every critic, since the policy's own choices are executed."""
    settings = {"episode.metric": "f1", "reward.process_reward": "none"}
    if options:
        settings["policy.search.critic_options"] = options
    return collect(
        plan.train_on, "lexical", critic=critic, n=n, limit=limit, keep="all", execute="own", explore=0.15,
        out=plan.out / "data" / f"{name or critic}-{limit}-{n}", settings=settings,
    )  # fmt: skip


def trained(plan: Plan, name: str, data: Collection, labels: str = "score") -> tuple[Path, dict[str, Any]]:
    weights = plan.out / "critics" / f"{name}.safetensors"
    if weights.exists():
        return weights, json.loads(weights.with_suffix(".json").read_text())
    config = MiniConfig(networks=plan.networks)
    return weights, train_mini([data], weights, config=config, labels=labels)  # type: ignore[arg-type]


def best_of(plan: Plan) -> Iterator[Row]:
    """The critic that ships, with more and more candidates."""
    for env in plan.test_on:
        for n in plan.ns:
            settings = {} if n == 1 else critic(None, n)
            split = "held_out" if "HotpotQA" in env else "test"
            limit = plan.test_limit if plan.small else None
            scores = run(plan, env, f"best_of_{n}", settings, limit=limit, split=split)
            more = {} if n == 1 else {"gain": gain(plan, env, f"best_of_{n}", "best_of_1")}
            yield row("best_of", "greedy" if n == 1 else f"best of {n}", env, scores, n=n, **more)


# As labels, the value of a step itself, not the rise of it: what `train_mini` learns from.
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "rollout": ("rollout", {"advantage": False, "m": 2}),
    "evidence": ("evidence_value", {"weight": 1.0}),  # the recall after the step alone
    "evidence_value": ("evidence_value", {}),
}


def sources(plan: Plan) -> Iterator[Row]:
    """The same trajectories with labels from different sources; what a source costs, and how well it agrees itself."""
    from mini_reward import agreements

    limit, n = plan.sources_size, plan.best_of
    gain_options = {"llm": f"hf:{plan.llm}", "llm_options": ACTOR_SETTINGS["policy.options.llm_options"]}
    gain_options |= {"advantage": False, "passage_chars": 300, "history_chars": 1500}
    labelled = {**SOURCES, **({"information_gain": ("information_gain", gain_options)} if plan.lm_questions else {})}
    critics: dict[str, Path | None] = {}
    for name, (reward, options) in labelled.items():
        size = plan.lm_questions if name == "information_gain" else limit
        collection = collected(plan, reward, size, n, options, name)
        critics[name] = trained(plan, f"sources-{name}", collection)[0]
        if name == "evidence_value":
            critics["outcome"] = trained(plan, "sources-outcome", collection, "outcome")[0]
            if plan.lm_questions:  # as few questions as a language model can label here
                few = collected(plan, reward, plan.lm_questions, n, options, name)
                label = f"{name}, {plan.lm_questions} questions"
                critics[label] = trained(plan, f"sources-{name}-{plan.lm_questions}", few)[0]
    critics["mini (ships)"] = None
    for env in plan.test_on:
        direct = {name: source_quality(plan, env, reward, options) for name, (reward, options) in labelled.items()}
        direct["mini (ships)"] = source_quality(plan, env, "mini", {})
        yield row("sources", "none (greedy)", env, run(plan, env, "greedy", {}, limit=plan.test_limit))
        for name, weights in critics.items():
            folder = "sources_" + re.sub(r"\W+", "_", name)
            scores = run(plan, env, folder, critic(weights, n), limit=plan.test_limit)
            agreed = agreements(env, weights, plan.test_limit or 300)
            more = {"gain": gain(plan, env, folder, "greedy"), "agreement": agreed, **direct.get(name, {})}
            yield row("sources", name, env, scores, **more)


def source_quality(plan: Plan, env: str, reward: str, options: dict[str, Any]) -> Row:
    """Return a source's own agreement with gold evidence on training questions, and its CPU milliseconds per step.

    A step is a state with `plan.best_of` candidates.
    """
    from mini_reward import measure

    slow = reward == "information_gain"
    questions = min(5, plan.lm_questions) if slow else plan.quality_questions
    card = override(env_card(env), {"reward.process_reward": reward, "reward.options": options})
    mdp = load_mdp(card, "train")
    scorer, seconds = mdp.reward.process_reward, []
    assert scorer is not None

    def score(state: State, candidates: Sequence[Action]) -> np.ndarray:
        started = time.process_time()
        (scores,) = scorer.score([state], [candidates])
        seconds.append(time.process_time() - started)
        return scores

    shares = measure(mdp, mdp.tasks[:questions], plan.best_of, {reward: score})[reward]["searches"]
    agreed = {} if reward == "random" or not shares else {"source_agreement": list(bootstrap(shares))}
    return {**agreed, "milliseconds": 1000 * statistics.fmean(seconds), "source_questions": questions}


def size(plan: Plan) -> Iterator[Row]:
    """More and more training questions."""
    for limit in plan.sizes:
        weights, recipe = trained(plan, f"size-{limit}", collected(plan, "evidence_value", limit, 24))
        for env in plan.test_on:
            scores = run(plan, env, f"size_{limit}", critic(weights, plan.best_of), limit=plan.test_limit)
            yield row("size", f"{limit} questions", env, scores, states=recipe["states"])


def actors(plan: Plan, llm: str, adapters: dict[str, str], card: str, limit: int, n: int) -> Iterator[Row]:
    """A language model by itself and tuned, greedy and with a critic trained on another actor's data."""
    specs = {"zero-shot": f"hf:{llm}", **{name: f"hf:{llm}+{adapter}" for name, adapter in adapters.items()}}
    for env in plan.test_on[:2]:
        previous = ""
        for name, spec in specs.items():
            yield _actor(plan, env, name, {"policy.options.llm": spec}, card, limit, previous)
            previous = name
        for name in adapters if n > 1 else ():
            settings = {"policy.options.llm": specs[name], **critic(None, n)}
            yield _actor(plan, env, f"{name}, best of {n}", settings, card, limit, name)


def _actor(plan: Plan, env: str, name: str, settings: dict[str, Any], card: str, limit: int, over: str) -> Row:
    def folder(name: str) -> str:
        return "actor_" + re.sub(r"\W+", "_", name)

    scores = run(plan, env, folder(name), {**ACTOR_SETTINGS, **settings}, card, limit)
    more = {"over": over, "gain": gain(plan, env, folder(name), folder(over))} if over else {}
    return row("actors", name, env, scores, **more)


def table(rows: list[Row]) -> str:
    lines = []
    for part in dict.fromkeys(entry["part"] for entry in rows):
        lines += [
            f"\n### {part}\n",
            "| | environment | EM | F1 | gold passages found | searches | paired difference |",
            "|---|---|---|---|---|---|---|",
        ]
        for entry in (entry for entry in rows if entry["part"] == part):
            cells = [_interval(entry.get(metric)) for metric in METRICS]
            gains = entry.get("gain", {}).items()
            more = "; ".join(f"{metric} {mean:+.3f} [{low:+.3f}, {high:+.3f}]" for metric, (mean, low, high) in gains)
            more += f" over {entry.get('over', 'greedy')}" if more else ""
            if "agreement" in entry:
                more += "; the critic agrees {:.3f} with gold evidence".format(entry["agreement"])
            if "source_agreement" in entry:
                more += f", the source {_interval(entry['source_agreement'])}"
            if "milliseconds" in entry:
                more += "; {:.2f} ms a step".format(entry["milliseconds"])
            cells += [f"{entry['searches']:.2f}", more]
            lines.append(f"| {entry['name']} | {entry['env']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(estimate: list[float] | None) -> str:
    return "-" if estimate is None else "{:.3f} [{:.3f}, {:.3f}]".format(*estimate)


def picture(rows: list[Row], part: str, by: str, label: str, out: Path) -> None:
    """Plot F1 and evidence recall of a part's rows over the column `by`, with 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = [entry for entry in rows if entry["part"] == part]
    ticks = sorted({entry[by] for entry in points})
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for axis, metric, title in zip(axes, ("f1", "recall"), ("answer F1", "gold passages found"), strict=True):
        for env in dict.fromkeys(entry["env"] for entry in points):
            curve = [(entry[by], *entry[metric]) for entry in points if entry["env"] == env and metric in entry]
            if not curve:
                continue
            values, means, lows, highs = zip(*curve, strict=True)
            errors = [[mean - low for mean, low in zip(means, lows, strict=True)],
                      [high - mean for mean, high in zip(means, highs, strict=True)]]  # fmt: skip
            axis.errorbar(values, means, errors, marker="o", capsize=3, label=env.split("-")[1])
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_xlabel(label)
        axis.set_title(title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="synthetic world only, few questions")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated (default: all but actors)")
    parser.add_argument("--jobs", type=int, default=1, help="steps of the part agent that run side by side")
    parser.add_argument("--out", type=Path, default=None, help="default: runs/process_supervision[_small]")
    parser.add_argument(
        "--test-on", action="append", metavar="ENV", help="may be repeated (default: three, actors two)"
    )
    parser.add_argument("--llm", default="smollm2", help="model of the actors part")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER", help="tuned actors, in order")
    parser.add_argument("--card", default="react", help="policy card of the actors")
    parser.add_argument("--actor-limit", type=int, default=100, help="test questions of the actors part")
    parser.add_argument("--actor-n", type=int, default=1, help="with more than 1, tuned actors also with a critic")
    options = parser.parse_args()
    if options.part == ["agent"]:
        folder = options.out or Path("runs/agent" + ("_small" if options.small else ""))
        return agent_study.run_study((agent_study.small if options.small else agent_study.Study)(folder), options.jobs)
    if "agent" in (options.part or ()):
        parser.error("--part agent runs by itself: leave the other parts to another command")
    out = options.out or Path("runs/process_supervision" + ("_small" if options.small else ""))
    plan = small(out) if options.small else full(out)
    plan = replace(plan, test_on=tuple(options.test_on or plan.test_on))
    try:
        for env in plan.test_on:
            load_mdp(env, "test", process_reward="none")
    except DataNotFound as error:
        sys.exit(f"{error}\nWithout it, --small runs on the synthetic world.")
    adapters = dict(adapter.split("=", 1) for adapter in options.adapter)
    experiments = {"best_of": best_of, "sources": sources, "size": size}
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.json"
    entries = json.loads(results.read_text()) if results.exists() else []
    for part in options.part or PARTS[:3]:
        rows = (
            actors(plan, options.llm, adapters, options.card, options.actor_limit, options.actor_n)
            if part == "actors"
            else experiments[part](plan)
        )
        finished = []
        for entry in rows:
            finished.append(entry)
            print(table([entry]).splitlines()[-1], flush=True)
        # Parts that were not run again keep their earlier rows.
        entries = [entry for entry in entries if entry["part"] != part] + finished
        results.write_text(json.dumps(entries, indent=1) + "\n")
    (out / "table.md").write_text(table(entries))
    print(table(entries))
    if any(entry["part"] == "best_of" for entry in entries):
        picture(entries, "best_of", "n", "candidates per step (1 = greedy)", out / "best_of_n.png")
    if any(entry["part"] == "size" for entry in entries):
        for entry in entries:
            entry["size"] = int(entry["name"].split()[0]) if entry["part"] == "size" else 0
        picture(entries, "size", "size", "training questions", out / "training_size.png")
    print(f"Written to {out}: results.json, table.md, pictures.")


if __name__ == "__main__":
    main()
