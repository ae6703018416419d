"""How hard the synthetic world is for BM25: one search with the question, against one search per gold title.

    python benchmarks/synth_difficulty.py --passages 5000 --k 5

Takes 2, 3 and 6 seconds for 200, 5,000 and 50,000 passages. To expect with the default seed, 2,000 questions and
k=5 (all gold found by the question / first gold found by the question / all gold found by their titles):

    passages                        200                    5,000                   50,000
    bridge, 2 hops        0.034 / 0.981 / 1.000    0.004 / 0.979 / 1.000    0.000 / 0.996 / 1.000
    bridge_comparison     0.000 / 0.923 / 1.000    0.000 / 0.810 / 1.000    0.000 / 0.903 / 1.000
    comparison            0.912 / 0.958 / 1.000    0.755 / 0.833 / 1.000    0.818 / 0.895 / 1.000
    compositional, 2 hops 0.018 / 0.988 / 1.000    0.000 / 0.991 / 1.000    0.000 / 1.000 / 1.000
    inference, 2 hops     0.000 / 1.000 / 1.000    0.000 / 1.000 / 1.000    0.000 / 1.000 / 1.000
    all                   0.194 / 0.969 / 1.000    0.152 / 0.928 / 1.000    0.164 / 0.964 / 1.000
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Sequence

from raggym_env.core import Task
from raggym_env.data.synth import SynthWorld, generate_tasks
from raggym_env.protocols import Retriever
from raggym_env.retrieval.bm25.retriever import BM25Retriever

COLUMNS = ("questions", "all gold, question", "first gold, question", "all gold, titles")


def found_titles(retriever: Retriever, queries: Sequence[str], k: int) -> list[set[str]]:
    """The titles that each query finds among its `k` best."""
    return [{hit.passage.title for hit in hits} for hits in retriever.search(queries, k)]


def difficulty(world: SynthWorld, questions: int, k: int, stream: str = "train") -> dict[str, dict[str, float]]:
    """Per type and number of hops: how many questions, and for what share of them the search succeeds.

    "all gold, question": the question alone finds every gold passage. "first gold, question": it finds a passage
    to start from. "all gold, titles": one search per gold title finds every gold passage.
    """
    retriever = BM25Retriever(list(world.passages()), store=False)
    tasks = list(itertools.islice(generate_tasks(world, stream), questions))
    by_question = found_titles(retriever, [task.question.text for task in tasks], k)
    titles = [title for task in tasks for title in task.gold_titles]
    by_title = dict(zip(titles, found_titles(retriever, titles, k), strict=True))
    rows: dict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
    for task, found in zip(tasks, by_question, strict=True):
        outcome = (
            found >= set(task.gold_titles),
            task.gold_titles[0] in found,
            all(title in by_title[title] for title in task.gold_titles),
        )
        for row in (_row(task), "all"):
            rows[row].append(outcome)
    return {row: _shares(outcomes) for row, outcomes in sorted(rows.items())}


def _row(task: Task) -> str:
    return f"{task.type}, {task.metadata['hops']} hops"


def _shares(outcomes: Sequence[tuple[bool, bool, bool]]) -> dict[str, float]:
    shares = (sum(column) / len(outcomes) for column in zip(*outcomes, strict=True))
    return dict(zip(COLUMNS, (len(outcomes), *shares), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--k", type=int, default=5)
    args = parser.parse_args()
    table = difficulty(SynthWorld(args.passages, args.seed), args.questions, args.k)
    print(f"{'':26}" + "".join(f"{column:>22}" for column in COLUMNS))
    for row, values in table.items():
        questions, *shares = values.values()
        print(f"{row:26}{questions:22.0f}" + "".join(f"{share:22.3f}" for share in shares))


if __name__ == "__main__":
    main()
