"""How well and how fast the lexical retrievers find the gold passages, the question being the only query.

    python benchmarks/retrieval.py             # bm25 on both corpora, rank-bm25 on 2Wiki
    python benchmarks/retrieval.py --full      # rank-bm25 on HotpotQA too
    python benchmarks/retrieval.py --sweep     # bm25 over its parameters

Needs the data sets in `$RAGGYM_DATA` or in `shared/data` beside the checkout: HotpotQA with 56,327 passages and
3,745 questions, 2WikiMultihopQA with 12,003 and 903.

Columns. r@k: the share of a question's gold titles among the titles of its k best passages, as a mean over
questions. all@k: the share of questions with all of them. Titles are compared with HTML entities resolved, white
space collapsed and case folded, because corpora and questions spell them differently in these ways. single, batch:
queries a second at k=5, asked one by one and 32 at once. build, open: seconds to make the retriever with no index
stored, and with one; both include hashing the corpus, which a corpus on disk has done once.

To expect, with the defaults, on two cores that others use too:

    corpus     retriever   r@2    r@5    r@20   all@5   single   batch    build s   MB
    2Wiki      bm25        0.573  0.660  0.725  0.317   16,000   42,000   1.1       4.9
    2Wiki      rank-bm25   0.569  0.660  0.725  0.318       40       40   0.6       -
    HotpotQA   bm25        0.606  0.753  0.875  0.537    5,500   16,000   5.7       24.1
"""

from __future__ import annotations

import argparse
import gzip
import html
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raggym_env.core import Passage
from raggym_env.retrieval import Hit, Retriever, make

DATA_SETS = {
    "2Wiki": ("2wikimultihopqa", "dev_open.json"),
    "HotpotQA": ("hotpotqa", "hotpot_dev_open_v1.json"),
}
DEPTHS = (2, 5, 20)
K, BATCH = 5, 32
COLUMNS = [f"{name}@{k}" for name in ("r", "all") for k in DEPTHS]
SWEEP = [
    {"k1": k1, "b": b, "stemmer": stemmer, "title_weight": title_weight}
    for stemmer, (k1, b), title_weight in itertools.product(
        ("english", "none"), ((0.9, 0.4), (1.2, 0.75), (1.5, 0.75)), (1, 2, 3)
    )
]


class DataSet(NamedTuple):
    corpus: list[Passage]
    questions: list[str]
    gold: list[frozenset[str]]
    """Plain titles of the supporting passages, by question."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="rank-bm25 on HotpotQA too; ten minutes or so")
    parser.add_argument("--sweep", action="store_true", help="recall of bm25 over k1, b, stemmer and title weight")
    parser.add_argument("--data", type=Path, default=None, help="folder of data sets (default: $RAGGYM_DATA)")
    parser.add_argument("--only", choices=list(DATA_SETS), help="one data set instead of both")
    options = parser.parse_args(arguments)
    folder = data_folder(options.data)
    for name in [options.only] if options.only else DATA_SETS:
        data = read(folder, name)
        print(f"\n{name}: {len(data.corpus):,} passages, {len(data.questions):,} questions\n")
        sweep(data) if options.sweep else compare(data, with_reference=name == "2Wiki" or options.full)


def compare(data: DataSet, with_reference: bool) -> None:
    """The retrievers side by side, each with its defaults; the two have the same ones."""
    header("retriever", *COLUMNS, "single", "batch", "build s", "open s", "MB")
    row("bm25", *bm25_figures(data))
    if with_reference:
        row("rank-bm25", *rank_bm25_figures(data))


def bm25_figures(data: DataSet) -> list[str]:
    with tempfile.TemporaryDirectory() as store:
        _, building = timed(lambda: make("bm25", data.corpus, store=store))
        retriever, opening = timed(lambda: make("bm25", data.corpus, store=store))
        retriever.search(data.questions[:BATCH], K)  # loads or compiles the kernel
        recalls = recall(data, retriever.search(data.questions, max(DEPTHS)))
        size = sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file())
        return [
            *recalls,
            *rates(retriever, data.questions),
            f"{building:.2f}",
            f"{opening:.3f}",
            f"{size / 1e6:.1f}",
        ]


def rank_bm25_figures(data: DataSet) -> list[str]:
    retriever, building = timed(lambda: make("rank-bm25", data.corpus))
    results, seconds = timed(lambda: retriever.search(data.questions, max(DEPTHS)))
    rate = f"{len(data.questions) / seconds:,.0f}"
    return [*recall(data, results), rate, rate, f"{building:.2f}", "-", "-"]


def rates(retriever: Retriever, questions: list[str]) -> list[str]:
    """Queries a second, one by one and in batches; the better of three runs, for a busy machine."""
    questions = questions[: 20 * BATCH]
    batches = [questions[start : start + BATCH] for start in range(0, len(questions), BATCH)]

    def rate(requests: list[list[str]]) -> str:
        seconds = best_time(lambda: [retriever.search(request, K) for request in requests])
        return f"{len(questions) / seconds:,.0f}"

    return [rate([[question] for question in questions]), rate(batches)]


def sweep(data: DataSet) -> None:
    header("k1", "b", "stemmer", "title", *COLUMNS)
    for options in SWEEP:
        retriever = make("bm25", data.corpus, store=False, **options)
        row(*map(str, options.values()), *recall(data, retriever.search(data.questions, max(DEPTHS))))


def recall(data: DataSet, results: list[list[Hit]]) -> list[str]:
    """The columns r@k and all@k."""
    found = [[plain(hit.passage.title) for hit in hits] for hits in results]
    shares = {
        k: [len(gold.intersection(titles[:k])) / len(gold) for gold, titles in zip(data.gold, found, strict=True)]
        for k in DEPTHS
    }
    means = [mean(shares[k]) for k in DEPTHS]
    return [f"{value:.3f}" for value in (*means, *(mean(share == 1 for share in shares[k]) for k in DEPTHS))]


def plain(title: str) -> str:
    return " ".join(html.unescape(title).split()).casefold()


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def best_time(work: Callable[[], Any]) -> float:
    return min(timed(work)[1] for _ in range(3))


def data_folder(given: Path | None) -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    for folder in (given, os.environ.get("RAGGYM_DATA"), beside):
        if folder and Path(folder).is_dir():
            return Path(folder)
    sys.exit("No data sets. Set RAGGYM_DATA to their folder, or pass --data.")


def read(folder: Path, name: str) -> DataSet:
    subfolder, questions = DATA_SETS[name]
    with gzip.open(folder / subfolder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        corpus = [Passage(**json.loads(line)) for line in lines]
    rows = json.loads((folder / subfolder / questions).read_text(encoding="utf-8"))
    gold = [frozenset(plain(title) for title, _ in row["supporting_facts"]) for row in rows]
    return DataSet(corpus, [row["question"] for row in rows], gold)


def header(*cells: str) -> None:
    row(*cells)
    row(*("---" for _ in cells))


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
