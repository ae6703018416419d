"""Memory and time to open a corpus and to read from it.

    python benchmarks/corpus_memory.py [--passages 2000000] [--folder DIR]

Stores a generated corpus (about 400 characters a passage), opens it in a fresh process and reads 1,000 passages at
random positions. Opening must not depend on the number of passages: the file is mapped, not read.

Expected with 2,000,000 passages (837 MiB), from two runs on 2 cores (AMD EPYC) that others were using too:
written in 29 and 44 s with 90 MiB resident; opened in 1 and 4 ms, with 75 MiB resident before and 77 MiB
after. 1,000 random reads took 49 and 87 us per read the first time, 8 and 12 us the second. They leave 292 MiB
resident, of which 2 MiB are private: the rest are pages of the mapped file, which the system takes
back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from raggym_env.core import Passage
from raggym_env.data import Corpus, write_corpus

READS = 1000


def passages(count: int) -> Iterator[Passage]:
    """Yield generated passages of 57 random words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 10))) for _ in range(5000)]
    for number in range(count):
        yield Passage(f"p{number}", f"Title {number}", " ".join(draw.choices(words, k=57)))


def memory_mib(kind: str = "VmRSS") -> float:
    """Return the resident memory of this process; Linux only. `RssAnon` is the part without mapped files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{kind}:")[2].split()[0]) / 1024


def measure(folder: Path) -> dict[str, float]:
    """Return the figures of opening a corpus and reading from it. Runs in a new process."""
    import pyarrow.ipc  # noqa: F401  imported first, since its memory does not belong to the corpus

    resident, private = memory_mib(), memory_mib("RssAnon")
    start = time.perf_counter()
    corpus = Corpus(folder)
    opened = time.perf_counter()
    resident_open = memory_mib()
    rows = random.Random(1).sample(range(len(corpus)), READS)
    # The first reads load pages from the disk; repeated, they find them in memory.
    first = _seconds(corpus, rows)
    return {
        "passages": len(corpus),
        "rss_before_mib": resident,
        "rss_after_open_mib": resident_open,
        "rss_after_reads_mib": memory_mib(),
        "private_growth_mib": memory_mib("RssAnon") - private,
        "open_ms": (opened - start) * 1e3,
        "first_read_us": first / READS * 1e6,
        "repeated_read_us": _seconds(corpus, rows) / READS * 1e6,
    }


def _seconds(corpus: Corpus, rows: list[int]) -> float:
    start = time.perf_counter()
    for row in rows:
        corpus[row]
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, help="folder for the temporary corpus")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        start = time.perf_counter()
        write_corpus(passages(options.passages), Path(folder), origin="benchmark")
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
        print(f"{options.passages:,} passages, {size:,.0f} MiB, written in {seconds:.1f} s")
        print(f"resident after writing: {memory_mib():.0f} MiB")
        # A new process, since writing has used memory and filled the caches of this one.
        command = [sys.executable, __file__, "--measure", folder]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name, value in result.items():
        print(f"{name:20} {value:,.1f}")


if __name__ == "__main__":
    main()
