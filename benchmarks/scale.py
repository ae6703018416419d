"""How building, opening and searching grow with the corpus, up to what one machine needs for wiki-18.

    python benchmarks/scale.py                              # bm25 on 0.1 and 1 million generated passages
    python benchmarks/scale.py --passages 0.1 1 5           # 10 GB of disk, half an hour
    python benchmarks/scale.py --retriever bm25 lucene      # any name of raggym_env.retrieval that has a store
    python benchmarks/scale.py --baselines 1                # bm25s and rank-bm25 used directly, up to 1 million

Every step runs in a process of its own, so that memory is that step's alone. Linux only: memory is read from /proc.

The passages are drawn word by word from the double power law of English (Gerlach and Altmann 2013,
arXiv:1212.1362: exponent 1 up to rank 7,873, 1.77 beyond), in which the vocabulary grows with the corpus as it does
in text (Heaps' law). Of 92 thousand, 0.93 and 5.2 million words 14,438, 55,034 and 144,737 are distinct; in the
introductions of Wikipedia that HotpotQA searches it is 14,417, 57,089 and 153,843. The term that is r-th in the number
of its passages is in this share of them:

    r             1      10     30     100    300    1,000   3,000
    generated     0.209  0.167  0.114  0.055  0.022  0.0079  0.0026
    HotpotQA      0.243  0.159  0.096  0.052  0.026  0.0087  0.0022

A passage has 80 to 120 words and 51 distinct terms (HotpotQA: 92 on average, and 46); a question 9 to 21 words, of the
title and the text of one passage and others as they come, and 10 terms (HotpotQA: 16 words, 10 terms).

Columns. build CPU s, p50 CPU ms: time of processors spent, which is what an idle machine would take. cold, warm: from
the start of a new Python to its first answer, imports included, with and without the corpus and the index dropped
from the page cache. p50, p99: one query at a time, k=5, passages included. batch q/s: 32 at once. build MB, own MB: at
most while building, and after 1,000 queries, without the pages of mapped files; RSS MB with those that were touched,
which the system takes back when it needs them. While it is built an index takes 2.5 times its size on the disk.

To expect on two cores shared with a dozen other busy programs, so that the wall times are up to six times those of an
idle machine:

    passages   retriever  build s  build CPU s  cold s  warm s  p50 ms  p50 CPU ms  batch q/s  build MB  RSS MB  own MB
    100,000    bm25            61          9.8     2.9     2.1    1.8         1.4      1,373       313     356     108
    100,000    bm25s           96         13.9     3.2     3.4   11.9         3.8         27       469     322     116
    1,000,000  bm25           541         88       1.7     1.3    5.6         1.7        356       590     984      99

on 0.07 and 0.70 GB of corpus and 0.05 and 0.45 GB of index; on a line through both, wiki-18 needs 15 GB and 9 GB, half
an hour of one core and 6.8 GB of memory to build. The extrapolation of a query's time needs corpora of a million and
more: a thousand queries on 0.1 million are answered by NumPy, most of those on a million by the kernel (KERNEL_AFTER in
`raggym_env.retrieval.bm25.retriever`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Passage
from raggym_env.data import Corpus, write_corpus

WIKI_18 = 21_015_324
K, BATCH, QUESTIONS = 5, 32, 1000
TIMES = ("write s", "build s", "build CPU s", "cold s", "warm s", "p50 ms", "p50 CPU ms", "p99 ms", "batch q/s")
COLUMNS = (*TIMES, "corpus GB", "index GB", "build MB", "RSS MB", "own MB")
BASELINES = ("bm25s", "rank-bm25")
Figures = dict[str, float]


# ---- passages and questions ----

BEND, EXPONENT = 7873, 1.77
# Most frequent first, as all words are drawn. The analyser drops them.
STOP_WORDS = ["the", "of", "and", "in", "a", "is", "to", "was", "by", "as", "on", "s", "for", "it", "with", "an"]
STOP_WORDS += ["from", "at", "that", "which", "has", "are", "or", "their", "were", "this", "be", "had", "not", "have"]
SYLLABLES = [onset + vowel for onset in [*"bcdfghjklmnprstvwxz", "br", "ch", "sh", "tr"] for vowel in "aiou"]
REPEATED = 0.22  # of the words of a passage are said again, which makes distinct words as few as in real ones
SPELLED = 1 << 18  # ranks whose words are kept; one word in a hundred is rarer
ROWS = 1024


class Language:
    """Words by their rank: stop words first, then invented ones."""

    def __init__(self) -> None:
        weights = 1 / np.arange(1, BEND + 1)
        self._head = np.cumsum(weights)
        self._tail = 1 / (EXPONENT - 1)  # the weight of all ranks beyond the bend
        words = ["", *STOP_WORDS, *map(spelling, range(len(STOP_WORDS) + 1, SPELLED))]
        self._words = np.array(words, object)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Ranks of words in running text."""
        at = rng.random(count) * (self._head[-1] + self._tail)
        ranks = np.searchsorted(self._head, at) + 1
        rare = np.flatnonzero(ranks > BEND)
        ranks[rare] = self.draw_rare(rng, len(rare))
        return ranks

    def draw_rare(self, rng: np.random.Generator, count: int, least: int = BEND) -> NDArray[np.int64]:
        """Ranks beyond `least` by the law of the tail."""
        shares = np.maximum(rng.random(count), 1e-9)
        return (least * shares ** (-1 / (EXPONENT - 1))).astype(np.int64)

    def words(self, ranks: NDArray[np.int64]) -> list[str]:
        rare = ranks >= SPELLED
        words = self._words[np.where(rare, 0, ranks)]
        words[rare] = list(map(spelling, ranks[rare].tolist()))
        return words.tolist()


def spelling(rank: int) -> str:
    """A word for a rank, of three syllables or more, that no stemmer shortens to another's."""
    syllables = []
    rank += len(SYLLABLES) ** 2
    while rank:
        rank, syllable = divmod(rank, len(SYLLABLES))
        syllables.append(SYLLABLES[syllable])
    return f"{''.join(syllables)}n"


def passages(count: int, seed: int = 0) -> Iterator[Passage]:
    """Passages one by one; a smaller corpus is the beginning of a larger one."""
    language = Language()
    for start in range(0, count, ROWS):
        rng = np.random.default_rng([seed, start])
        titles, texts = batch(language, rng)
        for row in range(min(ROWS, count - start)):
            yield Passage(str(start + row), titles[row], texts[row])


def batch(language: Language, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """`ROWS` titles of two names, and texts that say each name once or twice more."""
    lengths = rng.integers(80, 121, ROWS)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    ranks = language.draw(rng, int(ends[-1]))
    first = np.repeat(starts, lengths)
    earlier = first + (rng.random(len(ranks)) * (np.arange(len(ranks)) - first)).astype(np.int64)
    ranks = np.where(rng.random(len(ranks)) < REPEATED, ranks[earlier], ranks)
    names = language.draw_rare(rng, 2 * ROWS, least=1000).reshape(ROWS, 2)
    for column in (0, 1, 0, 1):
        ranks[starts + rng.integers(0, lengths)] = names[:, column]
    words = language.words(ranks)
    texts = [" ".join(words[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    titles = language.words(names.ravel())
    return [" ".join(titles[row : row + 2]) for row in range(0, 2 * ROWS, 2)], texts


def questions(corpus: Sequence[Passage], count: int, seed: int = 1) -> list[str]:
    language, rng = Language(), np.random.default_rng(seed)
    asked = []
    for row in rng.integers(0, len(corpus), count).tolist():
        title, text = corpus[row].title.split(), corpus[row].text.split()
        words = [
            *title[: rng.integers(1, 3)],
            *rng.choice(text, rng.integers(3, 8)),
            *language.words(language.draw(rng, rng.integers(5, 13))),
        ]
        rng.shuffle(words)
        asked.append(" ".join(words))
    return asked


# ---- steps, each in its own process ----


def write(folder: Path, retriever: str, count: int) -> Figures:
    (folder / "corpus").mkdir()
    seconds, _ = timed(lambda: write_corpus(passages(count), folder / "corpus", origin="benchmarks/scale.py"))
    corpus = Corpus(folder / "corpus")
    (folder / "questions.json").write_text(json.dumps(questions(corpus, QUESTIONS)), encoding="utf-8")
    return {"write s": seconds, "corpus GB": size_gb(folder / "corpus")}


def build(folder: Path, retriever: str, count: int) -> Figures:
    with OwnMemory() as memory:
        seconds, work = timed(lambda: make(retriever, folder))
    size = size_gb(folder / retriever)
    return {"build s": seconds, "build CPU s": work, "build MB": memory.peak, "index GB": size}


def first(folder: Path, retriever: str, count: int) -> Figures:
    """When the first answer is there, for the caller to subtract the time at which it started this process."""
    make(retriever, folder).search(read_questions(folder)[:1], K)
    return {"at": time.time()}


def search(folder: Path, retriever: str, count: int) -> Figures:
    asked = read_questions(folder)
    engine = make(retriever, folder)
    asked = asked[: 20 if retriever == "rank-bm25" else len(asked)]
    engine.search(asked[:1], K)
    singles = [timed(lambda question=question: engine.search([question], K)) for question in asked]
    seconds, work = (np.array(times) for times in zip(*singles, strict=True))
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    resident = {"RSS MB": status_mb("VmRSS"), "own MB": status_mb("RssAnon")}
    batches = [asked[at : at + BATCH] for at in range(0, len(asked), BATCH)]
    engine.search(batches[0], K)  # loads or compiles a kernel
    batched, _ = timed(lambda: [engine.search(batch, K) for batch in batches])
    times = {"p50 ms": p50, "p99 ms": p99, "p50 CPU ms": float(np.median(work)) * 1e3}
    return {**times, "batch q/s": len(asked) / batched, **resident}


STEPS: dict[str, Callable[[Path, str, int], Figures]] = {
    "write": write,
    "build": build,
    "first": first,
    "search": search,
}


def make(name: str, folder: Path) -> Any:
    """The retriever, with its index in `folder`, built first if there is none."""
    from raggym_env import retrieval

    corpus = Corpus(folder / "corpus")
    if name == "bm25s":
        return BM25S(corpus, folder / name)
    return retrieval.make(name, corpus, **({} if name == "rank-bm25" else {"store": folder / name}))


class BM25S:
    """bm25s as its own documentation uses it, on the same terms; its index memory-mapped."""

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        import bm25s

        from raggym_env.retrieval.bm25.analysis import Analyzer

        self._corpus, self._analyzer = corpus, Analyzer()
        if not folder.exists():
            index = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
            index.index(list(self._analyzer.passages(corpus, 3)), show_progress=False)
            index.save(folder, show_progress=False)
        self._index = bm25s.BM25.load(folder, mmap=True)

    def search(self, queries: list[str], k: int) -> list[list[Passage]]:
        terms = list(self._analyzer.batch(queries))
        found, _ = self._index.retrieve(terms, k=k, show_progress=False)
        return [[self._corpus[i] for i in row] for row in found.tolist()]


def read_questions(folder: Path) -> list[str]:
    asked: list[str] = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    return asked


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that passed, and seconds of processors that this process spent: what an idle machine would take."""
    start, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - spent


def size_gb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def status_mb(field: str) -> float:
    """Of this process: `VmRSS` with the pages of mapped files, which the system may take back; `RssAnon` without."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024 / 1e6


class OwnMemory:
    """Samples the memory of this process that is not pages of mapped files, and keeps the peak, in MB."""

    def __enter__(self) -> OwnMemory:
        self.peak = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, status_mb("RssAnon"))


# ---- the whole run ----


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.step:
        print(json.dumps(STEPS[options.step](options.folder, options.retriever[0], options.count)))
        return
    with tempfile.TemporaryDirectory(prefix="raggym-scale-") as temporary:
        compare(options, options.folder or Path(temporary), keep=options.folder is not None)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=float, nargs="+", default=[0.1, 1], help="millions of passages")
    parser.add_argument("--retriever", nargs="+", default=["bm25"])
    parser.add_argument("--baselines", type=float, default=0.1, help="millions of passages up to which to run them")
    parser.add_argument(
        "--folder", type=Path, help="an empty folder to work in, and to keep (default: a temporary one)"
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    return parser


def compare(options: argparse.Namespace, folder: Path, keep: bool) -> None:
    measured: dict[str, list[Figures]] = {name: [] for name in options.retriever}
    row("passages", "retriever", *COLUMNS)
    row(*("---" for _ in range(2 + len(COLUMNS))))
    for count in sorted(round(millions * 1e6) for millions in options.passages):
        home = folder / str(count)
        home.mkdir(parents=True)
        written = step("write", home, count)
        for name in [*options.retriever, *baselines(count, options.baselines * 1e6)]:
            figures = {"passages": count, **written, **measure(name, home, count)}
            measured.setdefault(name, []).append(figures)
            row(f"{count:,}", name, *(shown(figures[column]) for column in COLUMNS))
        if not keep:
            shutil.rmtree(home)
    for name in options.retriever:
        if len(measured[name]) > 1:
            extrapolate(name, *measured[name][-2:])


def baselines(count: int, most: float) -> list[str]:
    from raggym_env.retrieval.rank_bm25 import MAX_PASSAGES

    return [name for name in BASELINES if count <= min(most, MAX_PASSAGES if name == "rank-bm25" else most)]


def measure(name: str, home: Path, count: int) -> Figures:
    figures = step("build", home, count, name)
    forget(home)
    for column in ("cold s", "warm s"):
        start = time.time()
        figures[column] = step("first", home, count, name)["at"] - start
    return {**figures, **step("search", home, count, name)}


def step(name: str, home: Path, count: int, retriever: str = "-") -> Figures:
    command = [sys.executable, __file__, "--step", name, "--folder", str(home)]
    command += ["--count", str(count), "--retriever", retriever]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def forget(folder: Path) -> None:
    """Have the system drop these files from its page cache, so that they are next read from the disk."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def extrapolate(name: str, small: Figures, large: Figures) -> None:
    """What a machine needs for wiki-18: each figure on the straight line through the two largest corpora."""
    print(f"\n{name} on the {WIKI_18:,} passages of wiki-18, if all grows as from {small['passages']:,.0f} on\n")
    row("figure", f"{large['passages']:,.0f}", "grows as", f"{WIKI_18:,}")
    row(*("---" for _ in range(4)))
    ratio = large["passages"] / small["passages"]
    steps = (WIKI_18 - large["passages"]) / (large["passages"] - small["passages"])
    for column in COLUMNS:
        power = -1 if column.endswith("/s") else 1  # a rate: the time of one query is what grows
        low, high = (figures[column] ** power for figures in (small, large))
        far = high + max(high - low, 0) * steps
        exponent = math.log(high / low) / math.log(ratio)
        row(column, shown(large[column]), f"n^{exponent:.2f}", shown(far**power))


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
