"""Steps per second of an environment behind OpenEnv: one session, 256 at once, and `RAGVectorEnv(256)` beside them.

    python benchmarks/openenv_load.py                   # needs the extra openenv
    python benchmarks/openenv_load.py --sessions 64 --episodes 4 --reward mini

The server is `raggym serve --openenv` in a separate process. The clients are OpenEnv's own, on one event loop of this
process: each plays its episodes one after another, two searches and an answer each, on rows of its own. The outcome and
process rewards of every step are compared with those of `RAGVectorEnv` for the same actions: `wrong` counts the steps
that differ, `lost` the episodes that did not reach their end.

Columns. p50, p99: milliseconds from sending a step to receiving its answer. CPU us: microseconds of CPU that the server
spends on a step, where the system tells it.

Expected: nothing lost and nothing wrong. The rates depend on the machine; see docs/integrations/openenv.md for some.
The clients use more CPU than the server: on a machine with two busy cores the rate is a lower bound of the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np

from raggym_env.core import Action, Answer, Search
from raggym_env.envs.episodes import Episodes
from raggym_env.integrations.openenv import RAGAction, RAGClient
from raggym_env.integrations.session import load_world

ENV = "RAGGym-Synth-v0"

Rewards = tuple[float, float, float, bool]


@dataclass
class Load:
    """What some sessions did."""

    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    rewards: dict[int, list[Rewards]] = field(default_factory=dict)
    """By the row of the question: the reward of each step, its two parts, and whether it was the last."""


def actions(world: Episodes, row: int) -> list[Action]:
    """Return two searches and an answer, right on every second row."""
    task = world.tasks[row]
    answer = task.answers[0] if row % 2 else task.gold_titles[0]
    return [Search(task.question.text), Search(task.gold_titles[-1]), Answer(answer)]


@contextmanager
def server(arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Run `raggym serve --openenv`; yields its URL and its process's number."""
    reward = f"reward.process_reward={arguments.reward}"
    command = ["serve", "--openenv", ENV, "--split", "train", "--set", reward, "--port", "0"]
    command += ["--sessions", str(arguments.sessions)]
    with subprocess.Popen([sys.executable, "-m", "raggym_env", *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = re.search(r"http://\S+", process.stdout.readline())
        assert match is not None, "The server did not start."
        yield match[0], process.pid
        started = time.perf_counter()
        process.terminate()
        status = process.wait()
        print(f"\nThe server ended with status {status} after {time.perf_counter() - started:.2f} s.")


async def play(url: str, world: Episodes, rows: Sequence[int], load: Load) -> None:
    """Play the episodes of one session."""
    async with RAGClient(url, connect_timeout_s=120, message_timeout_s=120) as client:
        for row in rows:
            await client.reset(index=row)
            steps = load.rewards.setdefault(row, [])
            for action in actions(world, row):
                kind, text = ("answer", action.text) if isinstance(action, Answer) else ("search", action.query)
                started = time.perf_counter()
                observation = (await client.step(RAGAction(kind=kind, text=text))).observation
                load.milliseconds.append(1000 * (time.perf_counter() - started))
                parts = observation.reward, observation.outcome_reward, observation.process_reward
                steps.append((*parts, observation.done))


def run_sessions(url: str, world: Episodes, sessions: int, episodes: int) -> Load:
    """Play so many sessions at once, each with its own rows."""

    async def main() -> Load:
        load = Load()
        started = time.perf_counter()
        rows = [range(number * episodes, (number + 1) * episodes) for number in range(sessions)]
        await asyncio.gather(*(play(url, world, mine, load) for mine in rows))
        load.seconds = time.perf_counter() - started
        return load

    return asyncio.run(main())


def run_vector(world: Episodes, sessions: int, episodes: int, reward: str) -> Load:
    """Play the same episodes in `RAGVectorEnv`."""
    env = gym.make_vec(ENV, sessions, split="train", process_reward=reward, autoreset_mode="Disabled").unwrapped
    load = Load()
    for number in range(episodes):
        rows = [session * episodes + number for session in range(sessions)]
        env.reset(seed=0)
        # `reset` picks one question for all of them, so each gets its own here.
        env._tasks = [world.tasks[row] for row in rows]
        env._states = [world.dynamics.start(world.tasks[row].question) for row in rows]
        turns = zip(*(actions(world, row) for row in rows), strict=True)
        started = time.perf_counter()
        for turn in turns:
            _, rewards, terminated, truncated, info = env.step(turn)
            columns = rewards, info["outcome_reward"], info["process_reward"], terminated | truncated
            for row, *parts in zip(rows, *(column.tolist() for column in columns), strict=True):
                load.rewards.setdefault(row, []).append(tuple(parts))
        load.seconds += time.perf_counter() - started
    return load


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far, or NaN where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / 100


def show(name: str, load: Load, cpu: float, expected: Load) -> None:
    """Print a row of the table."""
    steps = sum(map(len, load.rewards.values()))
    lost = sum(len(rewards) != 3 or not rewards[-1][3] for rewards in load.rewards.values())
    wrong = sum(
        step != right
        for row, rewards in load.rewards.items()
        for step, right in zip(rewards, expected.rewards[row], strict=False)
    )
    p50, p99 = np.percentile(load.milliseconds, [50, 99]) if load.milliseconds else (float("nan"),) * 2
    print(
        f"{name:<22}{len(load.rewards):>9,}{steps / load.seconds:>10,.0f}{p50:>9.1f}{p99:>9.1f}"
        f"{1e6 * cpu / steps:>9.0f}{lost:>6}{wrong:>7}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=256)
    parser.add_argument("--episodes", type=int, default=4, help="of each session")
    parser.add_argument("--reward", default="evidence", help="process reward")
    arguments = parser.parse_args()
    counts = arguments.sessions, arguments.episodes
    world = load_world(ENV, "train", process_reward=arguments.reward)
    assert counts[0] * counts[1] <= len(world.tasks), f"{ENV} has {len(world.tasks):,} questions."
    expected = run_vector(world, *counts, arguments.reward)  # not timed: what is loaded on demand is loaded here
    vector = run_vector(world, *counts, arguments.reward)
    print(f"{ENV}, process reward {arguments.reward}\n")
    print(f"{'':<22}{'episodes':>9}{'steps/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'lost':>6}{'wrong':>7}")
    with server(arguments) as (url, pid):
        run_sessions(url, world, 1, 2)  # warm
        for sessions in (1, counts[0]):
            before = cpu_seconds(pid)
            load = run_sessions(url, world, sessions, 25 if sessions == 1 else counts[1])
            show(f"OpenEnv, {sessions} session{'s' * (sessions > 1)}", load, cpu_seconds(pid) - before, expected)
        show(f"RAGVectorEnv({counts[0]})", vector, float("nan"), expected)


if __name__ == "__main__":
    main()
