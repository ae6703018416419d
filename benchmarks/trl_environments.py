"""What the two ways to train on episodes in TRL cost apart from the model: `environment_factory` and `rollout_func`.

    python benchmarks/trl_environments.py [--environments 64] [--milliseconds 10]

A `GRPOTrainer` of a tiny model, whose replies are scripted, generates and scores one batch of episodes in both ways:
three searches, then the answer. Prints how often the search engine and the process reward were called, and how long
the steps of the environments took; the lower rows with a search engine that answers after so many milliseconds, as a
server does. "In threads" is the same environments stepped from a thread each, as `AsyncGRPOTrainer` does. Needs the
extra `train`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

from raggym_env.build import MDP, load_mdp
from raggym_env.core import Answer, Search, Task
from raggym_env.envs.env import RAGEnv
from raggym_env.integrations.session import Session
from raggym_env.integrations.trl import EnvironmentFactory, environment
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.step_reward import StepReward
from raggym_env.protocols import Hit
from raggym_env.text.tagged import tagged_action
from raggym_env.training.trl.episodes import EpisodeRollouts, episode_prompts, episode_return

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny_llm import tiny_model, tiny_tokenizer

ENV = "RAGGym-Synth-v0"
SEARCHES = 3
GROUP = 8  # rollouts of one question
SHOWN = {"passage_chars": 100}


class Counted:
    """Counts the calls of a search engine or a process reward. A search waits first, as for a server."""

    def __init__(self, inner: Any, seconds: float = 0.0) -> None:
        self.inner, self.seconds, self.calls = inner, seconds, 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.calls += 1
        time.sleep(self.seconds)
        return self.inner.search(queries, k)  # type: ignore[no-any-return]

    def score(self, states: Any, actions: Any) -> Any:
        self.calls += 1
        return self.inner.score(states, actions)


class World(NamedTuple):
    """The parts that all ways share, with counters."""

    mdp: MDP
    retriever: Counted
    process_reward: Counted

    def factory(self) -> EnvironmentFactory:
        return environment(ENV, "train", retriever=self.retriever, process_reward=self.process_reward, **SHOWN)


def make_world(delay: float) -> World:
    mdp = load_mdp(ENV, "train", process_reward="mini")
    # Without its cache: no two models search for the same.
    retriever = Counted(mdp.dynamics.retriever.retriever, delay)  # type: ignore[attr-defined]
    return World(mdp, retriever, Counted(mdp.reward.process_reward))


def actions_of(task: Task) -> list[Search | Answer]:
    titles = itertools.cycle(task.gold_titles)
    return [*(Search(f"{next(titles)} {turn}") for turn in range(SEARCHES)), Answer(task.answers[0])]


@contextmanager
def clock(*methods: tuple[type, str]) -> Iterator[list[float]]:
    """Yield a list that gets the seconds of each call of the methods."""
    seconds: list[float] = []
    originals = [(owner, name, getattr(owner, name)) for owner, name in methods]
    for owner, name, method in originals:

        def timed(*arguments: Any, method: Callable[..., Any] = method) -> Any:
            start = time.perf_counter()
            result = method(*arguments)
            seconds.append(time.perf_counter() - start)
            return result

        setattr(owner, name, timed)
    yield seconds
    for owner, name, method in originals:
        setattr(owner, name, method)


def tool_call(action: Search | Answer) -> str:
    name, arguments = ("search", {"query": action.query}) if isinstance(action, Search) else ("answer", action.text)
    arguments = arguments if isinstance(arguments, dict) else {"text": arguments}
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call><|im_end|>"


def run_trainer(prompts: Any, tasks: Sequence[Task], mark: str, write: Callable[[Any], str], **options: Any) -> None:
    """Generate and score one batch of episodes with scripted replies. `mark` stands in a prompt once per search."""
    tokenizer = tiny_tokenizer(qwen3_chat_template)
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    tokenizer.pad_token = tokenizer.eos_token
    scripts = {task.question.text: [write(action) for action in actions_of(task)] for task in tasks}

    def generate(_: Any, ids: list[list[int]]) -> tuple[list[list[int]], None]:
        replies = []
        for text in map(tokenizer.decode, ids):
            lines = next(lines for question, lines in scripts.items() if question in text)
            replies.append([*lines, "Done.<|im_end|>"][text.count(mark)])
        return [tokenizer(reply)["input_ids"] for reply in replies], None

    if "environment_factory" not in options:
        options["rollout_func"] = options["rollout_func"](generate)
    with tempfile.TemporaryDirectory() as folder:
        batch = len(prompts) * GROUP
        settings = {"per_device_train_batch_size": batch, "num_generations": GROUP, "max_completion_length": 8192}
        args = GRPOConfig(output_dir=folder, report_to="none", use_cpu=True, disable_tqdm=True, **settings)
        model = tiny_model(tokenizer, context=16_384)
        trainer = GRPOTrainer(model, args=args, train_dataset=prompts, processing_class=tokenizer, **options)
        if "environment_factory" in options:
            trainer._generate_single_turn = lambda ids, *rest, **more: generate(trainer, ids)
        trainer._generate_and_score_completions([row for row in prompts for _ in range(GROUP)])


def by_factory(world: World, n: int) -> float:
    factory = world.factory()
    prompts = factory.prompts(n // GROUP)
    tasks = [factory.world.tasks[index] for index in prompts["index"]]
    with clock((Session, "step")) as seconds:
        run_trainer(prompts, tasks, "\n<tool_response>\n", tool_call, reward_funcs=[], environment_factory=factory)
    return sum(seconds)


def in_threads(world: World, n: int) -> float:
    factory = world.factory()
    rows = [row for row in factory.prompts(n // GROUP) for _ in range(GROUP)]
    with ThreadPoolExecutor(n) as pool:
        envs = list(pool.map(lambda row: factory(), rows))
        list(pool.map(lambda env, row: env.reset(**row), envs, rows))
        start = time.perf_counter()
        for turn in range(SEARCHES + 1):
            list(pool.map(lambda env, turn=turn: env.session.step(actions_of(env.session.task)[turn]), envs))
        return time.perf_counter() - start


def by_rollouts(world: World, n: int) -> float:
    dynamics = Dynamics(world.retriever, world.mdp.dynamics.k, world.mdp.dynamics.max_searches)
    env = RAGEnv(world.mdp.tasks, dynamics, StepReward("em", world.process_reward))
    prompts = episode_prompts(env, n // GROUP)
    tasks = [world.mdp.tasks[index] for index in prompts["index"]]
    with clock((Dynamics, "transition"), (StepReward, "score")) as seconds:
        run_trainer(
            prompts,
            tasks,
            "<information>\n",
            lambda action: f"{tagged_action(action)}<|im_end|>",
            reward_funcs=[episode_return],
            rollout_func=lambda generate: EpisodeRollouts(env, max_tokens=16_000, generate=generate, **SHOWN),
        )
    return sum(seconds)


WAYS = {"environment_factory": by_factory, "environment_factory, in threads": in_threads, "rollout_func": by_rollouts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=int, default=64, help=f"a multiple of {GROUP}")
    parser.add_argument("--milliseconds", type=float, default=10.0, help="delay of the slower search engine")
    options = parser.parse_args()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    title = f"{options.environments} episodes of {SEARCHES} searches and an answer; process reward: mini"
    table = Table("Search engine", "Way", "Search calls", "Reward calls", "Seconds of the steps", title=title)
    in_threads(make_world(0.0), options.environments)  # the first batches take a second longer
    for delay in (0.0, options.milliseconds / 1000):
        for name, run in WAYS.items():
            world = make_world(delay)
            seconds = run(world, options.environments)
            engine = f"answers after {1000 * delay:g} ms" if delay else "bm25, in this process"
            calls = (f"{world.retriever.calls:,}", f"{world.process_reward.calls:,}")
            table.add_row(engine, name, *calls, f"{seconds:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
