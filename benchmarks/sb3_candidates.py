"""Stable-Baselines3's PPO and DQN learn to choose among `lexical`'s proposals, and are tested on other questions.

    python benchmarks/sb3_candidates.py                               everything below, three seeds each
    python benchmarks/sb3_candidates.py --steps 60000
    python benchmarks/sb3_candidates.py --env RAGGym-Synth-v0 --algo ppo --steps 20000

They learn on the train split: the reward of an answer is its F1, that of a search the evidence it finds. They are
tested on the whole test split, where `evidence` cannot be used and nothing is learnt. Learning starts from the
proposer's ranking of the answers, in a measure (ANSWER_PRIOR); everything else is learnt from nothing. The settings
were chosen by training on the train splits without their last 300 questions, and testing on those.

To expect with the default settings (half an hour on two busy cores; one model alone takes two to three minutes). The
mean over three seeds, the range of the seeds' F1, and the paired difference of F1 to the greedy ranking, with its 95 %
interval over 1,000 questions:

                                   EM     F1     seeds F1        F1 - greedy              recall  searches
    Synth     lexical, greedy      0.310  0.319                                           0.773       6.00
              lexical, 8 searches  0.314  0.323                  +0.004 [-0.001, +0.010]  0.786       8.00
              random of 16         0.184  0.195  0.187 to 0.202  -0.124 [-0.147, -0.100]  0.368       2.10
              PPO of 16            0.363  0.373  0.367 to 0.385  +0.054 [+0.040, +0.068]  0.892       7.91
              DQN of 16            0.383  0.391  0.383 to 0.405  +0.072 [+0.056, +0.087]  0.866       6.73
    HotpotQA  lexical, greedy      0.257  0.344                                           0.899       5.88
              lexical, 8 searches  0.259  0.350                  +0.005 [-0.002, +0.014]  0.911       7.70
              random of 16         0.092  0.126  0.123 to 0.127  -0.219 [-0.243, -0.192]  0.423       1.81
              PPO of 16            0.264  0.353  0.350 to 0.359  +0.009 [+0.001, +0.018]  0.918       7.73
              DQN of 16            0.255  0.343  0.336 to 0.347  -0.002 [-0.019, +0.017]  0.903       5.87

On HotpotQA much of PPO's gain is that it searches on: over `lexical` with as many searches it gains +0.004 [-0.005,
+0.011] in F1 and +0.007 [+0.002, +0.013] in recall. DQN gains nothing there.

Written to --out: the models, `results.json`, and the learning curves as `curves.png`. The same command resumes an
interrupted benchmark; after a change of the code, choose another --out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env import policies
from raggym_env.build import MDP, load_mdp
from raggym_env.cards import env_card, override
from raggym_env.core import Task
from raggym_env.envs import CandidateActions, Candidates
from raggym_env.envs.env import RAGEnv
from raggym_env.evaluation import bootstrap
from raggym_env.mdp.metrics import exact_match, token_f1
from raggym_env.mdp.records import Episode
from raggym_env.mdp.rollout import rollout
from raggym_env.policies.best_of import BestOf
from raggym_env.protocols import Policy
from raggym_env.rewards.evidence import evidence_recall
from raggym_env.rewards.random import RandomReward

ENVS = ("RAGGym-Synth-v0", "RAGGym-HotpotQA-v0")
COLUMNS = ("em", "f1", "recall", "searches")
TRAINING = {
    "episode.metric": "f1",
    "reward.process_reward": "evidence",
    "reward.options.search_cost": 0.01,
    "reward.process_weight": 0.5,
}
"""Changes to the environment's card for training only."""
LEARNING_RATE = 1e-3  # of PPO at the start
PPO = {"n_steps": 64, "batch_size": 128, "n_epochs": 6, "gamma": 1.0, "ent_coef": 0.003}
DQN = {
    "learning_rate": 5e-4,
    "buffer_size": 50_000,
    "learning_starts": 1000,
    "batch_size": 128,
    "gamma": 1.0,
    "train_freq": 1,
    "gradient_steps": 2,
    "target_update_interval": 500,
    "exploration_fraction": 0.4,
    "exploration_final_eps": 0.05,
}
ANSWER_PRIOR = {"ppo": {"RAGGym-Synth-v0": -2.0, "RAGGym-HotpotQA-v0": -6.0}, "dqn": {}}
"""Weight of the proposer's ranking of the answers, which learning starts from and keeps: see `CandidatePolicy`. In
logits for PPO and in rewards for DQN. The ranking of the searches is learned from scratch."""
OTHER_PRIOR = {"ppo": -4.0, "dqn": -0.5}
IN_FLIGHT = 8
BINS = 20  # of a learning curve

Table = NDArray[np.float64]
"""One row per question, one column per entry of COLUMNS."""


@dataclass(frozen=True)
class Job:
    """One model to train and test."""

    env: str
    algo: str
    seed: int
    steps: int
    n: int
    questions: int | None
    out: Path

    @property
    def name(self) -> str:
        return f"{self.env}_{self.algo}_{self.seed}"

    @property
    def settings(self) -> str:
        """Everything that the result depends on, except the code."""
        learner = PPO if self.algo == "ppo" else DQN
        return repr((self.name, self.steps, self.n, self.questions, self.prior, TRAINING, LEARNING_RATE, learner))

    @property
    def prior(self) -> float:
        return ANSWER_PRIOR[self.algo].get(self.env, OTHER_PRIOR[self.algo])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", help=f"may be repeated (default: {' and '.join(ENVS)})")
    parser.add_argument("--algo", action="append", choices=["ppo", "dqn"], help="may be repeated (default: both)")
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps per model (default: 20000)")
    parser.add_argument("--seeds", type=int, default=3, help="models per algorithm and environment (default: 3)")
    parser.add_argument("--n", type=int, default=16, help="candidates per state (default: 16)")
    parser.add_argument("--questions", type=int, help="test on the first N questions only (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="models trained side by side")
    parser.add_argument("--out", type=Path, default=Path("runs/sb3_candidates"))
    options = parser.parse_args()
    options.env = options.env or list(ENVS)
    options.algo = options.algo or ["ppo", "dqn"]
    return options


def run(job: Job) -> dict[str, Any]:
    """Return the learning curve and the test table of one model, trained here or by an earlier run."""
    file = job.out / f"{job.name}.npz"
    if file.exists():
        with np.load(file) as result:
            if str(result["settings"]) == job.settings:
                return {"job": job, "curve": result["curve"], "table": result["table"]}
    result = trained(job)
    np.savez(file, settings=job.settings, **result)
    print(f"trained {job.name}: F1 {result['table'][:, 1].mean():.3f}", file=sys.stderr, flush=True)
    return {"job": job, **result}


def trained(job: Job) -> dict[str, Table]:
    import torch

    from raggym_env.training.sb3 import SB3Policy

    torch.set_num_threads(1)
    test, curve = load_mdp(job.env, "test"), Curve()
    model = build(job).learn(job.steps, callback=curve.callback())
    model.save(job.out / f"{job.name}.zip")
    table = scores(SB3Policy(model, policies.make("lexical")), test, job.questions)
    return {"curve": curve.points(job.steps), "table": table}


def build(job: Job) -> Any:
    """Return the untrained model on eight environments that share their candidates."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    from raggym_env.training.sb3 import CandidateDQNPolicy, CandidatePolicy

    mdp = training(job.env)
    candidates = Candidates(policies.make("lexical"), job.n)

    def make() -> Any:
        return Monitor(CandidateActions(RAGEnv(mdp.tasks, mdp.dynamics, mdp.reward), candidates))

    env = DummyVecEnv([make] * IN_FLIGHT)
    common = {"policy_kwargs": {"prior": {"answer_rank": job.prior}}, "seed": job.seed, "device": "cpu"}
    if job.algo == "ppo":
        return sb3.PPO(CandidatePolicy, env, learning_rate=decaying, **common, **PPO)
    return sb3.DQN(CandidateDQNPolicy, env, **common, **DQN)


def decaying(left: float) -> float:
    """Return the learning rate when the share `left` of the steps remains."""
    return LEARNING_RATE * max(left, 0.05)


def training(env: str) -> MDP:
    return load_mdp(override(env_card(env), TRAINING), "train")


class Curve:
    """The returns and outcomes of the training episodes, and the steps at which they ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, float, float]] = []

    def callback(self) -> Any:
        from stable_baselines3.common.callbacks import BaseCallback

        ended = self.ended

        class Record(BaseCallback):
            def _on_step(self) -> bool:
                for info in self.locals["infos"]:
                    if "episode" in info:
                        ended.append((self.num_timesteps, info["episode"]["r"], info["outcome_reward"]))
                return True

        return Record()

    def points(self, steps: int) -> Table:
        """Return the mean step, return and outcome of each bin, `(BINS, 3)`."""
        ended = np.array(self.ended)
        bins = np.minimum(ended[:, 0] * BINS // (steps + 1), BINS - 1)
        return np.array([ended[bins == index].mean(axis=0) for index in np.unique(bins)])


def scores(policy: Policy, mdp: MDP, questions: int | None) -> Table:
    """Return the policy's scores on each question, in the split's order."""
    tasks = mdp.tasks[:questions]
    episodes = {episode.id: episode for episode in rollout(policy, tasks, mdp.dynamics)}
    return np.array([measured(episodes[task.id], task) for task in tasks])


def measured(episode: Episode, task: Task) -> tuple[float, ...]:
    if episode.error is not None:
        raise RuntimeError(f"The episode on {task.id} failed: {episode.error}")
    answer = episode.answer or ""
    titles = [passage.title for step in episode.steps for passage in step.passages]
    recall = evidence_recall(task, titles)
    searches = sum(bool(step.passages) for step in episode.steps)
    return exact_match(answer, task.answers), token_f1(answer, task.answers), recall or 0.0, float(searches)


def baselines(options: argparse.Namespace, env: str) -> dict[str, list[Table]]:
    mdp = load_mdp(env, "test")
    lexical = policies.make("lexical")
    random = [BestOf(lexical, RandomReward(seed), options.n) for seed in range(options.seeds)]
    return {
        "lexical, greedy": [scores(lexical, mdp, options.questions)],
        "lexical, 8 searches": [scores(policies.make("lexical", searches=8), mdp, options.questions)],
        f"random of {options.n}": [scores(policy, mdp, options.questions) for policy in random],
    }


def report(env: str, rows: dict[str, list[Table]]) -> list[dict[str, Any]]:
    """Print one environment's rows; intervals are over questions, of the mean over seeds."""
    greedy, longer = (tables[0] for tables in list(rows.values())[:2])
    print(f"\n{env}, test split, {len(greedy)} questions")
    gains = f"{'F1 - greedy':25}{'F1 - 8 searches':25}"
    print(f"{'':22}{'EM':>7}  {'F1':22}{'seeds F1':18}{gains}{'recall':22}{'searches':>8}")
    results = []
    for name, tables in rows.items():
        mean = np.mean(tables, axis=0)
        f1, recall = bootstrap(mean[:, 1]), bootstrap(mean[:, 2])
        more = [bootstrap(mean[:, 1] - other[:, 1]) for other in (greedy, longer)]
        seeds = [table[:, 1].mean() for table in tables]
        print(
            f"{name:22}{mean[:, 0].mean():7.3f}  {interval(f1):22}{spread(seeds):18}"
            f"{interval(more[0], '+'):25}{interval(more[1], '+'):25}{interval(recall):22}{mean[:, 3].mean():8.2f}"
        )
        result = {"env": env, "policy": name, "f1": f1, "f1_gains": more, "recall": recall, "f1_of_seeds": seeds}
        results.append({**result, **dict(zip(("em", *COLUMNS[3:]), mean[:, [0, 3]].mean(axis=0), strict=True))})
    return results


def interval(estimate: Sequence[float], sign: str = "") -> str:
    return "{:{s}.3f} [{:{s}.3f}, {:{s}.3f}]".format(*estimate, s=sign)


def spread(seeds: Sequence[float]) -> str:
    return f"{min(seeds):.3f} to {max(seeds):.3f}" if len(seeds) > 1 else ""


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the learning curves: a column per environment, a line per model; the dashed line is the greedy ranking."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    envs = list(dict.fromkeys(result["job"].env for result in results))
    figure, axes = pyplot.subplots(2, len(envs), figsize=(5.5 * len(envs), 7), squeeze=False, sharex=True)
    colours = {"ppo": "tab:blue", "dqn": "tab:orange"}
    for column, env in enumerate(envs):
        for row, (label, level) in enumerate(zip(("return", "F1"), greedy_levels(env), strict=True)):
            axis = axes[row, column]
            for result in results:
                job, curve = result["job"], result["curve"]
                if job.env == env:
                    name = job.algo.upper() if job.seed == 0 else None
                    axis.plot(curve[:, 0], curve[:, row + 1], color=colours[job.algo], label=name, alpha=0.8)
            axis.axhline(level, color="black", linestyle="--", label="lexical, greedy")
            axis.set(title=f"{env}: {label} of training episodes", xlabel="steps", ylabel=f"mean {label}")
        axes[0, column].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def greedy_levels(env: str) -> tuple[float, float]:
    """Return the mean return and the mean outcome of the greedy ranking on the train split."""
    mdp = training(env)
    episodes = list(rollout(policies.make("lexical"), mdp.tasks, mdp.dynamics, mdp.reward))
    steps = [step for episode in episodes for step in episode.steps]
    outcome = sum(step.outcome for step in steps)
    process_reward = sum(step.process_reward for step in steps)
    return (outcome + mdp.reward.process_weight * process_reward) / len(episodes), outcome / len(episodes)


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(env, algo, seed, options.steps, options.n, options.questions, options.out)
        for env in options.env
        for algo in options.algo
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(run, jobs))
    draw(results, options.out / "curves.png")
    lines = []
    for env in options.env:
        rows = baselines(options, env)
        for algo in options.algo:
            tables = [result["table"] for result in results if (result["job"].env, result["job"].algo) == (env, algo)]
            rows[f"{algo.upper()} of {options.n}"] = tables
        lines += report(env, rows)
    (options.out / "results.json").write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
