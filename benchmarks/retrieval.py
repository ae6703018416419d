"""Quality, speed and memory of the retrievers, with the question as the only query.

    python benchmarks/retrieval.py                          # all of them on both corpora
    python benchmarks/retrieval.py --only 2Wiki --retriever bm25 --retriever rrf
    python benchmarks/retrieval.py --full                   # rank-bm25 on HotpotQA, too: ten minutes or so
    python benchmarks/retrieval.py --sweep                  # bm25 over its parameters
    python benchmarks/retrieval.py --fusion                 # rrf over depth, rrf_k and weights
    python benchmarks/retrieval.py --checksums 400         # hashes of hits, to compare versions
    python benchmarks/retrieval.py --quantized 2000 100000  # dense: recall on real, size and time on generated vectors

Needs the data sets in `$RAGGYM_DATA` or in `shared/data` beside the checkout: HotpotQA with 56,327 passages and
3,745 questions, 2WikiMultihopQA with 12,003 and 903. A retriever whose packages are not installed is reported and
skipped. `dense` and `rrf` use --encoder, by default the small MiniLM (raggym models get minilm). The rates of `bm25` in
batches depend on numba, the extra `fast`.

Columns. r@k: the share of a question's gold titles among the titles of its k best passages, as a mean over
questions. all@5: the share of questions with all of them. MRR: one over the rank of the first gold passage, 0 below
rank 20. Titles are compared with HTML entities resolved, in NFC, white space collapsed and case folded, because corpora
and questions spell them differently in these ways. single, batch: queries per second at k=5, one by one and 32 at
once. index: seconds to build the stored indexes, from their manifests; the indexes of --store are built once and
reused. open: seconds to create the retriever with its index stored, imports included. disk: megabytes stored.

resident, private: megabytes by which the process grew from the creation of the retriever to the last answer (VmRSS of
Linux), and the part of that which is not pages of mapped files (RssAnon), which the system cannot take back. Each
retriever runs in a separate process that only opens and searches; the index is built in another. An `rrf` uses the
indexes of its members, so its index time and disk are their sums. "rrf" fuses bm25 and dense with rrf_k=10 and twice
the weight for bm25, "rrf default" with the default options, "rrf paper" lucene and dense as in the paper.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raggym_env.core import Passage
from raggym_env.data.prepare import prepare_corpus
from raggym_env.errors import MissingExtra, RAGGymError
from raggym_env.retrieval import Hit, Retriever, make
from raggym_env.retrieval.cache import CachedRetriever
from raggym_env.rewards.evidence import title_key
from raggym_env.storage.paths import cache_dir

DATA_SETS = {"2Wiki": ("2wikimultihopqa", "dev_open.json"), "HotpotQA": ("hotpotqa", "hotpot_dev_open_v1.json")}
FUSED = {
    "rrf": (("bm25", "dense"), {"rrf_k": 10, "weights": [2, 1]}),
    "rrf default": (("bm25", "dense"), {}),
    "rrf paper": (("lucene", "dense"), {"rrf_k": 60, "depth": 100}),
}
"""Row -> the members of the fusion and its options; `--fusion` tries others."""
RETRIEVERS = ["bm25", "lucene", "dense", *FUSED, "rank-bm25"]
DEPTHS = (1, 5, 20)
QUALITY = ["r@1", "r@5", "r@20", "all@5", "MRR"]
COLUMNS = [*QUALITY, "single/s", "batch/s", "index s", "open s", "disk MB", "resident MB", "private MB"]
K, BATCH = 5, 32
SWEEP = [
    {"k1": k1, "b": b, "stemmer": stemmer, "title_weight": title_weight}
    for stemmer, (k1, b), title_weight in itertools.product(
        ("english", "none"), ((0.9, 0.4), (1.2, 0.75), (1.5, 0.75)), (1, 2, 3)
    )
]
FUSION = [
    *({"depth": depth} for depth in (20, 50, 100, 200, 500)),
    *({"rrf_k": rrf_k} for rrf_k in (1, 10, 30, 100)),
    *({"weights": weights} for weights in ([1, 2], [2, 1], [3, 1])),
    *({"rrf_k": rrf_k, "weights": [2, 1], "depth": depth} for rrf_k in (5, 10) for depth in (20, 100)),
]
QUANTIZED: dict[str, dict[str, Any]] = {
    "ivf": {"index": "ivf", "nprobe": 16},
    "ivf, int8": {"index": "ivf", "nprobe": 16, "quantization": "int8"},
    "ivf, pq 48": {"index": "ivf", "nprobe": 16, "quantization": "pq", "pq_bytes": 48},
    "ivf, pq 96": {"index": "ivf", "nprobe": 16, "quantization": "pq", "pq_bytes": 96},
    "hnsw, int8": {"index": "hnsw", "quantization": "int8"},
}


class DataSet(NamedTuple):
    corpus: Sequence[Passage]
    questions: list[str]
    gold: list[frozenset[str]]
    """Titles of the supporting passages, as returned by `title_key`, for every question."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--retriever", action="append", choices=RETRIEVERS, help="may be repeated (default: all)")
    parser.add_argument("--only", choices=list(DATA_SETS), help="one data set instead of both")
    parser.add_argument("--full", action="store_true", help="rank-bm25 on HotpotQA too; ten minutes or so")
    parser.add_argument("--sweep", action="store_true", help="recall of bm25 over k1, b, stemmer and title weight")
    parser.add_argument("--fusion", action="store_true", help="recall of rrf over depth, rrf_k and weights")
    parser.add_argument("--checksums", type=int, metavar="PASSAGES", help="hashes of the hits over the first passages")
    parser.add_argument("--quantized", type=int, nargs=2, metavar=("PASSAGES", "VECTORS"), help="dense, quantized")
    parser.add_argument("--encoder", default="minilm", help="model of the dense retriever")
    parser.add_argument("--data", type=Path, help="folder of data sets (default: $RAGGYM_DATA)")
    parser.add_argument("--store", type=Path, help="folder of indexes (default: in the cache)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.data = data_folder(options.data)
    options.store = options.store or cache_dir() / "benchmarks" / "retrieval"
    if options.child:
        print(json.dumps(child(options, *options.child)))
        return
    if options.quantized:
        quantized_sizes(options.quantized[1])
    for name in [options.only] if options.only else DATA_SETS:
        data = read(options.data, name)
        print(f"\n{name}: {len(data.corpus):,} passages, {len(data.questions):,} questions\n")
        if options.sweep:
            sweep(data)
        elif options.fusion:
            fusion(data, options, name)
        elif options.quantized:
            quantized_recall(data, options)
        elif options.checksums:
            checksums(data, options)
        else:
            compare(options, name)


def compare(options: argparse.Namespace, data_set: str) -> None:
    """Print one row per retriever, each measured in separate processes."""
    header("retriever", *COLUMNS)
    for name in options.retriever or RETRIEVERS:
        if name == "rank-bm25" and data_set == "HotpotQA" and not options.full:
            continue  # it scores all 56,327 passages in Python for each of 3,745 questions
        built = {} if name == "rank-bm25" else run(options, data_set, name, "build")
        figures = built if "skipped" in built else run(options, data_set, name, "search")
        if "skipped" in figures:
            print(f"| {name} | skipped: {figures['skipped']} |", flush=True)
        else:
            row(name, *figures["cells"])


def run(options: argparse.Namespace, data_set: str, name: str, step: str) -> dict[str, Any]:
    """Run one step of one retriever in a new process, so that its memory is measured alone."""
    shared = ["--only", data_set, "--encoder", options.encoder, "--data", options.data, "--store", options.store]
    command = [sys.executable, __file__, *map(str, shared), "--child", name, step]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        sys.exit(f"{name}, {step}: failed with {process.returncode}")
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])  # libraries may print before it
    return figures


def child(options: argparse.Namespace, name: str, step: str) -> dict[str, Any]:
    """Return the figures of one step, in the process that `run` started for it."""
    data = read(options.data, options.only)
    try:
        if step == "search":
            return {"cells": measure(name, data, options)}
        create(name, data, options)
        return {}
    except MissingExtra as error:
        return {"skipped": str(error)}


def create(name: str, data: DataSet, options: argparse.Namespace) -> Retriever:
    table = spec(name, options)
    return make(table.pop("name"), data.corpus, **table)


def spec(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the retriever's name and options as in a card, with a separate folder of indexes."""
    if name in FUSED:
        members, settings = FUSED[name]
        return {"name": "rrf", "retrievers": [spec(member, options) for member in members], **settings}
    if name == "rank-bm25":
        return {"name": name}
    encoder = {"model": options.encoder} if name == "dense" else {}
    return {"name": name, **encoder, "store": options.store / options.only / name}


def measure(name: str, data: DataSet, options: argparse.Namespace) -> list[str]:
    """Return the cells of one retriever's row."""
    start = memory()
    retriever, opening = timed(lambda: create(name, data, options))
    retriever.search(data.questions[:BATCH], K)  # loads or compiles what the first search does
    results, seconds = timed(lambda: retriever.search(data.questions, max(DEPTHS)))
    end = memory()
    building, size = stored(name, options)
    if name == "rank-bm25":  # stores nothing, so creating it builds it; and it searches one query at a time
        return [*quality(data, results), *[f"{len(data.questions) / seconds:,.0f}"] * 2, f"{opening:.1f}", "-", "-",
                *growth(start, end)]  # fmt: skip
    # 20 batches are enough for a rate, and 2 for a retriever that takes long over all questions.
    rate = rates(retriever, data.questions[: 20 * BATCH if seconds < 30 else 2 * BATCH])
    return [*quality(data, results), *rate, f"{building:,.1f}", f"{opening:.2f}", f"{size:,.1f}", *growth(start, end)]


def stored(name: str, options: argparse.Namespace) -> tuple[float, float]:
    """Return the build time in seconds and the size in megabytes of a retriever's indexes, from their manifests."""
    seconds = size = 0.0
    for member in FUSED[name][0] if name in FUSED else [name]:
        for path in (options.store / options.only / member).glob("*/manifest.json"):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            seconds += manifest["seconds"]
            size += sum(manifest["files"].values()) / 1e6
    return seconds, size


def memory() -> tuple[float, float]:
    """Return the megabytes resident, and those of them that are not pages of files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kilobytes = {line.split(":")[0]: line.split()[1] for line in status if line.startswith(("VmRSS", "RssAnon"))}
    return int(kilobytes["VmRSS"]) / 1e3, int(kilobytes["RssAnon"]) / 1e3


def growth(start: tuple[float, float], end: tuple[float, float]) -> list[str]:
    return [f"{last - first:,.0f}" for first, last in zip(start, end, strict=True)]


def rates(retriever: Retriever, questions: list[str]) -> list[str]:
    """Return the queries per second, one by one and in batches: the best of three runs, for a busy machine."""
    batches = [questions[start : start + BATCH] for start in range(0, len(questions), BATCH)]

    def rate(requests: list[list[str]]) -> str:
        seconds = best_time(lambda: [retriever.search(request, K) for request in requests])
        return f"{len(questions) / seconds:,.0f}"

    return [rate([[question] for question in questions]), rate(batches)]


def sweep(data: DataSet) -> None:
    """Print the quality of bm25 for every combination in `SWEEP`."""
    header("k1", "b", "stemmer", "title", *QUALITY)
    for options in SWEEP:
        retriever = make("bm25", data.corpus, store=False, **options)
        row(*map(str, options.values()), *quality(data, retriever.search(data.questions, max(DEPTHS))))


def fusion(data: DataSet, options: argparse.Namespace, name: str) -> None:
    """Print the quality of rrf for the options in `FUSION`, below its members. `weights` are for bm25 and dense."""
    options.only = name
    header("options", *QUALITY)
    size = len(data.questions) * len(FUSION)  # for every depth, so that each is searched once
    members = {member: CachedRetriever(create(member, data, options), size=size) for member in FUSED["rrf"][0]}
    for label, retriever in members.items():
        row(f"{label} alone", *quality(data, retriever.search(data.questions, max(DEPTHS))))
    for settings in ({}, *FUSION):
        retriever = make("rrf", data.corpus, retrievers=list(members.values()), **settings)
        label = ", ".join(f"{key}={value}" for key, value in settings.items()) or "rrf, the defaults"
        row(label, *quality(data, retriever.search(data.questions, max(DEPTHS))))


def checksums(data: DataSet, options: argparse.Namespace) -> None:
    """Print a hash over ids and scores, to the last bit, of the hits of each retriever, one by one and in batches."""
    header("retriever", "options", "k", "questions", "hash of the hits")
    few = data.corpus[: options.checksums]
    bm25 = {backend: {"backend": backend} for backend in ("numpy", "numba")}
    members = [{"name": "bm25", "store": False}, {"name": "dense", "model": options.encoder, "store": False}]
    for name, corpus, settings in [
        *(("bm25", data.corpus, each) for each in bm25.values()),
        *(("bm25", few, each) for each in bm25.values()),
        ("rank-bm25", few, {}),
        ("lucene", few, {}),
        ("dense", few, {"model": options.encoder}),
        ("rrf", few, {"retrievers": members}),
    ]:
        if options.retriever and name not in options.retriever:
            continue
        engine = make(name, corpus, **settings, **({"store": False} if name in ("bm25", "lucene", "dense") else {}))
        label = ", ".join(str(value) for value in settings.values() if isinstance(value, str)) or "-"
        questions = data.questions[: 40 if corpus is few else None]
        for k in (5, 100):
            digest = hashlib.blake2b(digest_size=8)
            for size in (1, BATCH):
                for start in range(0, len(questions), size):
                    for hits in engine.search(questions[start : start + size], k):
                        digest.update(repr([(hit.passage.id, hit.score) for hit in hits]).encode())
            row(name, label, str(k), f"{len(questions):,} of {len(corpus):,} passages", digest.hexdigest())


def quantized_recall(data: DataSet, options: argparse.Namespace) -> None:
    """Print how many of the hits of a flat index each kind of index has, over the first passages."""
    corpus, queries = data.corpus[: options.quantized[0]], data.questions[:200]
    shared = {"model": options.encoder, "store": options.store / f"{options.only or 'first'}-quantized"}
    exact = [{hit.passage.id for hit in hits} for hits in make("dense", corpus, **shared).search(queries, 10)]
    header(
        "index over MiniLM's vectors", f"share of flat's 10 best, {len(corpus):,} passages, {len(queries)} questions"
    )
    for label, settings in QUANTIZED.items():
        results = make("dense", corpus, **shared, **settings).search(queries, 10)
        pairs = zip(exact, results, strict=True)
        row(label, f"{mean(len(best.intersection(hit.passage.id for hit in hits)) / 10 for best, hits in pairs):.3f}")


def quantized_sizes(count: int, dimension: int = 384) -> None:
    """Print size, build time and speed of each kind of index over generated vectors: normal around 1,000 centers."""
    import faiss

    from raggym_env.retrieval.dense.faiss_index import FaissIndex, IndexOptions, MappedVectors, build_index

    faiss.omp_set_num_threads(1)  # threads that wait for each other on a busy machine would count as work
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((1000, dimension), np.float32)
    vectors = np.repeat(centers, -(-count // 1000), axis=0)[:count]
    vectors += 0.7 * rng.standard_normal(vectors.shape, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[rng.integers(0, count, 200)] + 0.02 * rng.standard_normal((200, dimension), np.float32)
    exact = np.argpartition(-(queries @ vectors.T), 10, axis=1)[:, :10]
    stored = MappedVectors([vectors])
    print(f"\n{count:,} generated vectors of {dimension} dimensions, 200 queries\n")
    header("index", "build CPU s", "MB", "21 million, GB", "ms CPU a query", "share of the 10 best in 100")
    for label, settings in QUANTIZED.items():
        index_options = IndexOptions(**{**settings, "nlist": min(512, count // 40)})
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "index"
            start = time.process_time()
            build_index(stored, index_options, file)
            built, size = time.process_time() - start, file.stat().st_size
            index = FaissIndex(file, index_options, stored)
            start = time.process_time()
            positions = np.concatenate([index.search(query[None], 100)[1] for query in queries])
            searched = (time.process_time() - start) / len(queries)
        recall = mean(float(np.isin(best, line).mean()) for best, line in zip(exact, positions, strict=True))
        row(label, f"{built:.1f}", f"{size / 1e6:.1f}", f"{size / count * 21.015324e6 / 1e9:.1f}",
            f"{searched * 1e3:.2f}", f"{recall:.3f}")  # fmt: skip


def quality(data: DataSet, results: list[list[Hit]]) -> list[str]:
    """Return the columns r@k, all@5 and MRR."""
    rankings = [[title_key(hit.passage.title) for hit in hits] for hits in results]
    pairs = list(zip(data.gold, rankings, strict=True))
    shares = {k: [len(gold.intersection(titles[:k])) / len(gold) for gold, titles in pairs] for k in DEPTHS}
    means = [mean(shares[k]) for k in DEPTHS]
    complete = mean(share == 1 for share in shares[5])
    return [f"{value:.3f}" for value in (*means, complete, mean(reciprocal_rank(*pair) for pair in pairs))]


def reciprocal_rank(gold: frozenset[str], titles: Sequence[str]) -> float:
    return next((1 / rank for rank, title in enumerate(titles, 1) if title in gold), 0.0)


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def best_time(work: Callable[[], Any]) -> float:
    return min(timed(work)[1] for _ in range(3))


def data_folder(option: Path | None) -> Path:
    """Return the folder of data sets: the option, else `$RAGGYM_DATA`, else `shared/data` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    for folder in (option, os.environ.get("RAGGYM_DATA"), beside):
        if folder and Path(folder).is_dir():
            return Path(folder)
    sys.exit("No data sets. Set RAGGYM_DATA to their folder, or pass --data.")


def read(folder: Path, name: str) -> DataSet:
    subfolder, questions = DATA_SETS[name]
    # Mapped, so that the corpus does not count as memory of a retriever.
    corpus = prepare_corpus(folder / subfolder / "corpus.jsonl.gz")
    rows = json.loads((folder / subfolder / questions).read_text(encoding="utf-8"))
    gold = [frozenset(title_key(title) for title, _ in row["supporting_facts"]) for row in rows]
    return DataSet(corpus, [row["question"] for row in rows], gold)


def header(*cells: str) -> None:
    row(*cells)
    row(*("---" for _ in cells))


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except RAGGymError as error:
        sys.exit(f"retrieval: {error}")
