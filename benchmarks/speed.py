"""How fast the environments step, and what importing and making them costs.

    python benchmarks/speed.py [--steps N] [--skip-large] [--peer PATH] [--record]

Prints steps/s (search or answer to observation, resets included) of `RAGEnv` and of `RAGVectorEnv` with 32
episodes, with a stub retriever and with BM25 over generated corpora of 2,000 and 60,000 passages (k=3, no two
queries alike, no cache), beside a bare `gymnasium.Env` in the same run; then `mini` on HotpotQA, if its data is there;
then import time, memory, and the time from `gym.make` to the first observation, each in fresh processes. The figures
to expect are in the documentation.

Rates are per second of CPU time, taken in turns, and the medians of several. `--peer` adds the environment of another
package to those that step with the stub; PATH is a file such as

    import gymnasium
    class Env:
        def __init__(self, search):  # search(query) -> passages, tuples (id, title, text)
            self.env = gymnasium.make("Peer-v0", search=search)
        def reset(self):
            self.env.reset()
        def search(self, query):
            self.env.step(f"<search>{query}</search>")
        def answer(self, text):
            self.env.step(f"<answer>{text}</answer>")

`--record` writes the ratios of the run to `benchmarks/history/speed.json`, from which the documentation's plot is made.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from rich.console import Console
from rich.table import Table

from raggym_env import __version__, policies, retrieval
from raggym_env.build import load_mdp
from raggym_env.core import Answer, Passage, Question, Search, Task
from raggym_env.envs.env import RAGEnv
from raggym_env.envs.spaces import action_space, observation_space
from raggym_env.envs.vector import RAGVectorEnv
from raggym_env.errors import DataNotFound
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.rollout import rollout
from raggym_env.mdp.step_reward import StepReward
from raggym_env.protocols import Hit
from raggym_env.reading import answers, matches, pages, question, text
from raggym_env.rewards import features
from raggym_env.rewards.mini import MiniReward
from record import record

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
    started = time.process_time()
    for _ in range(steps):
        _, _, terminated, _, _ = env.step(next(actions))
        if terminated:
            env.reset()
    return steps / (time.process_time() - started)


def peer_rate(env: Any, texts: Iterator[str], steps: int) -> float:
    """The same episodes in the environment of an adapter."""
    started = time.process_time()
    for _ in range(steps // (SEARCHES + 1)):
        env.reset()
        for _ in range(SEARCHES):
            env.search(next(texts))
        env.answer("an answer")
    return steps // (SEARCHES + 1) * (SEARCHES + 1) / (time.process_time() - started)


def load_peer(path: Path) -> Any:
    """Return the environment of an adapter.

    Raises:
        SystemExit: The file has no class `Env` as the module's documentation shows it.
    """
    if not path.is_file():
        raise SystemExit(f"--peer: there is no file {path}.")
    adapter = runpy.run_path(str(path)).get("Env")
    if missing := [name for name in ("reset", "search", "answer") if not callable(getattr(adapter, name, None))]:
        raise SystemExit(f"--peer: {path} needs a class Env with reset, search and answer; it has no {missing[0]}.")
    return adapter(lambda query: Stub.passages)


def vector_rate(env: RAGVectorEnv, actions: Iterator[list[Any]], steps: int) -> float:
    env.reset(seed=0)
    started = time.process_time()
    for _ in range(rounds(steps)):
        env.step(next(actions))
    return rounds(steps) * BATCH / (time.process_time() - started)


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


def medians(rates: Mapping[str, Callable[[], float]], repeats: int = REPEATS) -> dict[str, float]:
    """The medians of rates that are measured in turns: what else the machine does meets them all."""
    runs = [{name: rate() for name, rate in rates.items()} for _ in range(repeats)]
    return {name: statistics.median(run[name] for run in runs) for name in rates}


def wrapped(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The wrappers of `gym.make`."""
    return OrderEnforcing(PassiveEnvChecker(env))


def stub_table(steps: int, peer: Path | None) -> tuple[Table, dict[str, float]]:
    """Steps/s with the stub, behind the wrappers of `gym.make`, of a peer, and the ratios."""
    dynamics = Dynamics(Stub(), K, max_searches=8)
    bare = itertools.repeat((0, "a query"))
    # Actions are made beforehand: what is timed is the environment.
    one, two = single_actions(steps * REPEATS), single_actions(steps * REPEATS)
    many = vector_actions(rounds(3 * steps) * REPEATS)
    rates: dict[str, Callable[[], float]] = {
        "bare": lambda: single_rate(Bare(), bare, steps),
        "bare, wrapped": lambda: single_rate(wrapped(Bare()), bare, steps),
        "RAGEnv": lambda: single_rate(RAGEnv(TASKS, dynamics), one, steps),
        "RAGEnv, wrapped": lambda: single_rate(wrapped(RAGEnv(TASKS, dynamics)), two, steps),
        "RAGVectorEnv": lambda: vector_rate(RAGVectorEnv(TASKS, dynamics, num_envs=BATCH), many, 3 * steps),
    }
    if peer is not None:
        env, texts = load_peer(peer), itertools.cycle(queries(1_000, seed=1))
        rates["peer"] = lambda: peer_rate(env, texts, steps)
    found = medians(rates)
    ratios = {
        "single / bare, wrapped": found["RAGEnv, wrapped"] / found["bare, wrapped"],
        "single / bare": found["RAGEnv"] / found["bare"],
        "vector / single": found["RAGVectorEnv"] / found["RAGEnv"],
    }
    if peer is not None:
        ratios["single / peer"] = found["RAGEnv"] / found["peer"]
    table = Table("stub retriever", "steps/s of CPU time")
    for name, rate in found.items():
        table.add_row(name, f"{rate:,.0f}")
    for name, ratio in ratios.items():
        table.add_row(name, f"{ratio:.3f}")
    return table, ratios


def bm25_table(steps: int, sizes: Sequence[int]) -> Table:
    table = Table("retriever", "RAGEnv steps/s", f"RAGVectorEnv({BATCH}) steps/s", "vector / single")
    for size in sizes:
        bm25 = retrieval.make("bm25", passages(size), store=False)
        bm25.search(queries(BATCH, seed=2), K)
        dynamics, count = Dynamics(bm25, K, max_searches=8), max(3_200, steps // 10)
        one, many = single_actions(count * REPEATS), vector_actions(rounds(3 * count) * REPEATS)
        single = functools.partial(single_rate, RAGEnv(TASKS, dynamics), one, count)
        vector = functools.partial(vector_rate, RAGVectorEnv(TASKS, dynamics, num_envs=BATCH), many, 3 * count)
        found = medians({"single": single, "vector": vector})
        ratio = f"{found['vector'] / found['single']:.2f}"
        table.add_row(f"bm25, {size:,} passages", f"{found['single']:,.0f}", f"{found['vector']:,.0f}", ratio)
    return table


QUESTIONS = 128  # of HotpotQA, for the speed with `mini`


def mini_table() -> tuple[Table, dict[str, float]]:
    """Steps/s on HotpotQA with and without `mini`, the actions being those of `lexical`, and the ratios.

    The retriever has no cache. The questions are new to `mini` each time; the passages are once, and then read before.

    Raises:
        DataNotFound: HotpotQA is not here.
    """
    mdp = load_mdp("RAGGym-HotpotQA-v0", process_reward="none")
    dynamics = replace(mdp.dynamics, retriever=mdp.dynamics.retriever.retriever)  # type: ignore[attr-defined]
    recorded = [
        (task, [step.action for step in episode.steps])
        for task, episode in zip(
            mdp.tasks, rollout(policies.make("lexical"), mdp.tasks[:QUESTIONS], dynamics), strict=False
        )
    ]
    recorded.sort(key=lambda pair: len(pair[1]))  # episodes that are replayed together have about the same length
    table, ratios = Table("HotpotQA", "steps/s of CPU time", "/ without mini"), {}
    for name, size in (("RAGEnv", 1), (f"RAGVectorEnv({BATCH})", BATCH)):
        runs = []
        for _ in range(REPEATS):
            forget(passages=True)
            first = replay_rate(recorded, dynamics, size, MiniReward())
            forget(passages=False)
            runs.append(
                (
                    replay_rate(recorded, dynamics, size, None),
                    first,
                    replay_rate(recorded, dynamics, size, MiniReward()),
                )
            )
        for at, case in enumerate(("without mini", "with mini, new passages", "with mini, passages read before")):
            rate, ratio = (
                statistics.median(values) for values in zip(*[(run[at], run[at] / run[0]) for run in runs], strict=True)
            )
            table.add_row(f"{name}, {case}", f"{rate:,.0f}", f"{ratio:.3f}")
            ratios[f"{name} {case} / without"] = ratio
        del ratios[f"{name} without mini / without"]
    return table, ratios


def forget(*, passages: bool) -> None:
    """Empty the caches of what was read of states and questions, and of passages if asked to."""
    cached = [answers._reading, matches.matches_of, question.parse_question, features._parse_short]
    for function in (*cached, pages.page_of, text.key) if passages else cached:
        function.cache_clear()


def replay_rate(
    recorded: Sequence[tuple[Task, list[Any]]], dynamics: Dynamics, size: int, reward: MiniReward | None
) -> float:
    """Steps/s of recorded episodes, `size` at a time, until the first of them ends."""
    step_reward, steps = StepReward("em", reward), 0
    tasks = [task for task, _ in recorded]
    env: Any = RAGEnv(tasks, dynamics, step_reward)
    if size > 1:
        env = RAGVectorEnv(tasks, dynamics, step_reward, num_envs=size, autoreset_mode="Disabled")
        env.reset()
    started = time.process_time()
    for start in range(0, len(recorded) - size + 1, size):
        episodes = [actions for _, actions in recorded[start : start + size]]
        if size == 1:
            env.reset(options={"index": start})
        for row in range(size if size > 1 else 0):
            env.reset(options={"index": start + row, "reset_mask": np.arange(size) == row})
        for actions in zip(*episodes, strict=False):
            env.step(actions if size > 1 else actions[0])
            steps += size
    return steps / (time.process_time() - started)


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


_CPU = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "raggym_env", *{command!r}], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""

_COMMANDS = {"raggym --version": ["--version"], "raggym --help": ["--help"]}


def start_table() -> tuple[Table, dict[str, float]]:
    table = Table("what, in a fresh process", "median of 5", "")
    imports = {}
    for module in ("gymnasium", "raggym_env"):
        runs = [in_fresh_process(_IMPORT.format(module=module)).split() for _ in range(6)][1:]
        imports[module] = statistics.median(float(seconds) for seconds, _ in runs)
        memory = statistics.median(float(mebibytes) for _, mebibytes in runs)
        table.add_row(f"import {module}", f"{imports[module] * 1000:.0f} ms", f"peak memory {memory:.0f} MiB")
    ratio = imports["raggym_env"] / imports["gymnasium"]
    table.add_row("import raggym_env / import gymnasium", f"{ratio:.2f}", "")
    runs = [in_fresh_process(_MAKE).split() for _ in range(6)][1:]
    first = statistics.median(float(seconds) for seconds, _ in runs)
    found = statistics.median(float(seconds) for _, seconds in runs)
    table.add_row("gym.make to first observation", f"{first:.2f} s", f"to the first passages {found:.2f} s")
    for name, code in _COMMANDS.items():
        seconds = statistics.median([float(in_fresh_process(_CPU.format(command=code))) for _ in range(5)])
        table.add_row(name, f"{seconds:.2f} s", "CPU time")
    return table, {"import raggym_env / import gymnasium": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="steps per measurement with the stub retriever")
    parser.add_argument("--skip-large", action="store_true", help="leave out the corpus of 60,000 passages")
    parser.add_argument("--peer", type=Path, help="adapter of another package's environment, timed in the same run")
    parser.add_argument("--record", nargs="?", const=__version__, metavar="VERSION", help="keep the ratios")
    options = parser.parse_args()
    console = Console(width=110)
    table, ratios = stub_table(options.steps, options.peer)
    console.print(table)
    console.print(bm25_table(options.steps, [2_000] if options.skip_large else [2_000, 60_000]))
    try:
        table, of_mini = mini_table()
        console.print(table)
        ratios |= of_mini
    except DataNotFound as error:
        console.print(f"mini: skipped, {str(error).splitlines()[0]}")
    table, of_start = start_table()
    console.print(table)
    if options.record:
        record("speed", options.record, ratios | of_start)


if __name__ == "__main__":
    main()
