"""The part `agent` of `process_supervision.py`: a small language model learns to search, one rung after the other.

Every rung starts from the one before and learns from its own samples, for several seeds:

    examples    the untrained model with worked examples in its prompt
    sft         imitates the teacher `gold` on training questions
    expert      imitates the best candidate, by `evidence_value`, in the states that it visits: of its own samples and
                the teacher's action (expert iteration, DAgger)
    dpo         the alternative: prefers the better of two of them; two rounds
    best of n   with a critic `mini` trained on its own candidates and on those of `lexical`

Choices are made on validation questions, the first ones of HotpotQA's `held_out` split, and never on `test`.

Every step is a command of `raggym` with a folder below --out and a log below --out/logs. A step runs once those whose
folders it reads are done; --jobs run side by side. The same command resumes an interrupted study: finished steps are
skipped, and the others resume from their own checkpoints.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from raggym_env.data import load_tasks
from raggym_env.evaluation import Run, bootstrap
from raggym_env.evaluation.scores import score_record, searches_of
from raggym_env.evaluation.statistics import paired_bootstrap

# The tuned model's prompts, and the same with worked examples for the model before training.
CARDS = Path(__file__).with_name("agent")
TUNED, UNTUNED = str(CARDS / "compact.toml"), str(CARDS / "compact_examples.toml")
HOTPOT, TRAIN, WIKI, SYNTH = (
    f"RAGGym-{name}-v0" for name in ("HotpotQA", "HotpotQA-Train", "2WikiMultihopQA", "Synth")
)
METRICS = ("f1", "em", "recall")
# What a search is worth in `evidence_value`: at full recall less than the right answer, and more than a wrong one.
SEARCH_VALUE = "policy.search.critic_options={expected_score=[0.2,0.9]}"

Row = dict[str, Any]
Scores = dict[str, dict[str, float]]  # question id -> metric -> value


@dataclass(frozen=True)
class Study:
    """The sizes of a study. Questions are the first ones of a split."""

    out: Path
    model: str = "smollm2"
    train_on: tuple[str, ...] = (HOTPOT, TRAIN)
    test_on: tuple[tuple[str, int], ...] = ((HOTPOT, 500), (WIKI, 300))
    """The environments of the headline rows, with their numbers of questions."""
    more_on: tuple[tuple[str, int], ...] = ((SYNTH, 200),)
    validation: tuple[str, str, int] = (HOTPOT, "held_out", 300)
    train_limit: int | None = None
    """Training questions of each environment; None takes all."""
    sizes: tuple[int, ...] = (250, 500, 1000)
    """Training questions of the smaller trainings; they are of the first environment."""
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 2
    rate: float = 1e-3
    """Learning rate of SFT."""
    max_steps: int | None = None
    samples: int = 6
    lexical_samples: int = 16
    best_of: int = 8
    ns: tuple[int, ...] = (2, 4, 16)
    searches: int = 3
    stage: str = "expert"
    """The recipe of the second rung, and of the policy that the critic chooses for."""
    critic: str = "critic"
    everything: bool = True
    """Whether to compute more than the headline rows."""
    batch: int = 64
    """Rows of a weight update of SFT. Expert iteration has half as many, DPO a quarter."""
    own_limit: int | None = 600
    """Questions of each training environment on which a model collects its own candidates."""
    settings: tuple[str, ...] = ("dtype=bfloat16", "tokens_per_batch=3000")
    """Further `--set` options of the trainings of the model."""
    in_flight: int = 32


def small(out: Path) -> Study:
    """Return sizes that take some minutes on one core, with results that mean nothing."""
    return Study(
        out, train_on=(SYNTH,), test_on=((SYNTH, 1),), more_on=(), validation=(SYNTH, "train", 1), train_limit=6,
        sizes=(), seeds=(0,), max_steps=1, samples=2, lexical_samples=4, best_of=2, ns=(), searches=2, everything=False,
        batch=4, own_limit=6, settings=(),
    )  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A command of `raggym`, and the steps whose folders it reads."""

    name: str
    command: tuple[str, ...]
    needs: frozenset[str]


class Ladder:
    """The steps of a study. A method adds a step and returns its name, which is that of its folder below `out`."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.steps: dict[str, Step] = {}

    def add(self, name: str, *command: object) -> str:
        words = tuple(map(str, command))
        text = "\0".join(words)
        needs = {other for other in self.steps if re.search(re.escape(self.path(other)) + r"(?![\w-])", text)}
        if "--out" not in words:
            words = (*words, "--out", self.path(name))
        self.steps[name] = Step(name, words, frozenset(needs))
        return name

    def path(self, name: str) -> str:
        return str(self.study.out / name)

    def world(self) -> tuple[str, ...]:
        return ("--set", f"episode.max_searches={self.study.searches}", "--set", "reward.process_reward=none")

    def llm(self, adapter: str | None) -> tuple[str, ...]:
        suffix = f"+{self.path(adapter)}" if adapter else ""
        return ("--policy", TUNED if adapter else UNTUNED, "--llm", f"hf:{self.study.model}{suffix}")

    def collect(self, name: str, env: str, *options: object, limit: int | None = None) -> str:
        limit = limit or self.study.train_limit
        flight = ("--in-flight", self.study.in_flight)
        limited = ("--limit", limit) if limit else ()
        return self.add(f"{name}-{short(env)}", "collect", env, *options, *limited, *flight, *self.world())

    def candidates(
        self, name: str, env: str, n: int, policy: Sequence[object], *critic: object, limit: int | None = None
    ) -> str:
        """Collect scored candidates in the states that a policy visits."""
        critic = critic or ("evidence_value", "--set", SEARCH_VALUE)
        explored = ("--keep", "all", "--execute", "own", "--explore", 0.15, "--set", "episode.metric=f1")
        return self.collect(name, env, *policy, "--n", n, *explored, "--critic", *critic, limit=limit)

    def own(self, name: str, adapter: str, seed: int, *critic: object) -> list[str]:
        """Collect a model's own candidates, and the teacher's, in all training environments."""
        if self.study.max_steps:  # a model trained for a step or two writes no actions
            policy: tuple[object, ...] = ("--policy", "gold")
        else:
            policy = (*self.llm(adapter), "--seed", seed)
        return [
            self.candidates(
                name, env, self.study.samples + 1, (*policy, "--teacher"), *critic, limit=self.study.own_limit
            )
            for env in self.study.train_on[: 1 if critic else None]
        ]

    def train(self, kind: str, name: str, data: Iterable[str], start: str | None, seed: int, *options: object) -> str:
        study = self.study
        steps = ("--max-steps", study.max_steps) if study.max_steps else ()
        rows = max(1, study.batch // (4 if kind in ("dpo", "prm") else 2 if start else 1))
        batch = (f"per_device_train_batch_size={rows}", "gradient_accumulation_steps=1")
        fields = [f"seed={seed}", *batch, *study.settings]
        fields += () if start else ["lora_rank=8"]
        return self.add(
            name, "train", kind, *(self.path(folder) for folder in data),
            "--model", study.model + (f"+{self.path(start)}" if start else ""),
            *(() if kind == "prm" else ("--as", TUNED)), *options, *steps,
            *(word for setting in fields for word in ("--set", setting)),
        )  # fmt: skip

    def sft(
        self, name: str, data: Iterable[str], seed: int, *options: object, rate: float | None = None, epochs: int = 0
    ) -> str:
        length = () if self.study.max_steps else ("--set", f"num_train_epochs={epochs or self.study.epochs}")
        rate = rate or self.study.rate
        return self.train("sft", name, data, None, seed, "--learning-rate", rate, *length, *options)

    def expert(self, name: str, data: Iterable[str], start: str, seed: int) -> str:
        """Imitate the best candidates."""
        return self.train("sft", name, data, start, seed, "--best", "top", "--learning-rate", self.study.rate / 4)

    def dpo(self, name: str, data: Iterable[str], start: str, seed: int, rate: float = 5e-5) -> str:
        return self.train("dpo", name, data, start, seed, "--balance", "--learning-rate", rate)

    def mini(self, name: str, data: Iterable[str]) -> str:
        fast = ("--epochs", 2, "--networks", 1) if self.study.max_steps else ()
        folders = [self.path(folder) for folder in data]
        return self.add(name, "train", "mini", *folders, *fast, "--out", f"{self.path(name)}/mini.safetensors")

    def test(self, name: str, where: tuple[str, int], *policy: object, split: str = "test") -> str:
        env, limit = where
        return self.add(
            run_name(name, env, split), "eval", env, "--split", split, "--limit", limit, *policy,
            "--in-flight", self.study.in_flight, *self.world(),
        )  # fmt: skip

    def validate(self, name: str, *policy: object) -> str:
        env, split, limit = self.study.validation
        return self.test(name, (env, limit), *policy, split=split)

    def choosing(self, n: int, critic: str | None) -> tuple[object, ...]:
        """Return options with which a critic chooses among n candidates; None is the critic that ships."""
        weights = f'policy.search.critic_options={{weights="{self.path(critic)}/mini.safetensors"}}' if critic else ""
        return ("--best-of", n, "--critic", "mini", *(("--set", weights) if weights else ()))


def short(env: str) -> str:
    return env.removeprefix("RAGGym-").removesuffix("-v0").lower()


def run_name(name: str, env: str, split: str = "test") -> str:
    return f"eval/{short(env)}-{split}/{name}"


def ladder(study: Study) -> list[Step]:
    """Return the steps of a study, each after those it needs."""
    steps = Ladder(study)
    gold = [
        steps.collect("gold", env, "--policy", "gold", "--n", 1, "--critic", "evidence_value") for env in study.train_on
    ]
    lexical = steps.candidates("lexical", study.train_on[0], study.lexical_samples, ("--policy", "lexical"))
    for seed in study.seeds:
        sft = steps.sft(f"sft-{seed}", gold, seed)
        own = steps.own(f"own-{seed}", sft, seed)
        steps.mini(f"critic-{seed}", [*own, lexical])
        stages = {study.stage, *(("dpo", "dpo2", "expert") if study.everything and seed == study.seeds[0] else ())}
        if stages & {"dpo", "dpo2"}:
            steps.dpo(f"dpo-{seed}", own, sft, seed)
        if "expert" in stages:
            steps.expert(f"expert-{seed}", own, sft, seed)
        if "dpo2" in stages:
            second = steps.own(f"own2-{seed}", f"dpo-{seed}", seed)
            steps.dpo(f"dpo2-{seed}", second, f"dpo-{seed}", seed)
            steps.mini(f"critic2-{seed}", [*second, *own, lexical])
    if study.everything:
        variants(study, steps, gold)
    evaluations(study, steps)
    return list(steps.steps.values())


def variants(study: Study, steps: Ladder, gold: Sequence[str]) -> None:
    """Add other recipes, with the first seed alone: they are judged on the validation questions."""
    seed = study.seeds[0]
    sft, own = f"sft-{seed}", [f"own-{seed}-{short(env)}" for env in study.train_on]
    steps.sft("sft-low-rate", gold, seed, rate=study.rate / 2)
    steps.sft("sft-high-rate", gold, seed, rate=study.rate * 2)
    steps.sft("sft-one-epoch", gold, seed, epochs=1)
    for size in study.sizes:
        steps.sft(f"sft-{size}", gold[:1], seed, "--limit", size)
    steps.dpo("dpo-low-rate", own, sft, seed, rate=1e-5)
    steps.dpo("dpo-high-rate", own, sft, seed, rate=2e-4)
    steps.train("dpo", "dpo-unbalanced", own, sft, seed, "--learning-rate", 5e-5)
    gain = f'policy.search.critic_options={{llm="hf:{study.model}"}}'
    by_gain = steps.own(f"gain-{seed}", sft, seed, "information_gain", "--set", gain)
    steps.dpo("dpo-gain", by_gain, sft, seed)
    steps.mini("critic-own", own)
    steps.train("prm", "prm", own[:1], None, seed, "--history-chars", 1400)


def evaluations(study: Study, steps: Ladder) -> None:
    trained = [name for name in steps.steps if re.match(r"(sft|dpo2?|expert)-", name)]
    n, stage = study.best_of, study.stage
    best = f"best-of-{n}"
    for name in trained:
        steps.validate(name, *steps.llm(name))
    for seed in study.seeds:
        critic = f"{study.critic}-{seed}"
        steps.validate(f"{stage}-{seed}-{best}", *steps.llm(f"{stage}-{seed}"), *steps.choosing(n, critic))
    for where in study.test_on:
        steps.test("examples", where, *steps.llm(None))
        steps.test("lexical", where, "--policy", "lexical")
        for seed in study.seeds:
            model, critic = steps.llm(f"{stage}-{seed}"), f"{study.critic}-{seed}"
            steps.test(f"sft-{seed}", where, *steps.llm(f"sft-{seed}"))
            steps.test(f"{stage}-{seed}", where, *model)
            steps.test(f"{stage}-{seed}-{best}", where, *model, *steps.choosing(n, critic))
    if study.everything:
        cells(study, steps)


def cells(study: Study, steps: Ladder) -> None:
    """Add the other cells of the table, with the first seed alone."""
    n, agent, critic = study.best_of, f"{study.stage}-{study.seeds[0]}", f"{study.critic}-{study.seeds[0]}"
    model, best = steps.llm(agent), f"best-of-{study.best_of}"
    by_model = f'policy.search.critic_options={{path="{steps.path("prm")}"}}'
    steps.validate("examples", *steps.llm(None))
    steps.validate(f"{agent}-{best}-shipped", *model, *steps.choosing(n, None))
    steps.validate(f"{agent}-{best}-critic-own", *model, *steps.choosing(n, "critic-own"))
    steps.validate(f"{agent}-{best}-prm", *model, "--best-of", n, "--critic", "model", "--set", by_model)
    steps.validate("lexical", "--policy", "lexical")
    for name in ("critic-own", critic, None):
        steps.validate(f"lexical-{best}-{name or 'shipped'}", "--policy", "lexical", *steps.choosing(n, name))
    for where in (*study.test_on, *study.more_on):
        for count in study.ns:
            steps.test(f"{agent}-best-of-{count}", where, *model, *steps.choosing(count, critic))
        steps.test(f"{agent}-tree", where, *model, "--tree", "3x2", *steps.choosing(n, critic)[2:])
    for where in study.more_on:
        steps.test("lexical", where, "--policy", "lexical")
        steps.test(f"sft-{study.seeds[0]}", where, *steps.llm(f"sft-{study.seeds[0]}"))
        steps.test(agent, where, *model)
        steps.test(f"{agent}-{best}", where, *model, *steps.choosing(n, critic))


def run(steps: Sequence[Step], study: Study, jobs: int) -> list[str]:
    """Run all steps that are not done, and return the names of those that failed or could not be run."""
    done = {step.name for step in steps if _is_done(step, study)}
    failed: set[str] = set()
    running: dict[Future[bool], Step] = {}
    started = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            for step in steps:
                if step.name in done | failed or step in running.values():
                    continue
                if step.needs & failed:
                    failed.add(step.name)
                elif step.needs <= done and len(running) < jobs:
                    running[pool.submit(_execute, step, study, jobs)] = step
            if not running:
                return sorted(failed)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                (done if future.result() else failed).add(step.name)
                state = "done" if step.name in done else f"FAILED, see {study.out}/logs"
                seconds = time.monotonic() - started
                print(f"[{len(done)}/{len(steps)}, {seconds:.0f} s] {step.name}: {state}", flush=True)


def _marker(step: Step, study: Study) -> Path:
    return study.out / "done" / f"{step.name.replace('/', '_')}.json"


def _is_done(step: Step, study: Study) -> bool:
    marker = _marker(step, study)
    if not marker.exists():
        return False
    if (command := json.loads(marker.read_text())["command"]) != list(step.command):
        sys.exit(f"{marker} was made by another command:\n{' '.join(command)}\nTake another --out, or delete the file.")
    return True


def _execute(step: Step, study: Study, jobs: int) -> bool:
    (study.out / step.name).parent.mkdir(parents=True, exist_ok=True)
    if step.command[:2] == ("train", "mini"):
        (study.out / step.name).mkdir(exist_ok=True)
    log, marker = study.out / "logs" / f"{step.name.replace('/', '_')}.log", _marker(step, study)
    for file in (log, marker):
        file.parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    started = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.run(
            [sys.executable, "-m", "raggym_env", *step.command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )  # fmt: skip
    if process.returncode == 0:
        marker.write_text(json.dumps({"command": step.command, "seconds": round(time.monotonic() - started)}) + "\n")
    return process.returncode == 0


def scores(study: Study, name: str) -> Scores:
    """Return the scores of a run by question."""
    recorded = Run.read(study.out / name)
    tasks = {task.id: task for task in load_tasks(recorded.card, recorded.config["split"]).tasks}
    result = {}
    for episode in recorded.episodes():
        usage = episode.usage
        tokens = usage.prompt_tokens + usage.completion_tokens
        result[episode.id] = {
            **score_record(episode, tasks[episode.id]), "searches": float(searches_of(episode)), "tokens": float(tokens)
        }  # fmt: skip
    return result


def mean_of(runs: Sequence[Scores]) -> Scores:
    """Return the scores by question, averaged over runs of the same questions."""
    questions = set.intersection(*(set(run) for run in runs))
    return {
        question: {key: sum(run[question][key] for run in runs) / len(runs) for key in runs[0][question]}
        for question in sorted(questions)
    }


def rungs(study: Study) -> dict[str, list[str]]:
    """Return the headline rows, and the runs of each, one per seed where it was trained."""
    best = f"best-of-{study.best_of}"
    return {
        "lexical": ["lexical"],
        "worked examples only": ["examples"],
        "SFT": [f"sft-{seed}" for seed in study.seeds],
        f"then {study.stage}": [f"{study.stage}-{seed}" for seed in study.seeds],
        f"then best of {study.best_of}": [f"{study.stage}-{seed}-{best}" for seed in study.seeds],
    }


def rows(study: Study) -> Iterator[Row]:
    """Yield a row per rung and environment, with its paired differences to the rung before and to `lexical`.

    Seeds are averaged by question, so that intervals are over questions.
    """
    for env, _ in study.test_on:
        values: dict[str, Scores] = {}
        previous = ""
        for rung, names in rungs(study).items():
            values[rung] = mean_of([scores(study, run_name(name, env)) for name in names])
            row: Row = {"part": "agent", "name": rung, "env": env, "questions": len(values[rung]), "seeds": len(names)}
            row |= {metric: list(bootstrap(_column(values[rung], metric))) for metric in METRICS}
            row |= {key: fmean(_column(values[rung], key)) for key in ("searches", "tokens")}
            others = dict.fromkeys([previous, "lexical"]) if previous else {}
            yield {**row, "gains": {other: gains(values[other], values[rung]) for other in others}}
            previous = rung


def validation_rows(study: Study) -> Iterator[Row]:
    """Yield a row per run on the validation questions, by which recipes are chosen."""
    env, split, _ = study.validation
    for folder in sorted((study.out / run_name("", env, split)).parent.glob("*/run.json")):
        values = scores(study, run_name(folder.parent.name, env, split))
        row: Row = {"part": "validation", "name": folder.parent.name, "env": env, "questions": len(values), "seeds": 1}
        row |= {metric: list(bootstrap(_column(values, metric))) for metric in METRICS}
        yield {**row, **{key: fmean(_column(values, key)) for key in ("searches", "tokens")}, "gains": {}}


def gains(base: Scores, better: Scores) -> dict[str, list[float]]:
    common = sorted(set(base) & set(better))
    return {
        metric: list(paired_bootstrap([better[key][metric] - base[key][metric] for key in common]))
        for metric in METRICS
        if common
    }


def _column(values: Scores, metric: str) -> list[float]:
    return [row[metric] for row in values.values()]


def table(entries: Sequence[Row]) -> str:
    lines = []
    for part in dict.fromkeys(entry["part"] for entry in entries):
        lines += [
            f"\n### {part}\n",
            "| | environment | questions | F1 | EM | gold passages found | searches | tokens | paired difference |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for entry in (entry for entry in entries if entry["part"] == part):
            means = " | ".join("{:.3f} [{:.3f}, {:.3f}]".format(*entry[metric]) for metric in METRICS)
            more = "; ".join(
                f"{metric} {mean:+.3f} [{low:+.3f}, {high:+.3f}] over {other}"
                for other, metrics in entry["gains"].items()
                for metric, (mean, low, high) in metrics.items()
                if metric == "f1"
            )
            name = entry["name"] + (f" ({entry['seeds']} seeds)" if entry["seeds"] > 1 else "")
            numbers = f"{entry['searches']:.2f} | {entry['tokens']:.0f}"
            lines.append(f"| {name} | {short(entry['env'])} | {entry['questions']} | {means} | {numbers} | {more} |")
    return "\n".join(lines) + "\n"


def picture(entries: Sequence[Row], out: Path) -> None:
    """Draw F1 of the rungs as bars with 95 % intervals, one group per environment."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ladder_rows = [entry for entry in entries if entry["part"] == "agent"]
    names = list(dict.fromkeys(entry["name"] for entry in ladder_rows))
    envs = list(dict.fromkeys(entry["env"] for entry in ladder_rows))
    figure, axis = pyplot.subplots(figsize=(8, 3.4))
    for position, env in enumerate(envs):
        bars = [next(entry["f1"] for entry in ladder_rows if (entry["name"], entry["env"]) == (n, env)) for n in names]
        errors = [[mean - low for mean, low, _ in bars], [high - mean for mean, _, high in bars]]
        offsets = [number + 0.4 * position for number in range(len(names))]
        axis.bar(offsets, [mean for mean, _, _ in bars], 0.36, yerr=errors, capsize=3, label=short(env))
    axis.set_xticks([number + 0.2 * (len(envs) - 1) for number in range(len(names))], names)
    axis.set_ylabel("answer F1")
    axis.grid(axis="y", alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def run_study(study: Study, jobs: int) -> None:
    """Run what is missing of a study, and write its table and picture.

    Raises:
        SystemExit: A step failed; the message names it and its log.
    """
    if failed := run(ladder(study), study, jobs):
        sys.exit(f"{len(failed)} steps failed or wait for one that did: {', '.join(failed)}. Logs: {study.out}/logs")
    entries = [*rows(study), *validation_rows(study)]
    (study.out / "results.json").write_text(json.dumps(entries, indent=1) + "\n")
    (study.out / "table.md").write_text(table(entries))
    picture(entries, study.out / "ladder.png")
    print(table(entries))
