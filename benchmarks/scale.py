"""How building, opening and searching grow with the corpus, up to what one machine needs for wiki-18.

    python benchmarks/scale.py                              # bm25 on 0.1, 0.3 and 1 million generated passages
    python benchmarks/scale.py --passages 0.3 1 5           # 10 GB of disk, 15 CPU minutes
    python benchmarks/scale.py --kernels --passages 0.012 0.1 0.3 1     # the kernel of bm25 against bm25s with numba
    python benchmarks/scale.py --retriever bm25 lucene      # any name of raggym_env.retrieval that has a store
    python benchmarks/scale.py --baseline 0.2               # rank-bm25 too, on up to 0.2 million

Every step runs in a separate process, so that its memory is measured alone. Linux only: memory is read from /proc.

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

Columns. build CPU s, p50 CPU ms: processor time, which is what an idle machine would take. cold, warm: from the start
of a new Python to its first answer, imports included, with and without the corpus and the index dropped from the page
cache. p50, p99: one query at a time, k=5, passages included. batch q/s: 32 at once. build MB, own MB: the peak while
building, and after 1,000 queries, without the pages of mapped files; RSS MB with those that were touched, which the
system takes back when it needs them. While it is built an index takes 2.5 times its size on the disk.

To expect on two cores shared with other busy programs (wall times are several times those of an idle machine):

    passages   retriever  build s  build CPU s  cold s  warm s  p50 ms  p50 CPU ms  batch q/s  build MB  RSS MB  own MB
    100,000    bm25            18           11     1.3     0.8    0.35        0.35      2,682       363     336      92
    300,000    bm25            51           29     1.8     1.5    0.61        0.60      1,761       430     531      93
    1,000,000  bm25           157           83     0.8     1.0    1.07        1.04        813       586     991      94

on 0.07, 0.21 and 0.70 GB of corpus and 0.05, 0.14 and 0.45 GB of index. On the line through the three, wiki-18 needs
15 GB and 9 GB, half an hour of one core and 5.5 GB of memory to build, and 17 ms of one core for a query (p99: 0.4 s).
The line through the two smaller sizes gives 1.5 times the p50 and p99 of the million, 0.6 to 1.2 times its build times
and memory, its sizes within 3 %, and nothing of cold and warm, which the busy machine decides. The kernel is half
of p50; the rest is probably mostly the check of a term's postings when first looked up, which a long-running process is
spared. 5 million were not tried: the second command above does it, and with --folder goes on where it was stopped.

--kernels, bm25s with numba on the same index, k=5, thousands of queries per CPU second, from the terms' numbers on (the
largest difference between scores was 4e-6, from the float32 sums of bm25s):

    passages    batch   bm25s   ratio   single   bm25s   ratio   postings   MaxScore adds   looks up   blocks of 32 left
    12,000       85.9    44.8     1.9     44.2    26.7     1.7      3,340             812        497               0.43
    100,000      18.7     7.3     2.6     15.1     6.3     2.4     27,110           5,361      3,467               0.27
    300,000       6.3     2.4     2.6      5.1     2.0     2.5     84,556          14,246      8,038               0.20
    1,000,000     2.1    0.61     3.4      1.9    0.56     3.4    301,172          43,230     24,097               0.15

Dynamic pruning: the last columns are what it would leave to do if it knew the k-th best score from the start. A posting
is added in 1.2 ns; a passage is looked up in the other terms in some 100 ns. MaxScore in the same windows, tried,
answered 839 queries per CPU second over 300 thousand, a quarter of what adding all did (3,470, before it was tuned).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
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
Figures = dict[str, float]


# ---- passages and questions ----

BEND, EXPONENT = 7873, 1.77
# Most frequent first, as all words are drawn. The analyser drops them.
STOP_WORDS = ["the", "of", "and", "in", "a", "is", "to", "was", "by", "as", "on", "s", "for", "it", "with", "an"]
STOP_WORDS += ["from", "at", "that", "which", "has", "are", "or", "their", "were", "this", "be", "had", "not", "have"]
SYLLABLES = [onset + vowel for onset in [*"bcdfghjklmnprstvwxz", "br", "ch", "sh", "tr"] for vowel in "aiou"]
REPEATED = 0.22  # share of words that repeat one of their passage, which makes distinct words as few as in real ones
SPELLED = 1 << 18  # ranks whose words are stored in a table; one word in a hundred is rarer
ROWS = 1024  # passages generated at once; part of the seed, so that a smaller corpus is the beginning of a larger one


class Language:
    """Words by their rank: stop words first, then invented ones."""

    def __init__(self) -> None:
        # Up to the bend the weights are summed; beyond it the power law has an integral and an inverse.
        weights = 1 / np.arange(1, BEND + 1)
        self._head = np.cumsum(weights)
        self._tail = 1 / (EXPONENT - 1)  # the weight of all ranks beyond the bend
        words = ["", *STOP_WORDS, *map(spelling, range(len(STOP_WORDS) + 1, SPELLED))]
        self._words = np.array(words, object)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Draw the ranks of words in running text."""
        points = rng.random(count) * (self._head[-1] + self._tail)
        ranks = np.searchsorted(self._head, points) + 1
        rare = np.flatnonzero(ranks > BEND)
        ranks[rare] = self.draw_rare(rng, len(rare))
        return ranks

    def draw_rare(self, rng: np.random.Generator, count: int, least: int = BEND) -> NDArray[np.int64]:
        """Draw ranks beyond `least` by the law of the tail."""
        shares = np.maximum(rng.random(count), 1e-9)  # 0 would be an infinite rank
        return (least * shares ** (-1 / (EXPONENT - 1))).astype(np.int64)

    def words(self, ranks: NDArray[np.int64]) -> list[str]:
        """Return the words of ranks."""
        rare = ranks >= SPELLED
        words = self._words[np.where(rare, 0, ranks)]
        words[rare] = list(map(spelling, ranks[rare].tolist()))
        return words.tolist()


def spelling(rank: int) -> str:
    """Return the word of a rank: three syllables or more, in a form that no stemmer shortens to another word's."""
    syllables = []
    rank += len(SYLLABLES) ** 2  # the numbers below would give words of one or two syllables
    while rank:
        rank, syllable = divmod(rank, len(SYLLABLES))
        syllables.append(SYLLABLES[syllable])
    return f"{''.join(syllables)}n"


def passages(count: int, seed: int = 0) -> Iterator[Passage]:
    """Yield passages one by one; a smaller corpus is the beginning of a larger one."""
    language = Language()
    for start in range(0, count, ROWS):
        rng = np.random.default_rng([seed, start])
        titles, texts = batch(language, rng)
        for row in range(min(ROWS, count - start)):
            yield Passage(str(start + row), titles[row], texts[row])


def batch(language: Language, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Return `ROWS` titles of two names, and texts that contain each name once or twice."""
    lengths = rng.integers(80, 121, ROWS)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    ranks = language.draw(rng, int(ends[-1]))
    # A word that repeats one of its passage repeats one at an earlier place.
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
    """Return questions about randomly drawn passages: words of the title, of the text, and others."""
    language, rng = Language(), np.random.default_rng(seed)
    texts = []
    for row in rng.integers(0, len(corpus), count).tolist():
        title, text = corpus[row].title.split(), corpus[row].text.split()
        words = [
            *title[: rng.integers(1, 3)],
            *rng.choice(text, rng.integers(3, 8)),
            *language.words(language.draw(rng, rng.integers(5, 13))),
        ]
        rng.shuffle(words)
        texts.append(" ".join(words))
    return texts


# ---- steps, each in a separate process ----


def write(folder: Path, retriever: str, count: int) -> Figures:
    shutil.rmtree(folder / "corpus", ignore_errors=True)  # of a run that was stopped
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
    """Return the time of the first answer; the caller subtracts the time at which it started this process."""
    make(retriever, folder).search(read_questions(folder)[:1], K)
    return {"at": time.time()}


def search(folder: Path, retriever: str, count: int) -> Figures:
    queries = read_questions(folder)
    engine = make(retriever, folder)
    if retriever == "bm25" and importlib.util.find_spec("numba"):
        engine.backend = "numba"  # as "auto" comes to after a while, at a time that depends on the size of the corpus
    queries = queries[: 20 if retriever == "rank-bm25" else len(queries)]  # a query takes it about a second
    engine.search(queries[:1], K)
    singles = [timed(lambda query=query: engine.search([query], K)) for query in queries]
    seconds, work = (np.array(times) for times in zip(*singles, strict=True))
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    resident = {"RSS MB": status_mb("VmRSS"), "own MB": status_mb("RssAnon")}
    batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    engine.search(batches[0], K)  # loads or compiles a kernel
    batched, _ = timed(lambda: [engine.search(batch, K) for batch in batches])
    times = {"p50 ms": p50, "p99 ms": p99, "p50 CPU ms": float(np.median(work)) * 1e3}
    return {**times, "batch q/s": len(queries) / batched, **resident}


def kernels(folder: Path, retriever: str, count: int) -> Figures:
    """Search with the numba kernel and with bm25s over the same index, for the same terms, in one process."""
    import bm25s

    from raggym_env.retrieval.bm25.retriever import _search_numba as search_numba
    from raggym_env.retrieval.bm25.retriever import _search_numpy as search_numpy

    engine = make("bm25", folder)
    index = engine._index
    queries = [terms for texts in engine.analyzer.batch(read_questions(folder)) if (terms := index.ids(texts))]
    peer = bm25s.BM25.load(index.folder, mmap=False)
    peer.backend = "numba"

    def search_peer(batch: list[list[int]]) -> Any:
        return peer.retrieve(batch, k=K, show_progress=False, backend_selection="numba")

    ours, theirs = search_numba(index, queries, K), search_peer(queries).scores.tolist()
    rows = zip((scores for _, scores in ours), theirs, strict=True)
    figures = {"max difference": max(abs(a - b) for row in rows for a, b in zip(*row, strict=False))}
    for label, size in (("batch", BATCH), ("single", 1)):
        batches = [queries[start : start + size] for start in range(0, len(queries), size)]
        runs: list[Callable[[], Any]] = [
            lambda batches=batches: [search_numba(index, batch, K) for batch in batches],
            lambda batches=batches: [search_peer(batch) for batch in batches],
        ]
        # In turn, and the best of five: other programs disturb both alike.
        times = np.array([[timed(run)[1] for run in runs] for _ in range(5)]).min(axis=0)
        figures |= {f"{label} q/CPU s": len(queries) / times[0], f"{label} bm25s": len(queries) / times[1]}
        figures[f"{label} ratio"] = times[1] / times[0]
    figures["NumPy"] = 100 / timed(lambda: [search_numpy(index, terms, K) for terms in queries[:100]])[1]
    return {**figures, **pruning(index, queries[:60])}


def pruning(index: Any, queries: list[list[int]]) -> Figures:
    """Return what dynamic pruning would leave to do if it knew the k-th best score from the start, as means.

    MaxScore adds the postings of those terms without which no passage can be among the best, and looks up the other
    terms in every passage among these that can. Block-max pruning searches the blocks of 32 passages whose bound, the
    sum of the highest scores of the terms in the block, reaches the k-th best score.
    """
    rows = []
    for terms in queries:
        spans = [slice(*index.starts[term : term + 2].tolist()) for term in terms]
        spans.sort(key=lambda span: -index.scores[span].max())
        highest = np.array([index.scores[span].max() for span in spans], np.float64)
        sums, bounds = np.zeros(index.passages), np.zeros(-(-index.passages // 32))
        for span in spans:
            sums[index.positions[span]] += index.scores[span]
            blocks, places = np.unique(index.positions[span] // 32, return_index=True)
            bounds[blocks] += np.maximum.reduceat(index.scores[span], places)
        least = np.partition(sums, -K)[-K]
        rest = np.append(np.cumsum(highest[::-1])[::-1], 0)
        needed = int(np.argmax(rest < least))  # the terms after these can be left out
        partial = np.zeros(index.passages)
        for span in spans[:needed]:
            partial[index.positions[span]] += index.scores[span]
        looked_up = ((partial > 0) & (partial + rest[needed] >= least)).sum() if needed < len(spans) else 0
        sizes = [span.stop - span.start for span in spans]
        rows.append((sum(sizes), sum(sizes[:needed]), looked_up, (bounds >= least).mean()))
    names = ("postings", "MaxScore adds", "MaxScore looks up", "blocks of 32 left")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


STEPS: dict[str, Callable[[Path, str, int], Figures]] = {
    "write": write,
    "build": build,
    "first": first,
    "search": search,
    "kernels": kernels,
}


UNSTORED = ("first", "kernels", "search")  # quick, and wanted anew each time


def make(name: str, folder: Path) -> Any:
    """Create the retriever, with its index in `folder`, built first if it is missing."""
    from raggym_env import retrieval  # here, since the time to import it counts for the first answer

    corpus = Corpus(folder / "corpus")
    return retrieval.make(name, corpus, **({} if name == "rank-bm25" else {"store": folder / name}))


def read_questions(folder: Path) -> list[str]:
    texts: list[str] = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    return texts


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the wall time and the processor time of `work`, in seconds."""
    start, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - spent


def size_gb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def status_mb(field: str) -> float:
    """Return the memory of this process: `VmRSS` with the pages of mapped files, `RssAnon` without."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024 / 1e6


class OwnMemory:
    """Samples the memory of this process that is not pages of mapped files; `peak` is in MB."""

    def __enter__(self) -> OwnMemory:
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, status_mb("RssAnon"))


# ---- the whole run ----


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.step:
        print(json.dumps(STEPS[options.step](options.folder, options.retriever[0], options.count)))
        return
    with tempfile.TemporaryDirectory(prefix="raggym-scale-") as temporary:
        folder, keep = options.folder or Path(temporary), options.folder is not None
        run = compare_kernels if options.kernels else compare
        run(options, folder, keep)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=float, nargs="+", default=[0.1, 0.3, 1], help="millions of passages")
    parser.add_argument("--retriever", nargs="+", default=["bm25"])
    parser.add_argument("--baseline", type=float, default=0.1, help="millions of passages up to which to run rank-bm25")
    parser.add_argument(
        "--folder", type=Path, help="folder to work in and to go on in, not deleted (default: temporary)"
    )
    parser.add_argument("--kernels", action="store_true", help="compare the numba kernel of bm25 with bm25s instead")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    return parser


def compare(options: argparse.Namespace, folder: Path, keep: bool) -> None:
    from raggym_env.retrieval.rank_bm25 import MAX_PASSAGES

    measured: dict[str, list[Figures]] = {name: [] for name in options.retriever}
    row("passages", "retriever", *COLUMNS)
    row(*("---" for _ in range(2 + len(COLUMNS))))
    for count in sorted(round(millions * 1e6) for millions in options.passages):
        home = prepare(folder, count)
        written = step("write", home, count)
        baseline = ["rank-bm25"] if count <= min(options.baseline * 1e6, MAX_PASSAGES) else []
        for name in [*options.retriever, *baseline]:
            figures = {"passages": count, **written, **measure(name, home, count)}
            measured.setdefault(name, []).append(figures)
            row(f"{count:,}", name, *(cell(figures[column]) for column in COLUMNS))
        if not keep:
            shutil.rmtree(home)
    for name in options.retriever:
        if len(measured[name]) > 1:
            extrapolate(name, measured[name])


def compare_kernels(options: argparse.Namespace, folder: Path, keep: bool) -> None:
    """Print one column a size: the kernel of bm25, bm25s and what dynamic pruning would leave to do."""
    columns: list[Figures] = []
    for count in sorted(round(millions * 1e6) for millions in options.passages):
        home = prepare(folder, count)
        step("build", home, count, "bm25")
        columns.append({"passages": count, **step("kernels", home, count, "bm25")})
        if not keep:
            shutil.rmtree(home)
    for name in columns[0]:
        row(name, *(cell(figures[name]) for figures in columns))


def prepare(folder: Path, count: int) -> Path:
    """Write a corpus and its questions, and return their folder."""
    home = folder / str(count)
    home.mkdir(parents=True, exist_ok=True)
    step("write", home, count)
    return home


def measure(name: str, home: Path, count: int) -> Figures:
    """Return all figures of one retriever on one corpus."""
    figures = step("build", home, count, name)
    forget(home)
    for column in ("cold s", "warm s"):
        start = time.time()
        figures[column] = step("first", home, count, name)["at"] - start
    return {**figures, **step("search", home, count, name)}


def step(name: str, home: Path, count: int, retriever: str = "-") -> Figures:
    """Run one of `STEPS` in a new process and return its figures, or those of an earlier run here."""
    done = home / f"{name}-{retriever}.json"
    if done.exists():
        stored: Figures = json.loads(done.read_text(encoding="utf-8"))
        return stored
    command = [sys.executable, __file__, "--step", name, "--folder", str(home)]
    command += ["--count", str(count), "--retriever", retriever]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(process.stdout.splitlines()[-1])  # libraries may print before it
    if name not in UNSTORED:
        done.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def forget(folder: Path) -> None:
    """Drop these files from the page cache, so that they are next read from the disk."""
    os.sync()  # pages that are not yet written would stay
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def extrapolate(name: str, measured: Sequence[Figures]) -> None:
    """Print what a machine needs for wiki-18: each figure on the straight line through all sizes.

    "check" is what the line through all sizes but the largest gives for the largest, over what was measured.
    """
    sizes = np.array([figures["passages"] for figures in measured])
    print(f"\n{name} on the {WIKI_18:,} passages of wiki-18, on the line through {len(sizes)} sizes\n")
    row("figure", *(f"{size:,.0f}" for size in sizes), "check", f"{WIKI_18:,}")
    row(*("---" for _ in range(len(sizes) + 3)))
    for column in COLUMNS:
        power = -1 if column.endswith("/s") else 1  # a rate: the time of one query is what grows
        values = np.array([figures[column] for figures in measured]) ** power
        check = f"{(line(sizes[:-1], values[:-1], sizes[-1]) / values[-1]) ** power:.2f}" if len(sizes) > 2 else "-"
        far = cell(line(sizes, values, WIKI_18) ** power)
        row(column, *(cell(figures[column]) for figures in measured), check, far)


def line(sizes: NDArray[np.float64], values: NDArray[np.float64], size: float) -> float:
    """Return the value at a size on the line with the least relative errors, which never falls with the size."""
    slope, start = np.polyfit(sizes, values, 1, w=1 / values)
    return float(start + slope * size) if slope > 0 else float(values.max())


def cell(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
