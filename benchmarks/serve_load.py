"""Requests per second and latency of `raggym serve`, compared with the same retriever without a server.

    python benchmarks/serve_load.py                        # 2WikiMultihopQA if its data is here, else Synth
    python benchmarks/serve_load.py --env RAGGym-HotpotQA-v0 --seconds 10
    python benchmarks/serve_load.py --serve --processes 2    # options of raggym serve

The server is `raggym serve` in a separate process. The clients are connections of another process: each sends a
request, waits for its answer and sends the next. They use HTTP on bare sockets, since httpx spends several times as
long on a request as the server does, and would measure itself. Every answer is compared byte by byte with the hits of
the retriever in this process: `errors` counts broken connections and answers with a status other than 200, `wrong` the
answers with other content.

Columns. queries: in a request. p50, p99: milliseconds from sending a request to receiving its answer. together: mean
number of queries in one search. CPU us: microseconds of CPU that the server, all its processes together, spends on a
request and on each of its queries, which says more than a rate on a busy machine. in-process: what the retriever alone
spends on a query in this process, in batches of as many queries and of 32 at least, measured before and after the row.
CPU ratio: the latter divided by the former, which is the server's rate relative to the retriever's where each has a
core of its own. of batch: queries/s relative to the retriever's, as it came out.

Expected: no errors and nothing wrong, whatever the load of the machine. These are the lowest and highest of two to four
runs over 2WikiMultihopQA's 12,003 passages, on two cores with 3 to 7 other busy processes, and below them, in turns
with two of them, the version before the short way (see `raggym_env.retrieval.server.protocol`):

    queries  clients  requests/s    p50 ms     p99 ms     together   CPU us/request   CPU ratio    of batch
    1        1        634-1,456     0.4-0.8    6-8        1          434-726          0.10         0.09-0.13
    1        32       3,824-5,372   5-8        13         26-30      102-108          0.48-0.61    0.48-0.55
    1        256      2,029-3,287   71-106     228-287    96-106     116-161          0.32-0.42    0.21-0.31
    64       4        110-174       24-37      42-60      220-250    3,049-4,161      0.72-1.16    0.69-1.00
    256      4        35-49         80-109     131-273    507-512    11,500-14,915    0.86-1.04    0.60-1.09
    before:
    1        1        423-678       1.0-1.3    6-7        1          931-1,007        0.04-0.05    0.04-0.05
    1        32       950-1,256     23-31      60-197     12-14      449-515          0.08-0.10    0.08-0.09
    1        256      512-826       237-420    468-578    62-66      446-621          0.08-0.10    0.05-0.07
    64       4        81-95         43-46      63-205     247        5,511-5,578      0.53-0.58    0.52-0.56
    256      4        20-21         151-164    311-337    512        21,122-23,797    0.48-0.61    0.30-0.55

A ratio above 1 is no mistake: the server reads and writes each passage of bm25 once, the retriever reads it again for
every hit.

A second process (`--serve --processes 2`) had no core to itself there, and brought nothing certain: 162 and 162
requests of 64 queries a second after 148 and 174, and over HotpotQA's 56,327 passages 51 and 73 after 48 and 76. With
single queries it costs up to half of the rate, since each process batches what it gets. Use it where cores are idle.

Then requests for much, at the default limits. The first asks for more passages than the server sends, and must be
refused within 50 ms (it is sent ten times, and their median is printed); the second for nearly as many as it sends; the
third, too, from a client that does not read its answer. Meanwhile a connection asks for /health again and again. peak
MB: the largest resident memory of the server so far, where the system tells it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import re
import selectors
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
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
    """The answers that clients got."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    """Seconds, of right answers only."""
    errors: int = 0
    wrong: int = 0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.latencies, n=100)[percent - 1] if len(self.latencies) > 1 else float("nan")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", help="environment whose corpus, retriever and test questions to use")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 256], help="that send one query a request")
    parser.add_argument("--many", type=int, nargs="*", default=[64, 256], help="queries in a request of 4 clients")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row")
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--skip-large", action="store_true", help="leave out the requests for much")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="options of raggym serve; must come last")
    options = parser.parse_args(arguments)

    dataset = load(options.env)
    card = dataset.card
    retriever = retrieval.make(card.retrieval.name, dataset.corpus, **card.retrieval.options)
    texts = list(itertools.islice(itertools.cycle(task.question.text for task in dataset.tasks), QUERIES))
    print(f"{card.name}: {card.retrieval.name} over {len(dataset.corpus):,} passages, k={options.k}\n")
    row("queries", "clients", *COLUMNS)
    row(*["---"] * (len(COLUMNS) + 2))
    with serving([card.name, "--split", "test", *options.serve]) as (url, process):
        for size, clients in [*((1, clients) for clients in options.clients), *((size, 4) for size in options.many)]:
            exchanges = prepare(url, retriever, texts, options.k, size)
            before = rate(retriever, texts, options.k, max(size, BATCH))
            start = counters(url)
            result = under_load(url, exchanges, clients, options.seconds)
            spent = [after - before for after, before in zip(counters(url), start, strict=True)]
            after = rate(retriever, texts, options.k, max(size, BATCH))
            row(str(size), str(clients), *cells(result, size, spent, (before, after)))
        if not options.skip_large:
            large_requests(url, texts, process.pid)


COLUMNS = (
    *("requests/s", "p50 ms", "p99 ms", "errors", "wrong", "together", "CPU us/request", "CPU us/query"),
    *("in-process CPU us/query", "CPU ratio", "of batch"),
)


def cells(result: Load, size: int, spent: Sequence[float], rates: Sequence[tuple[float, float]]) -> list[str]:
    """Return the cells of a row. `rates` were measured before and after it, since the machine's speed changes."""
    queries, searches, cpu = spent
    per_second, cpu_per_query = (sum(values) / len(values) for values in zip(*rates, strict=True))
    return [
        f"{result.rate:,.0f}",
        f"{1000 * result.percentile(50):.1f}",
        f"{1000 * result.percentile(99):.1f}",
        str(result.errors),
        str(result.wrong),
        f"{queries / searches:.1f}",
        f"{1e6 * cpu / queries * size:,.0f}",
        f"{1e6 * cpu / queries:.1f}",
        f"{1e6 * cpu_per_query:.1f}",
        f"{cpu_per_query * queries / cpu:.2f}",
        f"{result.rate * size / per_second:.2f}",
    ]


def large_requests(url: str, queries: Sequence[str], pid: int) -> None:
    print()
    row("queries x topk", "status", "ms", "answer MB", "/health: answers", "p50 ms", "max ms", "peak MB")
    row(*["---"] * 8)
    texts = list(itertools.islice(itertools.cycle(queries), 1024))
    for topk, times in ((1000, 10), (100, 1), (100, 0)):
        answers = asyncio.run(ask_for_much(url, texts, topk, times))
        row(f"{len(texts):,} x {topk:,}{'' if times else ', not read'}", *answers, peak_memory(pid))


def load(env: str | None) -> Dataset:
    if env is not None:
        return data.load(env_card(env), "test")
    try:
        return data.load(env_card("RAGGym-2WikiMultihopQA-v0"), "test")
    except DataNotFound:
        return data.load(env_card("RAGGym-Synth-v0"), "test")


def rate(retriever: Retriever, queries: Sequence[str], k: int, size: int) -> tuple[float, float]:
    """Return queries per second in this process and CPU seconds a query: the best of four runs, the first compiles."""
    batches = [queries[start : start + size] for start in range(0, len(queries), size)]
    walls, cpus = zip(*(timed(retriever, batches, k) for _ in range(4)), strict=True)
    return len(queries) / min(walls), min(cpus) / len(queries)


def timed(retriever: Retriever, batches: Sequence[Sequence[str]], k: int) -> tuple[float, float]:
    start, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        retriever.search(batch, k)
    return time.perf_counter() - start, time.process_time() - cpu


@contextmanager
def serving(options: Sequence[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `raggym serve` in a separate process; yields its URL and the process."""
    command = [sys.executable, "-m", "raggym_env", "serve", *options, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not (url := re.search(r"http://\S+", line)):
            sys.exit(f"raggym serve did not start: {line or 'see above'}")
        try:
            yield url[0], process
        finally:
            process.terminate()
            if process.wait(60) != 0:
                sys.exit(f"raggym serve ended with exit code {process.returncode}")


def counters(url: str) -> list[float]:
    """Return the server's numbers of queries and searches and its seconds of CPU time so far."""
    with urllib.request.urlopen(url.replace("/retrieve", "/metrics"), timeout=10) as reply:  # noqa: S310  # our server
        values = dict(line.rsplit(" ", 1) for line in reply.read().decode().splitlines())
    names = ("raggym_batch_queries_sum", "raggym_batch_queries_count", "process_cpu_seconds_total")
    return [float(values[name]) for name in names]


def prepare(url: str, retriever: Retriever, queries: Sequence[str], k: int, size: int) -> list[Exchange]:
    """Return requests of so many queries each, and their answers."""
    hits = retriever.search(queries, k)
    starts = range(0, len(queries) - size + 1, size)
    return [(request(url, queries[i : i + size], k), write_results(hits[i : i + size], scores=True)) for i in starts]


def request(url: str, queries: Sequence[str], k: int) -> bytes:
    body = json.dumps({"queries": queries, "topk": k, "return_scores": True}).encode()
    head = f"POST /retrieve HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def under_load(url: str, exchanges: list[Exchange], clients: int, seconds: float) -> Load:
    """Run the clients in a separate process."""
    receiver, sender = multiprocessing.get_context("spawn").Pipe()
    arguments = (sender, url, exchanges, clients, seconds)
    process = multiprocessing.get_context("spawn").Process(target=run_clients, args=arguments)
    process.start()
    result: Load = receiver.recv()
    process.join()
    return result


def run_clients(pipe: Connection, url: str, exchanges: list[Exchange], clients: int, seconds: float) -> None:
    pipe.send(gather_clients(url, exchanges, clients, seconds))


def gather_clients(url: str, exchanges: list[Exchange], clients: int, seconds: float) -> Load:
    result = Load(seconds)
    start = time.perf_counter() + WARM_UP_SECONDS
    with selectors.DefaultSelector() as selector:
        for number in range(clients):
            # Each client starts at another query, so that at any time they send different ones.
            first = number * 37 % len(exchanges)
            client = Client(url, itertools.cycle(exchanges[first:] + exchanges[:first]))
            selector.register(client.socket, selectors.EVENT_READ, client)
        while time.perf_counter() < start + seconds:
            for key, _ in selector.select(0.1):
                try:
                    key.data.read(result, start)
                except (OSError, ValueError):
                    result.errors += 1
                    selector.unregister(key.fileobj)
    return result


class Client:
    """A connection that sends a request, waits for its answer and sends the next. As little work as possible."""

    def __init__(self, url: str, exchanges: Iterator[Exchange]) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.exchanges = exchanges
        self.send()

    def send(self) -> None:
        request, self.expected = next(self.exchanges)
        self.answer = b""
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def read(self, result: Load, start: float) -> None:
        if not (data := self.socket.recv(1 << 20)):
            raise ConnectionError("the server closed the connection")
        self.answer = self.answer + data if self.answer else data
        end = self.answer.index(b"\r\n\r\n") + 4
        length = re.search(rb"content-length: (\d+)", self.answer[:end], re.IGNORECASE)
        if len(self.answer) - end < int(length[1] if length else 0):
            return
        if not self.answer.startswith(b"HTTP/1.1 200 "):
            result.errors += 1
        elif self.answer[end:] != self.expected:
            result.wrong += 1
        elif self.sent >= start:
            result.latencies.append(time.perf_counter() - self.sent)
        self.send()


async def receive(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Return the status and the body of an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return head.split()[1].decode(), await reader.readexactly(int(length[1]) if length else 0)


async def ask_for_much(url: str, queries: Sequence[str], topk: int, times: int) -> list[str]:
    """Return the cells of a row: how a large request was answered, so many times, and /health in the meantime.

    If `times` is 0, it is sent once, and its answer is not read.
    """
    health = asyncio.create_task(watch_health(url))
    await asyncio.sleep(0.2)
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    status, body, seconds = "-", b"", []
    for _ in range(times):
        start = time.perf_counter()
        writer.write(request(url, queries, topk))
        status, body = await receive(reader)
        seconds.append(time.perf_counter() - start)
    if not times:
        writer.write(request(url, queries, topk))
        await asyncio.sleep(8)
    writer.close()
    await asyncio.sleep(0.2)
    health.cancel()
    latencies = await health
    answer = [status, f"{1000 * statistics.median(seconds):,.1f}" if seconds else "-", f"{len(body) / 1e6:.1f}"]
    return [*answer, str(len(latencies)), *(f"{1000 * x:.1f}" for x in (statistics.median(latencies), max(latencies)))]


async def watch_health(url: str) -> list[float]:
    """Ask for /health every 10 ms until cancelled; return the seconds that each answer took."""
    parts, latencies = urlsplit(url), []
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        while True:
            start = time.perf_counter()
            writer.write(f"GET /health HTTP/1.1\r\nhost: {parts.netloc}\r\n\r\n".encode())
            await receive(reader)
            latencies.append(time.perf_counter() - start)
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        return latencies
    finally:
        writer.close()


def peak_memory(pid: int) -> str:
    try:
        match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return "-"
    return f"{int(match[1]) / 1000:,.0f}" if match else "-"


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
