"""What process supervision does, in less than a minute and without a download: `make demo`.

    python benchmarks/demo.py                       policies from the floor to the ceiling on RAGGym-Synth-v0
    python benchmarks/demo.py --llm hf:smollm2      and two agents that prompt a language model (`make demo-llm`)

It evaluates each policy, ranks them, says what the critic gained, shows an episode that the critic turned from wrong to
right, and writes a report page. The lines that begin with `$` are commands for you to run again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gold_chain import GoldChain
from raggym_env import data
from raggym_env.cli import app
from raggym_env.errors import RAGGymError
from raggym_env.evaluation import Comparison, compare, evaluate
from raggym_env.evaluation.scored_run import ScoredRun

ENV, SPLIT = "RAGGym-Synth-v0", "test"


@dataclass(frozen=True)
class Row:
    """One row of the leaderboard: a policy on the first questions of the split, in the run folder `folder`."""

    folder: Path
    policy: str
    limit: int
    settings: dict[str, Any] = field(default_factory=dict)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200, help="questions for each policy (default: %(default)s)")
    parser.add_argument("--llm", help="language model of two more rows, e.g. hf:smollm2")
    parser.add_argument("--llm-questions", type=int, default=8, help="questions for these (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the runs and the report")
    return parser.parse_args()


def run(row: Row) -> tuple[Row, float]:
    """Evaluate a row afresh and return it with its duration in seconds."""
    started = time.perf_counter()
    if (row.folder / "run.json").exists():
        shutil.rmtree(row.folder)
    policy = GoldChain(data.load_tasks(ENV, SPLIT).tasks) if row.policy == GoldChain.name else row.policy
    evaluate(ENV, policy, split=SPLIT, limit=row.limit, out=row.folder, settings=row.settings)
    return row, time.perf_counter() - started


def run_all(rows: list[Row]) -> None:
    """Evaluate the rows, two at a time, and print a line as each ends."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for ended in as_completed([pool.submit(run, row) for row in rows]):
            report_run(*ended.result())


def report_run(row: Row, seconds: float) -> None:
    print(f"  {row.folder.name:20} {row.limit:4} questions {seconds:6.1f} s", flush=True)


def gain(comparison: Comparison) -> str:
    """Return one line on what the second run of a comparison gained over the first."""
    part = comparison.main
    return (
        f"The critic's gain: {part.metric.upper()} {part.first:.3f} -> {part.second:.3f}, "
        f"{part.difference.mean:+.3f} [{part.difference.low:+.3f}, {part.difference.high:+.3f}] "
        f"(paired, 95 %; {part.wins} better, {part.ties} equal, {part.losses} worse)"
    )


def shortest(questions: tuple[str, ...], run: ScoredRun) -> str:
    """Return the question whose episode has the fewest steps."""
    return min(questions, key=lambda question: len(run.episodes[question].steps))


def raggym(*arguments: object) -> None:
    """Print a command of `raggym` and run it."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ raggym {shlex.join(words)}", flush=True)
    if code := app(words, standalone_mode=False):
        sys.exit(code)


def demo(options: argparse.Namespace) -> None:
    out, questions = options.out, options.questions
    greedy, best = out / "lexical", out / "lexical_best_of_8"
    critic = {"policy.search.best_of": 8, "policy.search.critic": "mini"}
    # The longest first, so that both processes have work until the end.
    rows = [Row(best, "lexical", questions, critic), Row(greedy, "lexical", questions)]
    rows += [Row(out / name, name, questions) for name in ("single_search", "random", GoldChain.name)]
    print(f"{ENV}, {SPLIT} split:")
    run_all(rows)
    if options.llm:
        model = {"policy.options.llm": options.llm}
        prompting = [Row(out / name, name, options.llm_questions, model) for name in ("direct", "rag")]
        for row in prompting:  # in this process, since a model is loaded for each process
            report_run(*run(row))
        rows += prompting
    folders = [row.folder for row in rows]
    raggym("leaderboard", *folders)
    (comparison,) = compare([greedy, best])
    print(f"\n{gain(comparison)}. For more: raggym compare {greedy} {best}")
    if comparison.won:
        raggym("show", best, shortest(comparison.won, ScoredRun.read(best)))
    raggym("report", *folders, "--output", out / "report.html")


def main() -> None:
    options = arguments()
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' own bars between the demo's lines
    started = time.perf_counter()
    try:
        demo(options)
    except RAGGymError as error:
        sys.exit(f"demo: {error}")
    print(f"\nThe demo took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
