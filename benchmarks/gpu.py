"""What the `hf:` engine saves on one GPU, with `mini` and retrieval beside it.

    benchmarks/gpu.sh            # randomly initialised Llamas of 1 and 8 billion parameters, in five minutes
    benchmarks/gpu.sh --tiny     # a very small one on the CPU, in a minute: shows that the script works, no more

Nothing is downloaded: models are made from their configs, with random weights; the tokenizer is trained on the prompts,
which are invented words in the shape of HotpotQA's questions after two searches of five passages; `mini` and BM25 work
on the generated world (RAGGym-Synth-v0). What is measured does not depend on what the weights say.

Rows, for each model, with seconds per question:

    prefix sharing    ten samples of 48 tokens at temperature 1, and ten candidates scored by their log-likelihood after
                      a second prompt: by plain transformers, by the engine one question at a time, and by the engine
                      with all questions in one call. Aim: 8 times plain transformers' speed, one question at a time
    batching          one greedy completion: the engine one question at a time, and with all questions in one call. Aim:
                      10 times, with 32 questions
    mini, retrieval   milliseconds to score ten candidates of a state that `lexical` has read, and to search for a query
                      in a batch, on the CPU, and as a part of the best time for ten samples

There are no figures from a GPU yet: none was at hand.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import llm_speed
from mini_reward import Recorder
from raggym_env.build import load_mdp
from raggym_env.llm import Sampling
from raggym_env.llm.hf.model import HFModel
from raggym_env.mdp.rollout import rollout
from raggym_env.rewards.mini import MiniReward

GIGABYTES = {"1b": 8, "8b": 24}
"""GPU memory that a model needs with its caches."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    sizes: tuple[str, ...] = ("1b", "8b")
    questions: int = 32
    few: int = 4
    """Questions of the slow methods."""
    n: int = 10
    tokens: int = 48
    k: int = 5


TINY = Plan(sizes=("tiny",), questions=4, few=1, n=3, tokens=6, k=1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a very small model on the CPU, in a minute")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("No GPU that torch can use was found. --tiny runs on the CPU, and shows only that this script works.")
    plan, device = (TINY, "cpu") if options.tiny else (Plan(), "cuda")
    started = time.perf_counter()
    works = [llm_speed.invented(random.Random(seed), plan.k) for seed in range(plan.questions)]
    beside = cpu_parts(plan)
    for size in plan.sizes:
        if device == "cuda" and torch.cuda.get_device_properties(0).total_memory < GIGABYTES[size] * 1e9:
            print(f"{size}: left out, as it needs {GIGABYTES[size]} GB of GPU memory\n")
            continue
        measure(size, device, plan, works, beside)
        if device == "cuda":
            torch.cuda.empty_cache()  # for the next model
    print(f"{time.perf_counter() - started:.0f} s in all")


def measure(size: str, device: str, plan: Plan, works: list[llm_speed.Work], beside: dict[str, float]) -> None:
    """Print the table of a model."""
    settings = argparse.Namespace(random_init=size, device=device, dtype="auto", seed=0)
    model, tokenizer = llm_speed.loaded(settings, works)
    llm_speed.describe(model, tokenizer, works)
    llm = HFModel(model, tokenizer)
    llm.chat.eos = frozenset()  # every completion has the full length
    many = Sampling(n=plan.n, temperature=1.0, max_tokens=plan.tokens, seed=0)
    one = Sampling(max_tokens=plan.tokens)
    few, tokens = works[: plan.few], plan.tokens
    llm_speed.naive(model, tokenizer, few[:1], 2, 4, scores=True)  # loads kernels
    llm_speed.ours(llm, few[:1], Sampling(n=2, temperature=1.0, max_tokens=4, seed=0), scores=True)

    print(f"{'':56}{'s/question':>12}{'times':>8}")
    what = f"{plan.n} samples, {plan.n} scored"
    naive = seconds(model, few, lambda: llm_speed.naive(model, tokenizer, few, plan.n, tokens, scores=True))
    line(f"{what}: plain transformers, 1 at once", naive, naive)
    line(f"{what}: engine, 1 at once", seconds(model, few, lambda: singly(llm, few, many)), naive)
    together = seconds(model, works, lambda: llm_speed.ours(llm, works, many, scores=True))
    line(f"{what}: engine, {len(works)} at once", together, naive)
    alone = seconds(model, few, lambda: singly(llm, few, one))
    line("1 completion: engine, 1 at once", alone, alone)
    batched = seconds(model, works, lambda: llm_speed.ours(llm, works, one, scores=False))
    line(f"1 completion: engine, {len(works)} at once", batched, alone)
    for name, spent in beside.items():
        print(f"{name:56}{1000 * spent:9.2f} ms{100 * spent / together:7.1f}%")
    print()


def singly(llm: HFModel, works: Sequence[llm_speed.Work], params: Sampling) -> None:
    for work in works:
        llm_speed.ours(llm, [work], params, scores=params.n > 1)


def seconds(model: Any, works: Sequence[llm_speed.Work], run: Callable[[], object]) -> float:
    """Return the seconds per question that a method takes."""
    started = time.perf_counter()
    run()
    if model.device.type == "cuda":
        torch.cuda.synchronize()  # kernels run after the calls that start them return
    return (time.perf_counter() - started) / len(works)


def line(name: str, spent: float, base: float) -> None:
    print(f"{name:56}{spent:12.3f}{base / spent:8.1f}", flush=True)


def cpu_parts(plan: Plan) -> dict[str, float]:
    """Return the seconds that `mini` takes for the candidates of a state, and BM25 for a query."""
    mdp = load_mdp("RAGGym-Synth-v0", "test", process_reward="none")
    recorder, reward = Recorder(plan.n), MiniReward()
    list(rollout(recorder, mdp.tasks[: plan.questions], mdp.dynamics))
    states, candidates = zip(*recorder.visited, strict=True)
    reward.score(states[:1], candidates[:1])  # loads the weights
    started = time.perf_counter()
    reward.score(states, candidates)
    scored = (time.perf_counter() - started) / len(states)
    texts = [task.question.text for task in itertools.islice(itertools.cycle(mdp.tasks), 1024)]
    mdp.dynamics.retriever.search(texts[: plan.questions], plan.k)  # loads the kernel
    started = time.perf_counter()
    for start in range(0, len(texts), plan.questions):
        mdp.dynamics.retriever.search(texts[start : start + plan.questions], plan.k)
    searched = (time.perf_counter() - started) / len(texts)
    return {f"mini, {plan.n} candidates of a state": scored, f"bm25, a query of {plan.questions} at once": searched}


if __name__ == "__main__":
    main()
