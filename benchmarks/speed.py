"""How fast the environments step, and what importing and making them costs.

    python benchmarks/speed.py [--steps N] [--skip-large]

Prints steps/s (search or answer to observation, resets included) of `RAGEnv` and of `RAGVectorEnv` with 32
episodes, with a stub retriever and with BM25 over generated corpora of 2,000 and 60,000 passages (k=3, no two
queries alike, no cache), beside a bare `gymnasium.Env` in the same run; then import time, memory, and the time
from `gym.make` to the first observation, each in fresh processes. The figures to expect are in the README.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

from raggym_env import retrieval
from raggym_env.core import Answer, Passage, Question, Search, Task
from raggym_env.envs.env import RAGEnv
from raggym_env.envs.spaces import action_space, observation_space
from raggym_env.envs.vector import RAGVectorEnv
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.protocols import Hit, Retriever

K = 3
SEARCHES = 4  # per episode, then an answer
BATCH = 32
REPEATS = 3


class Bare(gym.Env[dict[str, Any], Any]):
    """The same observation from a list of passages, and nothing else: no process, actions, rewards or checks."""

    observation_space = observation_space(SEARCHES + 1)  # type: ignore[assignment]
    action_space = action_space()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        super().reset(seed=seed)
        self.history: list[Any] = []
        return self.observe(), {}

    def step(self, action: tuple[int, str]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.history.append((action[1], Stub.passages))
        return self.observe(), 0.0, len(self.history) > SEARCHES, False, {}

    def observe(self) -> dict[str, Any]:
        left = SEARCHES + 1 - len(self.history)
        return {"question": "What?", "options": (), "history": tuple(self.history), "searches_left": left}


class Stub:
    """Finds the same passages at once, whatever is asked."""

    passages = tuple(Passage(str(i), f"Title {i}", "Some text.") for i in range(K))
    hits = tuple(Hit(passage, 1.0) for passage in passages)

    def search(self, queries: Sequence[str], k: int) -> list[Any]:
        return [self.hits for _ in queries]


def words(count: int, seed: int) -> list[str]:
    """Words with the frequencies of English without its stop words: Zipf-Mandelbrot over 100,000 words."""
    weights = 1 / (np.arange(100_000) + 30.0) ** 1.05
    ranks = np.random.default_rng(seed).choice(len(weights), size=count, p=weights / weights.sum())
    return [f"w{rank}" for rank in ranks]


def passages(n: int) -> list[Passage]:
    """Passages of 60 words."""
    drawn = iter(words(60 * n, seed=0))
    return [Passage(str(i), f"Title {i}", " ".join(itertools.islice(drawn, 60))) for i in range(n)]


def queries(n: int, seed: int) -> list[str]:
    """Queries of six words, no two alike in practice."""
    drawn = iter(words(6 * n, seed))
    return [" ".join(itertools.islice(drawn, 6)) for _ in range(n)]


TASKS = [Task(Question(str(i), f"What is number {i}?"), (f"answer {i}",)) for i in range(100)]


def single_rate(env: gym.Env[Any, Any], actions: Iterator[Any], steps: int) -> float:
    env.reset(seed=0)
    started = time.perf_counter()
    for _ in range(steps):
        _, _, terminated, _, _ = env.step(next(actions))
        if terminated:
            env.reset()
    return steps / (time.perf_counter() - started)


def vector_rate(env: RAGVectorEnv, actions: Iterator[list[Any]], steps: int) -> float:
    env.reset(seed=0)
    started = time.perf_counter()
    for _ in range(rounds(steps)):
        env.step(next(actions))
    return rounds(steps) * BATCH / (time.perf_counter() - started)


def rounds(steps: int) -> int:
    """Vector steps that make about as many steps, in whole episodes."""
    return steps // BATCH // (SEARCHES + 2) * (SEARCHES + 2)


def single_actions(steps: int) -> Iterator[Any]:
    """An answer after every `SEARCHES` searches."""
    texts = iter(queries(steps, seed=1))
    return iter([Answer("an answer") if (i + 1) % (SEARCHES + 1) == 0 else Search(next(texts)) for i in range(steps)])


def vector_actions(count: int) -> Iterator[list[Any]]:
    """The same for every episode; after the answers comes the step that resets, which looks at no action."""
    texts = iter(queries(count * BATCH, seed=1))
    turns = {SEARCHES: lambda: [Answer("an answer")] * BATCH, SEARCHES + 1: lambda: [None] * BATCH}
    searches = lambda: [Search(next(texts)) for _ in range(BATCH)]  # noqa: E731
    return iter([turns.get(i % (SEARCHES + 2), searches)() for i in range(count)])


def best(rate: Callable[[], float]) -> float:
    """The best of a few runs: what else the machine does can only slow it down."""
    return max(rate() for _ in range(REPEATS))


def measure(retriever: Retriever, steps: int) -> tuple[float, float]:
    """Steps/s of the single and of the vector environment, after warm-up."""
    dynamics = Dynamics(retriever, K, max_searches=8)
    retriever.search(queries(BATCH, seed=2), K)
    # Actions are made beforehand: what is timed is the environment.
    one, many = single_actions(steps * REPEATS), vector_actions(rounds(3 * steps) * REPEATS)
    single = best(lambda: single_rate(RAGEnv(TASKS, dynamics), one, steps))
    vector = best(lambda: vector_rate(RAGVectorEnv(TASKS, dynamics, num_envs=BATCH), many, 3 * steps))
    return single, vector


def step_table(steps: int, sizes: Sequence[int]) -> Table:
    bare = best(lambda: single_rate(Bare(), itertools.repeat("a query"), steps))
    table = Table("retriever", "RAGEnv steps/s", f"RAGVectorEnv({BATCH}) steps/s", "vector / single", "single / bare")
    table.add_row("(bare gymnasium.Env)", f"{bare:,.0f}", "", "", "1.00")
    cases: list[tuple[str, Retriever, int]] = [("stub", Stub(), steps)]
    for size in sizes:
        bm25 = retrieval.make("bm25", passages(size), store=False)
        cases.append((f"bm25, {size:,} passages", bm25, max(3_200, steps // 10)))
    for name, retriever, count in cases:
        single, vector = measure(retriever, count)
        table.add_row(name, f"{single:,.0f}", f"{vector:,.0f}", f"{vector / single:.2f}", f"{single / bare:.3f}")
    return table


def in_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


_IMPORT = """
import time
started = time.perf_counter()
import {module}
seconds = time.perf_counter() - started
# Not getrusage: its peak is inherited from the process that started this one.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak) / 1024)
"""

_MAKE = """
import time
import gymnasium as gym, raggym_env
started = time.perf_counter()
env = gym.make("RAGGym-Synth-v0")
env.reset(seed=0)
first = time.perf_counter() - started
env.step(raggym_env.Search("the river"))
print(first, time.perf_counter() - started)
"""


def start_table() -> Table:
    table = Table("what, in a fresh process", "median of 5", "")
    imports = {}
    for module in ("gymnasium", "raggym_env"):
        runs = [in_fresh_process(_IMPORT.format(module=module)).split() for _ in range(6)][1:]
        imports[module] = statistics.median(float(seconds) for seconds, _ in runs)
        memory = statistics.median(float(mebibytes) for _, mebibytes in runs)
        table.add_row(f"import {module}", f"{imports[module] * 1000:.0f} ms", f"peak memory {memory:.0f} MiB")
    table.add_row("import raggym_env / import gymnasium", f"{imports['raggym_env'] / imports['gymnasium']:.2f}", "")
    runs = [in_fresh_process(_MAKE).split() for _ in range(6)][1:]
    first = statistics.median(float(seconds) for seconds, _ in runs)
    found = statistics.median(float(seconds) for _, seconds in runs)
    table.add_row("gym.make to first observation", f"{first:.2f} s", f"to the first passages {found:.2f} s")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="steps per measurement with the stub retriever")
    parser.add_argument("--skip-large", action="store_true", help="leave out the corpus of 60,000 passages")
    options = parser.parse_args()
    console = Console(width=110)
    console.print(step_table(options.steps, [2_000] if options.skip_large else [2_000, 60_000]))
    console.print(start_table())


if __name__ == "__main__":
    main()
