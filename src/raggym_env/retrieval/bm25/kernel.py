"""The search of `bm25` in compiled loops, by numba (the extra `fast`): import it only where numba is installed.

The corpus is searched in windows of `WINDOW` passages: the postings of all terms in a window are added up in an array
that the processor keeps in its fastest memory, and the best are taken from there before the next window. Over the whole
corpus at once, as bm25s does it, every sum is fetched from slow memory; per posting that takes twice as long.

No passage is skipped by bounds on its score. Adding a posting takes 1.2 nanoseconds. MaxScore leaves a fifth of the
postings, but a tenth as many passages to look up in the other terms as there were postings, at some 100 nanoseconds; in
these windows it took four times as long, at 12, 100 and 300 thousand passages. Block-max pruning was not written: with
blocks of 32 passages and the final threshold from the start, 10 to 27 in a hundred blocks remain to be looked up, from
56 thousand to a million passages (`benchmarks/scale.py --kernels`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["WINDOW", "best"]

WINDOW = 4096
"""Passages in a window. Of 1,024 to 16,384 the fastest at all sizes: their sums are 32 kB."""
_CHUNK = 64  # sums compared with the least of the best at once, in vector instructions
_SPARSE = 16  # a window with fewer postings than one in so many passages is walked over by its postings
_LEAST = 5e-324  # the smallest positive number: a passage without a term of the query has a sum of 0
_NONE = 1 << 40  # beyond every position

_log = logging.getLogger(__name__)
_log.info("Loading the numba kernel of bm25")

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    try:
        compiled: Any = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder that numba could write the compiled code to
        compiled = njit(nogil=True)(function)
    return cast(_Function, compiled)


@_compiled
def best(
    ids: NDArray[np.int64],
    ends: NDArray[np.int64],
    starts: NDArray[np.int64],
    positions: NDArray[np.int32],
    scores: NDArray[np.float32],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the `k` best passages of `n` queries.

    Query `q` has the terms `ids[ends[q]:ends[q + 1]]`; `starts`, `positions` and `scores` are those of `Index`.

    Returns:
        Positions and scores of shape `(n, k)`, best first, lower position first among equal scores, and the number of
        valid entries in each row, shape `(n,)`.
    """
    n = len(ends) - 1
    rows, row_sums, counts = np.zeros((n, k), np.int64), np.zeros((n, k), np.float64), np.zeros(n, np.int64)
    sums = np.zeros(WINDOW, np.float64)  # all zero between two windows
    for q in range(n):
        terms = ids[ends[q] : ends[q + 1]]
        # Unsigned, here and below, saves the test whether an index counts from the end.
        nexts, stops = starts[terms].astype(np.uint64), starts[terms + 1].astype(np.uint64)
        first = _first(positions, nexts, stops)
        while first < _NONE:
            begins = nexts.copy()
            _add(positions, scores, nexts, stops, first, sums)
            if (nexts - begins).sum() * _SPARSE < WINDOW:
                counts[q] = _take_sparse(positions, begins, nexts, first, sums, rows[q], row_sums[q], counts[q])
            else:
                counts[q] = _take_dense(first, sums, rows[q], row_sums[q], counts[q])
            first = _first(positions, nexts, stops)
    return rows, row_sums, counts


@_compiled
def _first(positions: NDArray[np.int32], nexts: NDArray[np.uint64], stops: NDArray[np.uint64]) -> int:
    """Return the first passage, from the next posting of each term on, that contains a term; `_NONE` without any."""
    first = _NONE
    for term in range(len(nexts)):
        if nexts[term] < stops[term]:
            first = min(first, int(positions[nexts[term]]))
    return first


@_compiled
def _add(
    positions: NDArray[np.int32],
    scores: NDArray[np.float32],
    nexts: NDArray[np.uint64],
    stops: NDArray[np.uint64],
    first: int,
    sums: NDArray[np.float64],
) -> None:
    """Add up the postings of the window from passage `first` on, and move `nexts` behind it."""
    for term in range(len(nexts)):
        j, stop = nexts[term], stops[term]
        while j < stop:
            place = positions[j] - first
            if place >= WINDOW:
                break
            sums[np.uint64(place)] += scores[j]
            j += np.uint64(1)
        nexts[term] = j


@_compiled
def _take_sparse(
    positions: NDArray[np.int32],
    begins: NDArray[np.uint64],
    nexts: NDArray[np.uint64],
    first: int,
    sums: NDArray[np.float64],
    row: NDArray[np.int64],
    row_sums: NDArray[np.float64],
    count: int,
) -> int:
    """Take the best from a window by its postings `begins` to `nexts`, and return how many the row has then."""
    for term in range(len(begins)):
        j = begins[term]
        while j < nexts[term]:
            place = np.uint64(positions[j] - first)
            # A passage that comes again, with another term, has a sum of zero by then.
            count = _insert(row, row_sums, count, int(positions[j]), sums[place])
            sums[place] = 0.0
            j += np.uint64(1)
    return count


@_compiled
def _take_dense(
    first: int, sums: NDArray[np.float64], row: NDArray[np.int64], row_sums: NDArray[np.float64], count: int
) -> int:
    """Take the best from a window by all its sums, and return how many the row has then."""
    for start in range(0, WINDOW, _CHUNK):
        chunk = sums[start : start + _CHUNK]
        least = row_sums[-1] if count == len(row) else _LEAST
        candidates = 0
        for place in range(_CHUNK):  # without a branch, so that it is compiled to vector instructions
            candidates += chunk[place] >= least
        if candidates:
            for place in range(_CHUNK):
                count = _insert(row, row_sums, count, first + start + place, chunk[place])
    sums[:] = 0.0
    return count


@_compiled
def _insert(row: NDArray[np.int64], row_sums: NDArray[np.float64], count: int, position: int, total: float) -> int:
    """Insert a passage if it is among the best, and return how many there are then: a free slot, or the worst's."""
    k = len(row)
    least = row_sums[k - 1] if count == k else _LEAST
    if total < least or (count == k and total == least and position > row[k - 1]):
        return count
    slot = min(count, k - 1)
    while slot > 0 and (total > row_sums[slot - 1] or (total == row_sums[slot - 1] and position < row[slot - 1])):
        row[slot], row_sums[slot] = row[slot - 1], row_sums[slot - 1]
        slot -= 1
    row[slot], row_sums[slot] = position, total
    return min(count + 1, k)
