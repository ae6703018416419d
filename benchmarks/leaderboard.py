"""Policies on environments, and the leaderboard at the end.

    python benchmarks/leaderboard.py                 every shipped policy on every environment whose data is there
    python benchmarks/leaderboard.py --limit 200 --env RAGGym-HotpotQA-v0 --policy lexical --policy single_search

Policies that prompt a language model run with `--llm SPEC`, and are left out without it.
Each pair is a run folder below --out. Killed and started again, it goes on where it was; finished pairs are not
run again. `gold_chain`, which reads the gold facts, shows the ceiling that retrieval leaves.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gold_chain import GoldChain
from raggym_env import data
from raggym_env.cards import env_card, policy_card
from raggym_env.errors import DataNotFound, RAGGymError
from raggym_env.evaluation import build_leaderboard, evaluate
from raggym_env.protocols import Policy
from raggym_env.storage.paths import card_names

CEILING = GoldChain.name


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", help="environment; may be repeated (default: all)")
    parser.add_argument("--policy", action="append", help=f"policy; may be repeated (default: all and {CEILING})")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="first N questions only (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/leaderboard"), help="folder of the run folders")
    parser.add_argument("--published", action="store_true", help="show the paper's results beside, as cited")
    parser.add_argument("--llm", help="language model of the policies that prompt one, e.g. hf:smollm2")
    parser.add_argument("--fresh", action="store_true", help="run again what was run before")
    options = parser.parse_args()
    # The cards of the paper's settings run when they are named: their corpora take days to get and to index.
    cards = [env_card(name) for name in card_names("envs")]
    options.env = options.env or [
        card.name for card in cards if card.retrieval.name == "bm25" and options.split in card.dataset.splits
    ]
    if options.policy is None:
        prompting = options.llm is not None
        # `gold` is for training splits; its class shows the ceiling on the others.
        names = [name for name in card_names("policies") if name != "gold"]
        options.policy = [name for name in names if prompting or not prompts(name)]
        options.policy += [CEILING]
    return options


def prompts(name: str) -> bool:
    """Whether a policy needs a language model."""
    return name != CEILING and policy_card(name).policy == "prompt"


def run_all(options: argparse.Namespace) -> list[Path]:
    """Evaluate every pair and return the run folders. An environment without data is skipped, and said so."""
    folders = []
    for env in options.env:
        try:
            folders += run_environment(env, options)
        except DataNotFound as error:
            print(f"skipped {env}: {error}", file=sys.stderr)
    return folders


def run_environment(env: str, options: argparse.Namespace) -> list[Path]:
    tasks = data.load_tasks(env, options.split).tasks
    folders = []
    for name in options.policy:
        if name == CEILING and not all(task.supporting for task in tasks):
            print(f"no {CEILING} for {env}: its questions name no supporting facts", file=sys.stderr)
            continue
        policy = GoldChain(tasks) if name == CEILING else name
        folders.append(run_one(env, policy, name, options))
    return folders


def run_one(env: str, policy: str | Policy, name: str, options: argparse.Namespace) -> Path:
    folder = options.out / "_".join(str(part) for part in (env, options.split, options.limit or "all", name))
    if options.fresh and (folder / "run.json").exists():
        shutil.rmtree(folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{env} {name}", total=None)

        def progress(done: int, total: int, record: dict[str, Any]) -> None:
            bar.update(task, completed=done, total=total)

        settings = {"policy.options.llm": options.llm} if prompts(name) else {}
        shared = {"split": options.split, "limit": options.limit, "seed": options.seed, "out": folder}
        evaluate(env, policy, progress=progress, settings=settings, **shared)
    return folder


def main() -> None:
    options = arguments()
    started = time.perf_counter()
    try:
        folders = run_all(options)
        board = build_leaderboard(folders, published=options.published)
    except RAGGymError as error:
        sys.exit(f"leaderboard: {error}")
    print(board.to_markdown())
    print(f"\n{len(folders)} runs in {time.perf_counter() - started:.1f} s; run folders in {folders[0].parent}/")


if __name__ == "__main__":
    main()
