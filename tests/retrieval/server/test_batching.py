from __future__ import annotations

import asyncio
import threading

import pytest

from raggym_env.core import Passage
from raggym_env.retrieval import Hit
from raggym_env.retrieval.server.batching import Batcher, Overloaded
from raggym_env.retrieval.server.options import Batching
from raggym_env.retrieval.wire import Limits, SearchRequest


class Gate:
    """Finds one passage named after the query. Records its calls, and waits while not `open`."""

    def __init__(self):
        self.calls = []
        self.entered, self.open = threading.Event(), threading.Event()

    def search(self, queries, k):
        self.calls.append(list(queries))
        self.entered.set()
        self.open.wait(20)
        return [[Hit(Passage(query, query, ""), 1.0)] for query in queries]


def request(*queries, k=1):
    return SearchRequest(queries, k, scores=False)


def start(batcher, *queries, reserve=lambda size: None, **options):
    return asyncio.create_task(batcher.search(request(*queries, **options), queries[0], reserve=reserve))


async def entered(gate):
    await asyncio.to_thread(gate.entered.wait, 20)


def test_queries_of_a_caller_that_was_cancelled_are_not_searched():
    gate = Gate()

    async def run():
        batcher = Batcher(gate, Batching(size=2), Limits())
        first = start(batcher, "first")
        await entered(gate)
        cancelled, kept = start(batcher, *"abcdef", k=2), start(batcher, "kept", k=3)
        await asyncio.sleep(0)
        assert batcher.waiting == 7
        cancelled.cancel()
        gate.open.set()
        await asyncio.gather(first, kept)
        assert batcher.waiting == 0
        batcher.close()

    asyncio.run(run())
    assert gate.calls == [["first"], ["kept"]]


def test_a_search_that_comes_back_late_harms_no_later_one():
    gate = Gate()

    async def run():
        batcher = Batcher(gate, Batching(spares=1), Limits(search_seconds=0.05))
        late = start(batcher, "late")
        await entered(gate)
        with pytest.raises(Exception, match=r"longer than 0\.05 s"):
            await late
        assert (batcher.hanging, batcher.healthy) == (1, True)
        gate.open.set()
        for _ in range(20):
            (row,) = await start(batcher, "next")
            assert b'"next"' in row
        batcher.close()

    asyncio.run(run())


def test_without_a_thread_every_request_is_refused_at_once():
    gate = Gate()

    async def run():
        batcher = Batcher(gate, Batching(spares=0), Limits(search_seconds=0.05))
        with pytest.raises(Exception, match="longer than"):
            await start(batcher, "hang")
        with pytest.raises(Overloaded, match="No thread is left"):
            await start(batcher, "next")
        assert batcher.waiting == 0
        gate.open.set()

    asyncio.run(run())


def test_an_answer_for_which_there_is_no_room_ends_its_request_and_no_other():
    gate = Gate()
    gate.open.set()

    def refuse(size):
        raise Overloaded("full")

    async def run():
        batcher = Batcher(gate, Batching(size=1), Limits())
        with pytest.raises(Overloaded, match="full"):
            await start(batcher, *"abcdefgh", reserve=refuse)
        (row,) = await start(batcher, "next")
        assert b'"next"' in row
        assert batcher.waiting == 0
        batcher.close()

    asyncio.run(run())
    assert len(gate.calls) < 6
