"""The index of `bm25`: for each term the passages that contain it, and its BM25 score in each.

The scores are those of bm25s (arXiv:2407.03618) by Lucene's formula, to the last bit, and so is the layout, so
that `bm25s.BM25.load` opens such a folder.

The builder reads the passages as a stream. Its memory is that of the vocabulary, 12 bytes a passage and a few hundred
megabytes (`benchmarks/scale.py` has the figures):

1. Passages are read until they contain `BLOCK_TERMS` terms. Their postings are counted, sorted by term and written to
   a temporary file.
2. When all are read, the files are merged: for a range of terms at a time, as many as have `MERGED_POSTINGS`
   postings, the range is read from every file, sorted, scored and appended to the index.
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.errors import DataError, RetrievalError
from raggym_env.retrieval.bm25.analysis import NAME_MARK
from raggym_env.retrieval.bm25.vocabulary import Vocabulary, write_vocabulary

__all__ = ["FORMAT", "Index", "write_index"]

FORMAT = 2
"""Raised whenever the meaning of the files changes, so that an index of another format is not read."""
# Both bound memory: 12 bytes for each of so many, a few times over while they are sorted.
BLOCK_TERMS = 4_000_000
MERGED_POSTINGS = 4_000_000
_CHUNK = 1024  # passages whose terms are lists of strings at the same time

# The names that bm25s gives its files.
_SCORES, _POSITIONS, _STARTS = "data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy"
_PARAMS, _VOCABULARY = "params.index.json", "vocab.index.json"


@dataclass(frozen=True)
class Index:
    """An opened index. Its arrays are read-only."""

    vocabulary: Vocabulary
    scores: NDArray[np.float32]
    positions: NDArray[np.int32]
    """The passages of a term in corpus order, by their position in the corpus."""
    starts: NDArray[np.int64]
    """Term `i` has the postings `starts[i]:starts[i + 1]`."""
    passages: int
    folder: Path | None = None
    """The folder that the arrays are mapped from; None for an index in memory."""

    def __post_init__(self) -> None:
        for values in (self.scores, self.positions, self.starts):
            # Read-only arrays are a type of their own for numba: all alike, the kernel is compiled once only.
            values.flags.writeable = False

    @classmethod
    def load(cls, folder: Path, *, mapped: bool = True) -> Index:
        """Open the files of `write_index`: mapped, in constant time whatever their size, or read into memory.

        Raises:
            RetrievalError: The files cannot be read.
        """
        try:
            # A plain array over the mapped file: slices of numpy.memmap cost several times more.
            scores, positions, starts = (
                np.load(folder / name, mmap_mode="r" if mapped else None).view(np.ndarray)
                for name in (_SCORES, _POSITIONS, _STARTS)
            )
            passages = int(json.loads((folder / _PARAMS).read_bytes())["num_docs"])
            vocabulary = Vocabulary.open(folder, mapped=mapped)
            return cls(vocabulary, scores, positions, starts, passages, folder if mapped else None)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RetrievalError(
                f"The index in {folder} cannot be read: {error!r}. Delete this folder to have it built again."
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, also one sent to another process, maps the same files: pickling them would read the whole index.
        if self.folder is not None:
            return Index.load, (self.folder,)
        return Index, (self.vocabulary, self.scores, self.positions, self.starts, self.passages)


# bm25s is not used to build: it needs all terms of all passages in memory as lists, about 4 kB a passage of 100 words.
# Measured on 300 thousand passages, bm25s peaks at 1,208 MB and takes 45.6 CPU seconds, this builder 376 MB and 16.2.
def write_index(passages: Iterable[list[str]], folder: Path, *, k1: float, b: float) -> None:
    """Build the index of passages, given by their terms, into an existing folder.

    Args:
        passages: The terms of each passage, in corpus order. Read once, as a stream.
        folder: Also holds temporary files of 12 bytes a posting during the build.
        k1: Saturation of the term frequency.
        b: Normalisation by passage length.

    Raises:
        DataError: No passage has a term.
    """
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__  # a new term gets the next number, as in bm25s
    lengths = array("i")  # 4 bytes a passage, where a list takes 8 or more
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        blocks = [
            _Block.write(Path(scratch) / f"{number}", *_postings(*block))
            for number, block in enumerate(_numbered_blocks(passages, vocabulary, lengths))
        ]
        if not vocabulary:
            raise DataError(f"The corpus of {len(lengths)} passages holds no word to search for.")
        # The number of passages with each term.
        frequencies = np.zeros(len(vocabulary), np.int64)
        for block in blocks:
            frequencies += np.bincount(block.keys() >> 32, minlength=len(vocabulary))
        uncounted = [number for term, number in vocabulary.items() if term.startswith(NAME_MARK)]
        scorer = _Scorer(frequencies, _counted_lengths(lengths, blocks, uncounted), float(k1), float(b))
        _merge(blocks, frequencies, scorer, folder)
    write_vocabulary(vocabulary, folder)
    # bm25s needs the vocabulary as JSON too; `Index` reads of these two files only the number of passages.
    params = {"k1": float(k1), "b": float(b), "method": "lucene", "num_docs": len(lengths), "backend": "numpy"}
    (folder / _PARAMS).write_text(json.dumps(params, indent=4), encoding="utf-8")
    with (folder / _VOCABULARY).open("w", encoding="utf-8") as file:
        file.write(json.dumps(vocabulary, ensure_ascii=False))


def _counted_lengths(lengths: array[int], blocks: Sequence[_Block], uncounted: Iterable[int]) -> NDArray[np.int32]:
    """Return the passages' numbers of terms without those terms that are not to change the scores of others."""
    counted = np.array(lengths, np.int32)
    for number, block in itertools.product(uncounted, blocks):
        keys, counts = block.read(number, number + 1)
        counted[keys & 0xFFFFFFFF] -= counts
    return counted if counted.any() else np.array(lengths, np.int32)  # a mean of 0 divides nothing


def _numbered_blocks(
    passages: Iterable[list[str]], vocabulary: dict[str, int], lengths: array[int]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], int]]:
    """Yield blocks of passages: the numbers of their terms, the terms in each, and the position of the first.

    New terms are added to `vocabulary`, and every passage's number of terms to `lengths`.
    """
    stream = iter(passages)
    ids: list[NDArray[np.int32]] = []
    first = size = 0  # the position of the block's first passage, and its terms so far
    while chunk := list(itertools.islice(stream, _CHUNK)):
        lengths.extend(map(len, chunk))
        # Chained maps: no line of Python runs for a term, and there are a hundred in each passage.
        ids.append(np.fromiter(map(vocabulary.__getitem__, itertools.chain.from_iterable(chunk)), np.int32))
        size += len(ids[-1])
        if size >= BLOCK_TERMS:
            yield np.concatenate(ids), np.array(lengths[first:], np.int32), first
            ids, first, size = [], len(lengths), 0
    if size:
        yield np.concatenate(ids), np.array(lengths[first:], np.int32), first


def _postings(
    ids: NDArray[np.int32], lengths: NDArray[np.int32], first: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return a block's postings by term, then passage: their keys, and how often the term occurs, as in `_Block`."""
    positions = np.repeat(np.arange(first, first + len(lengths)), lengths)
    # Term and position in one integer: sorting it is much faster than sorting pairs.
    keys = ids.astype(np.int64) << 32 | positions
    keys.sort()
    # Equal keys are one posting: where a run of them starts, and how long it is.
    runs = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[runs], np.diff(runs, append=len(keys)).astype(np.int32)


@dataclass(frozen=True)
class _Block:
    """Sorted postings in two files: keys (the term's number above 32 bits of position) and counts."""

    path: Path

    @classmethod
    def write(cls, path: Path, keys: NDArray[np.int64], counts: NDArray[np.int32]) -> _Block:
        block = cls(path)
        keys.tofile(path.with_suffix(".keys"))
        counts.tofile(path.with_suffix(".counts"))
        return block

    def keys(self) -> NDArray[np.int64]:
        return np.memmap(self.path.with_suffix(".keys"), np.int64, "r")

    def read(self, low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the keys and counts of terms `low:high`."""
        keys = self.keys()
        start, stop = np.searchsorted(keys, np.array([low, high]) << 32).tolist()
        counts = np.fromfile(self.path.with_suffix(".counts"), np.int32, stop - start, offset=4 * start)
        return np.array(keys[start:stop]), counts


class _Scorer:
    """Lucene's BM25 with the rounding of bm25s: in float64, with an inverse document frequency in float32.

    A posting scores `log(1 + (n - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length))`.
    """

    def __init__(self, frequencies: NDArray[np.int64], lengths: NDArray[np.int32], k1: float, b: float) -> None:
        n = len(lengths)
        # math.log and not numpy.log: they differ in the last bit, and bm25s calls the former.
        idf = [math.log(1 + (n - df + 0.5) / (df + 0.5)) for df in frequencies.tolist()]
        self._idf = np.array(idf, np.float32)
        self._norms = k1 * ((1 - b) + b * lengths / lengths.mean())

    def __call__(
        self, terms: NDArray[np.int64], positions: NDArray[np.int32], counts: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._idf[terms] * (counts / (self._norms[positions] + counts))
        return scores.astype(np.float32)


def _merge(blocks: list[_Block], frequencies: NDArray[np.int64], scorer: _Scorer, folder: Path) -> None:
    starts = np.concatenate([[0], np.cumsum(frequencies)])
    total = int(starts[-1])
    with ExitStack() as files:
        scores_file = files.enter_context(_array_file(folder / _SCORES, np.float32, total))
        positions_file = files.enter_context(_array_file(folder / _POSITIONS, np.int32, total))
        for low, high in _ranges(starts):
            parts = zip(*(block.read(low, high) for block in blocks), strict=True)
            keys, counts = (np.concatenate(columns) for columns in parts)
            # Stable is timsort for these, which merges the sorted runs that the parts are.
            order = np.argsort(keys, kind="stable")
            keys, counts = keys[order], counts[order]
            terms, positions = keys >> 32, (keys & 0xFFFFFFFF).astype(np.int32)
            scorer(terms, positions, counts).tofile(scores_file)
            positions.tofile(positions_file)
    np.save(folder / _STARTS, starts)


def _ranges(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield ranges of terms that have at most `MERGED_POSTINGS` postings together, or are one term."""
    low, terms = 0, len(starts) - 1
    while low < terms:
        high = int(np.searchsorted(starts, starts[low] + MERGED_POSTINGS, side="right")) - 1
        high = max(high, low + 1)  # a term with more postings than that is a range of its own
        yield low, high
        low = high


def _array_file(path: Path, dtype: type[np.generic], length: int) -> Any:
    """Open a file of `length` items in NumPy's format, with the header written and the items to be appended."""
    file = path.open("wb")
    # The length is known before the first item, so the array is never in memory as a whole.
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file
