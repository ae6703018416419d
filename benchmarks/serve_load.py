"""How many requests a second `raggym serve` answers, and how fast, beside the same retriever without a server.

    python benchmarks/serve_load.py                        # 2WikiMultihopQA where its data is, else the synthetic world
    python benchmarks/serve_load.py --env RAGGym-HotpotQA-v0 --seconds 10
    python benchmarks/serve_load.py --serve --threads 2    # options of raggym serve

The server is `raggym serve` in a process of its own. The clients are connections of another process: each sends one
query, waits for its answer and sends the next. They speak HTTP on bare asyncio streams, since httpx spends several
times as long on a request as the server does, and the figures would be its own. Every answer is compared byte by byte
with what the retriever finds in this process: `errors` counts connections that broke off and answers with another
status than 200, `wrong` the answers that say anything else.

Columns. p50, p99: milliseconds from sending a request to having its answer. together: queries in one search, as a mean.
CPU us: microseconds of CPU that the server spends on a request, which says more than a rate on a busy machine.
of single, of batch: requests/s over what the retriever does in this process, asked one by one and 32 at once.

To expect: no errors and nothing wrong, whatever else the machine does. The rates depend on that; these are of six
runs over 2WikiMultihopQA's 12,003 passages, on two cores with 2 to 7 processes of others for each, the busiest first:

    clients   requests/s     p50 ms      p99 ms      together   CPU us
    1         110 - 1,450    8.2 - 0.4   21 - 6.5    1.0        560 - 1,500
    32        320 - 1,550    97 - 12     170 - 52    11 - 13    335 - 440
    256       315 - 750      600 - 260   1,180 - 610 60 - 77    375 - 500

One process answers with one core at most, so a million over the CPU column bounds what it can do on idle ones.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

from raggym_env import data, retrieval
from raggym_env.cards import env_card
from raggym_env.data import Dataset
from raggym_env.errors import DataNotFound
from raggym_env.retrieval import Retriever
from raggym_env.retrieval.wire import write_results

BATCH, QUERIES = 32, 1000
WARM_UP_SECONDS = 1.0

Exchange = tuple[bytes, bytes]
"""A request as it is sent, and the body that answers it."""


@dataclass
class Load:
    """What some clients met with."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    """Seconds; of right answers only."""
    errors: int = 0
    wrong: int = 0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.latencies, n=100)[percent - 1] if len(self.latencies) > 1 else float("nan")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", help="environment whose corpus, retriever and test questions to take")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number of clients")
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="options of raggym serve; the last one")
    options = parser.parse_args(arguments)

    dataset = load(options.env)
    card = dataset.card
    retriever = retrieval.make(card.retrieval.name, dataset.corpus, **card.retrieval.options)
    queries = list(itertools.islice(itertools.cycle(task.question.text for task in dataset.tasks), QUERIES))
    single, batch = (rate(retriever, queries, options.k, size) for size in (1, BATCH))
    print(f"{card.name}: {card.retrieval.name} over {len(dataset.corpus):,} passages, k={options.k}")
    print(f"without a server: {single:,.0f} queries/s one by one, {batch:,.0f} in batches of {BATCH}\n")

    row("clients", "requests/s", "p50 ms", "p99 ms", "errors", "wrong", "together", "CPU us", "of single", "of batch")
    row(*["---"] * 10)
    with serving([card.name, "--split", "test", *options.serve]) as url:
        exchanges = prepared(url, retriever, queries, options.k)
        for clients in options.clients:
            before = done(url)
            met = under_load(url, exchanges, clients, options.seconds)
            queries, searches, cpu = (now - then for now, then in zip(done(url), before, strict=True))
            row(
                str(clients),
                f"{met.rate:,.0f}",
                f"{1000 * met.percentile(50):.1f}",
                f"{1000 * met.percentile(99):.1f}",
                str(met.errors),
                str(met.wrong),
                f"{queries / searches:.1f}",
                f"{1e6 * cpu / queries:.0f}",
                f"{met.rate / single:.2f}",
                f"{met.rate / batch:.2f}",
            )


def load(env: str | None) -> Dataset:
    if env is not None:
        return data.load(env_card(env), "test")
    try:
        return data.load(env_card("RAGGym-2WikiMultihopQA-v0"), "test")
    except DataNotFound:
        return data.load(env_card("RAGGym-Synth-v0"), "test")


def rate(retriever: Retriever, queries: Sequence[str], k: int, size: int) -> float:
    """Queries a second in this process; the best of three runs, after one that loads and compiles."""
    batches = [queries[start : start + size] for start in range(0, len(queries), size)]
    return len(queries) / min(timed(retriever, batches, k) for _ in range(4))


def timed(retriever: Retriever, batches: Sequence[Sequence[str]], k: int) -> float:
    start = time.perf_counter()
    for batch in batches:
        retriever.search(batch, k)
    return time.perf_counter() - start


@contextmanager
def serving(options: Sequence[str]) -> Iterator[str]:
    """`raggym serve` in a process of its own; gives its URL."""
    command = [sys.executable, "-m", "raggym_env", "serve", *options, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not (found := re.search(r"http://\S+", line)):
            sys.exit(f"raggym serve did not start: {line or 'see above'}")
        try:
            yield found[0]
        finally:
            process.terminate()
            if process.wait(60) != 0:
                sys.exit(f"raggym serve ended with exit code {process.returncode}")


def done(url: str) -> list[float]:
    """Queries, searches and seconds of CPU of the server up to now."""
    with urllib.request.urlopen(url.replace("/retrieve", "/metrics"), timeout=10) as reply:  # noqa: S310  # our own
        values = dict(line.rsplit(" ", 1) for line in reply.read().decode().splitlines())
    names = ("raggym_batch_queries_sum", "raggym_batch_queries_count", "process_cpu_seconds_total")
    return [float(values[name]) for name in names]


def prepared(url: str, retriever: Retriever, queries: Sequence[str], k: int) -> list[Exchange]:
    address = urlsplit(url).netloc
    bodies = [json.dumps({"queries": [query], "topk": k, "return_scores": True}).encode() for query in queries]
    heads = [f"POST /retrieve HTTP/1.1\r\nhost: {address}\r\ncontent-length: {len(body)}\r\n\r\n" for body in bodies]
    answers = [write_results([hits], scores=True) for hits in retriever.search(queries, k)]
    return [(head.encode() + body, answer) for head, body, answer in zip(heads, bodies, answers, strict=True)]


def under_load(url: str, exchanges: list[Exchange], clients: int, seconds: float) -> Load:
    """Run the clients in a process of their own."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    arguments = (there, url, exchanges, clients, seconds)
    process = multiprocessing.get_context("spawn").Process(target=generate, args=arguments)
    process.start()
    met: Load = here.recv()
    process.join()
    return met


def generate(pipe: Connection, url: str, exchanges: list[Exchange], clients: int, seconds: float) -> None:
    pipe.send(asyncio.run(generated(url, exchanges, clients, seconds)))


async def generated(url: str, exchanges: list[Exchange], clients: int, seconds: float) -> Load:
    met = Load(seconds)
    start = time.perf_counter() + WARM_UP_SECONDS
    # Each client begins somewhere else, so that those at one time ask different things.
    orders = (itertools.cycle(exchanges[i * 37 % len(exchanges) :] + exchanges) for i in range(clients))
    await asyncio.gather(*(client(url, order, met, start, start + seconds) for order in orders))
    return met


async def client(url: str, order: Iterator[Exchange], met: Load, start: float, end: float) -> None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        while (sent := time.perf_counter()) < end:
            request, expected = next(order)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            now = time.perf_counter()
            if not head.startswith(b"HTTP/1.1 200 "):
                met.errors += 1
            elif body != expected:
                met.wrong += 1
            elif sent >= start and now <= end:
                met.latencies.append(now - sent)
    except (OSError, asyncio.IncompleteReadError):
        met.errors += 1
    finally:
        writer.close()


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
