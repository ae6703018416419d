"""The terms of an index, memory-mapped: opened without being read, and shared by the processes that search.

terms.bin           the terms in UTF-8, sorted by their bytes, one after the other
terms.bounds.npy    term `r` in that order is `terms.bin[bounds[r]:bounds[r + 1]]`; int64
terms.ids.npy       its number in the index; int32
"""

# A million passages have about 780,000 terms. As a dict, which is how bm25s reads its vocabulary, they take 190 MB in
# every process and half a second to read. A binary search in the mapped file takes 8 microseconds, and only the first
# time that a process looks a term up: `Index` remembers the numbers.

from __future__ import annotations

import bisect
import itertools
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.storage.arrays import open_array
from raggym_env.storage.parsing import open_file

__all__ = ["Vocabulary", "write_vocabulary"]

_TERMS, _BOUNDS, _IDS = "terms.bin", "terms.bounds.npy", "terms.ids.npy"


class Vocabulary:
    """Maps terms to their numbers. Thread-safe."""

    def __init__(self, terms: bytes | mmap.mmap, bounds: NDArray[np.int64], ids: NDArray[np.int32]) -> None:
        """Take the contents of the three files.

        Raises:
            ValueError: They do not fit each other.
        """
        # A wrong bound would cut terms elsewhere, and a wrong number read beyond the index.
        if len(bounds) != len(ids) + 1 or not len(ids):
            raise ValueError(f"{_BOUNDS} does not fit {_IDS}")
        if bounds[0] != 0 or bounds[-1] != len(terms) or (bounds[1:] < bounds[:-1]).any():
            raise ValueError(f"{_BOUNDS} does not fit {_TERMS}, which has {len(terms)} bytes")
        if ids.min() < 0 or ids.max() >= len(ids):
            raise ValueError(f"{_IDS} has a number that is out of range")
        self._terms = terms
        # Memory views, whose items are Python's integers: NumPy's would make every step of the search slower.
        self._bounds, self._ids = bounds.data, ids.data

    @classmethod
    def open(cls, folder: Path, *, mapped: bool = True) -> Vocabulary:
        """Open the files of `write_vocabulary`; with `mapped=False` they are read into memory.

        Raises:
            OSError: A file is missing or cannot be read.
            ValueError: A file has another format, or does not fit the others.
        """
        bounds = open_array(folder / _BOUNDS, np.int64, mapped=mapped)
        ids = open_array(folder / _IDS, np.int32, mapped=mapped)
        with open_file(folder / _TERMS) as file:  # the mapping outlives the open file
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if mapped else file.read(), bounds, ids)

    def __reduce__(self) -> tuple[Any, ...]:
        # Neither a mapping nor a memory view can be pickled.
        return Vocabulary, (self._terms[:], np.array(self._bounds), np.array(self._ids))

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, term: str) -> int:
        """Return the number of one term, or -1 if it is not in the vocabulary. Takes a binary search."""
        # Bytes of UTF-8 sort as code points do; surrogates, which JSON may bring, have no UTF-8 of their own.
        word = term.encode("utf-8", "surrogatepass")
        rank = bisect.bisect_left(range(len(self)), word, key=self._term)
        return int(self._ids[rank]) if rank < len(self) and self._term(rank) == word else -1

    def check(self) -> None:
        """Check what opening does not: that the terms are sorted and distinct, and so are their numbers.

        Raises:
            ValueError: They are not, so that terms would not be found.
        """
        terms = map(self._term, range(len(self)))
        if any(later <= earlier for earlier, later in itertools.pairwise(terms)):
            raise ValueError(f"{_TERMS} is not sorted")
        if np.bincount(np.asarray(self._ids)).max() > 1:
            raise ValueError(f"{_IDS} has a number twice")

    def _term(self, rank: int) -> bytes:
        return self._terms[self._bounds[rank] : self._bounds[rank + 1]]


def write_vocabulary(numbers: Mapping[str, int], folder: Path) -> None:
    """Write a vocabulary of at least one term into an existing folder."""
    words = sorted((term.encode("utf-8", "surrogatepass"), number) for term, number in numbers.items())
    with (folder / _TERMS).open("wb") as file:
        file.writelines(word for word, _ in words)
    bounds = [0, *itertools.accumulate(len(word) for word, _ in words)]
    np.save(folder / _BOUNDS, np.array(bounds, np.int64))
    np.save(folder / _IDS, np.array([number for _, number in words], np.int32))
