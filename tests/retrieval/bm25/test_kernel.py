from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from raggym_env.core import Passage
from raggym_env.retrieval.bm25 import kernel
from raggym_env.retrieval.bm25.retriever import BM25Retriever

Postings = list[tuple[list[int], list[float]]]


def search(postings: Postings, queries: list[list[int]], k: int, best=kernel.best) -> list[list[tuple[int, float]]]:
    starts = np.cumsum([0, *(len(places) for places, _ in postings)]).astype(np.int64)
    positions = np.array([place for places, _ in postings for place in places], np.int32)
    scores = np.array([score for _, values in postings for score in values], np.float32)
    ids = np.array([i for query in queries for i in query], np.int64)
    ends = np.cumsum([0, *map(len, queries)]).astype(np.int64)
    rows, sums, counts = best(ids, ends, starts, positions, scores, k)
    return [list(zip(row[:n], row_sums[:n], strict=True)) for row, row_sums, n in zip(rows.tolist(), sums.tolist(),
            counts.tolist(), strict=True)]  # fmt: skip


def full_sort(postings: Postings, query: list[int], k: int) -> list[tuple[int, float]]:
    sums: dict[int, float] = {}
    for term in query:
        for place, score in zip(*postings[term], strict=True):
            sums[place] = sums.get(place, 0.0) + float(np.float32(score))
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:k]


# Around the bounds of windows and chunks, and far apart; few values, so that sums are often equal; and values so far
# apart that a sum depends on the order of its terms.
edges = [bound + step for bound in (0, 64, 4096, 8192, 40_960, 2**31 - 2) for step in (-1, 0, 1)]
place = st.one_of(st.sampled_from([edge for edge in edges if edge >= 0]), st.integers(0, 9000))
score = st.sampled_from([0.5, 1.0, 1.5, 3.0, 1e-30, 0.1, 0.3, 1e8])
term = st.lists(st.tuples(place, score), min_size=1, max_size=60, unique_by=lambda item: item[0]).map(
    lambda items: tuple(map(list, zip(*sorted(items), strict=True)))
)


@settings(max_examples=150, deadline=None)
@given(st.lists(term, min_size=1, max_size=5), st.data(), st.integers(1, 80))
def test_hits_are_the_best_of_a_full_sort_wherever_postings_are(postings, data, k):
    queries = data.draw(st.lists(st.lists(st.integers(0, len(postings) - 1), max_size=6), max_size=4))
    assert search(postings, queries, k) == [full_sort(postings, query, k) for query in queries]


@pytest.mark.parametrize("k", [1, 5, 256])
@pytest.mark.parametrize("density", [0.001, 0.05, 0.9])
def test_windows_with_few_and_with_many_postings_give_the_best_of_a_full_sort(density, k):
    rng = np.random.default_rng(k)
    passages = 3 * kernel.WINDOW + 17
    postings = []
    for _ in range(6):
        places = np.flatnonzero(rng.random(passages) < density).tolist()
        postings.append((places, rng.integers(1, 4, len(places)).astype(float).tolist()))  # equal sums everywhere
    queries = [[0, 1, 2], [3], [], [5, 4, 5, 0]]
    assert search(postings, queries, k) == [full_sort(postings, query, k) for query in queries]


def test_the_kernel_is_compiled_without_a_folder_for_compiled_code(monkeypatch):
    import numba

    def njit(*, nogil, cache=False):
        def compiled(function):
            if cache:
                raise RuntimeError("cannot cache function: no locator available")
            return function

        return compiled

    monkeypatch.setattr(numba, "njit", njit)
    spec = importlib.util.spec_from_file_location("kernel_without_cache", kernel.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    postings = [([0, 2, 5000], [1.0, 2.0, 2.0])]
    assert search(postings, [[0]], 2, module.best) == [[(2, 2.0), (5000, 2.0)]]


def test_a_corpus_of_many_windows_is_searched_as_by_numpy():
    rng = np.random.default_rng(3)
    corpus = [
        Passage(str(number), "", " ".join(f"w{i}" for i in rng.zipf(1.3, 4) if i < 500)) for number in range(9000)
    ]
    queries = [" ".join(f"w{i}" for i in rng.zipf(1.3, 5)) for _ in range(60)]
    numpy, numba = (BM25Retriever(corpus, store=False, backend=backend) for backend in ("numpy", "numba"))
    assert numba.search(queries, 7) == numpy.search(queries, 7)
