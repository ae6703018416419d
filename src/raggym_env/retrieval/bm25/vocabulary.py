"""The terms of an index, memory-mapped: opened without being read, and shared by the processes that search.

terms.bin           the terms in UTF-8, sorted by their bytes, one after the other
terms.bounds.npy    term `r` in that order is `terms.bin[bounds[r]:bounds[r + 1]]`; int64
terms.ids.npy       its number in the index; int32
"""

# A million passages have about 780,000 terms. As a dict, which is how bm25s reads its vocabulary, they take 190 MB in
# every process and half a second to read. A binary search in the mapped file takes 8 microseconds, and only the first
# time that a process looks a term up.

from __future__ import annotations

import bisect
import itertools
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Vocabulary", "write_vocabulary"]

_TERMS, _BOUNDS, _IDS = "terms.bin", "terms.bounds.npy", "terms.ids.npy"
_MEMO_SIZE = 100_000  # terms of past queries; about 10 MB


class Vocabulary:
    """Maps terms to their numbers. Thread-safe."""

    def __init__(self, terms: bytes | mmap.mmap, bounds: NDArray[np.int64], ids: NDArray[np.int32]) -> None:
        """Take the contents of the three files.

        Raises:
            ValueError: They do not fit each other.
        """
        # Checked here, since a wrong bound would cut terms elsewhere and only make searches miss passages.
        if bounds.dtype != np.int64 or ids.dtype != np.int32 or len(bounds) != len(ids) + 1:
            raise ValueError(f"{_BOUNDS} does not fit {_IDS}")
        if bounds[-1] != len(terms):
            raise ValueError(f"{_TERMS} has {len(terms)} bytes, not {bounds[-1]}")
        self._terms = terms
        # Memory views, whose items are Python's integers: NumPy's would make every step of the search slower.
        self._bounds, self._ids = bounds.data, ids.data
        self._memo = _Memo(self)

    @classmethod
    def open(cls, folder: Path, *, mapped: bool = True) -> Vocabulary:
        """Open the files of `write_vocabulary`; with `mapped=False` they are read into memory.

        Raises:
            OSError: A file is missing or cannot be read.
            ValueError: A file has another format, or does not fit the others.
        """
        bounds, ids = (np.load(folder / name, mmap_mode="r" if mapped else None) for name in (_BOUNDS, _IDS))
        if not mapped:
            return cls((folder / _TERMS).read_bytes(), bounds, ids)
        with (folder / _TERMS).open("rb") as file:  # the mapping outlives the open file
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), bounds, ids)

    def __reduce__(self) -> tuple[Any, ...]:
        # Neither a mapping nor a memory view can be pickled. The memo is left behind: it would only be sent along.
        return Vocabulary, (self._terms[:], np.array(self._bounds), np.array(self._ids))

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, terms: Iterable[str]) -> list[int]:
        """Return the numbers of those terms that are in the vocabulary, in order and with repetitions."""
        memo = self._memo
        return [number for term in terms if (number := memo[term]) >= 0]

    def find(self, term: str) -> int:
        """Return the number of one term, or -1 if it is not in the vocabulary. Takes a binary search every time."""
        # Bytes of UTF-8 sort as code points do; surrogates, which JSON may bring, have no UTF-8 of their own.
        word = term.encode("utf-8", "surrogatepass")
        rank = bisect.bisect_left(range(len(self)), word, key=self._term)
        return int(self._ids[rank]) if rank < len(self) and self._term(rank) == word else -1

    def _term(self, rank: int) -> bytes:
        return self._terms[self._bounds[rank] : self._bounds[rank + 1]]


class _Memo(dict[str, int]):
    """Maps the terms looked up so far to their numbers, or -1. Looking one of them up again runs no Python code."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._find = vocabulary.find

    def __missing__(self, term: str) -> int:
        number = self._find(term)
        # Emptied when full, as frequent terms are back at once. Two threads may both empty it, which does no harm.
        if len(self) >= _MEMO_SIZE:
            self.clear()
        self[term] = number
        return number


def write_vocabulary(numbers: Mapping[str, int], folder: Path) -> None:
    """Write a vocabulary of at least one term into an existing folder."""
    words = sorted((term.encode("utf-8", "surrogatepass"), number) for term, number in numbers.items())
    with (folder / _TERMS).open("wb") as file:
        file.writelines(word for word, _ in words)
    bounds = [0, *itertools.accumulate(len(word) for word, _ in words)]
    np.save(folder / _BOUNDS, np.array(bounds, np.int64))
    np.save(folder / _IDS, np.array([number for _, number in words], np.int32))
