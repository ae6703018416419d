"""What it costs to check mapped files before they are searched.

    python benchmarks/index_checks.py [--passages 1000000]

An index of bm25 is written as it is for that many passages of Wikipedia: 51 distinct terms in each, and 0.78 terms of
the vocabulary for each passage, by Zipf's law. Every figure is of a new mapping of files that are in the page cache.

    opening         the bounds of all terms, and the vocabulary: always, before the first search
    frequent terms  the postings of the 20 most frequent terms, when they are looked up first; once per process
    all terms       the postings of all terms, and the order of the vocabulary: `raggym index verify`
    one pass        the lowest and highest of all positions and scores, as if opening did it: not done
    known files     comparing size, times and inode of files with those at which their checksums agreed: always
    checksums       reading all files: once after a build, a copy or a change
    hnsw            every link of a graph over a tenth as many vectors, m=32: always, before FAISS reads the file

Expected with 1,000,000 passages (362 MB) on 2 cores that eight other programs were using too:

    opening 3.4 ms; frequent terms 16 ms; all terms 1.6 s; one pass 0.22 s; known files 0.4 ms; checksums 2.2 s;
    hnsw over 100,000 vectors 46 ms
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from raggym_env.retrieval.bm25.index import Index
from raggym_env.retrieval.bm25.vocabulary import write_vocabulary
from raggym_env.storage.checksums import checksums, file_problems

TERMS, DISTINCT = 0.78, 51  # of the vocabulary for each passage; in each passage
FREQUENT = 20


def write(folder: Path, passages: int) -> list[str]:
    """Write the files of an index, and return its terms, the most frequent first."""
    count = int(TERMS * passages)
    weights = 1 / np.arange(1, count + 1)
    frequencies = np.clip(DISTINCT * passages * weights / weights.sum(), 1, passages // 4).astype(int)
    rng = np.random.default_rng(0)
    positions = np.concatenate(
        [rng.integers(0, max(1, passages // n)) + np.arange(n) * (passages // n) for n in frequencies]
    )
    np.save(folder / "indices.csc.index.npy", positions.astype(np.int32))
    np.save(folder / "data.csc.index.npy", rng.random(len(positions), np.float32) + np.float32(0.01))
    np.save(folder / "indptr.csc.index.npy", np.concatenate([[0], np.cumsum(frequencies)]).astype(np.int64))
    (folder / "params.index.json").write_text(json.dumps({"num_docs": passages}), encoding="utf-8")
    terms = [f"term{number}" for number in range(count)]
    write_vocabulary({term: number for number, term in enumerate(terms)}, folder)
    return terms


def one_pass(folder: Path, passages: int) -> None:
    index = Index.load(folder, passages)
    assert index.positions.min() >= 0
    assert index.positions.max() < passages
    assert 0 < index.scores.min() <= index.scores.max() < np.inf


def hnsw(folder: Path, passages: int) -> Callable[[], None]:
    """Build a graph over random vectors, and return the function that checks it."""
    from raggym_env.retrieval.dense.faiss_file import check_faiss_file
    from raggym_env.retrieval.dense.faiss_index import IndexOptions, MappedVectors, build_index

    vectors = np.random.default_rng(0).standard_normal((passages, 8)).astype(np.float32)
    build_index(MappedVectors([vectors]), IndexOptions(index="hnsw", ef_construction=16), folder / "index.faiss")
    return lambda: check_faiss_file(folder / "index.faiss", "hnsw", np.dtype(np.float32), passages, 8)


def show(name: str, work: Callable[[], object], runs: int = 3) -> None:
    """Print the lowest time of several runs."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    print(f"{name:16}{min(seconds) * 1e3:12,.1f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    passages = parser.parse_args().passages
    with tempfile.TemporaryDirectory(prefix="raggym-checks-") as name:
        folder = Path(name)
        terms = write(folder, passages)
        names = sorted(path.name for path in folder.iterdir())
        size = sum((folder / file).stat().st_size for file in names)
        print(f"{passages:,} passages, {len(terms):,} terms, {size / 1e6:,.0f} MB")
        show("opening", lambda: Index.load(folder, passages))
        opened = [Index.load(folder, passages) for _ in range(3)]
        show("frequent terms", lambda: opened.pop().ids(terms[:FREQUENT]))
        show("all terms", Index.load(folder, passages).check, runs=1)
        show("one pass", lambda: one_pass(folder, passages))
        show("checksums", lambda: checksums(folder, names), runs=1)
        files = checksums(folder, names)
        show("known files", lambda: file_problems(folder, files))
        show(f"hnsw, {passages // 10:,}", hnsw(folder, passages // 10))


if __name__ == "__main__":
    main()
