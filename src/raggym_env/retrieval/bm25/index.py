"""The index of `bm25`: for each term the passages that hold it, and its BM25 score in each.

The scores are those of bm25s (arXiv:2407.03618) by Lucene's formula, to the last bit, and so is the layout, so
that `bm25s.BM25.load` opens such a folder. bm25s itself builds an index from lists of all terms of all passages,
some 4 kB a passage of 100 words. Here passages are read as a stream, and the memory needed is that of the
vocabulary, 12 bytes a passage and a few hundred megabytes (`benchmarks/scale.py` has the figures):

1. Passages are read until they hold `BLOCK_TERMS` terms; their postings are counted, sorted by term and written to
   a temporary file.
2. When all are read, the files are merged: for a range of terms at a time, as many as have `MERGED_POSTINGS`
   postings, every file's part of it is read, sorted, scored and appended to the index.
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.errors import DataError, RetrievalError
from raggym_env.retrieval.bm25.vocabulary import Vocabulary, write_vocabulary

__all__ = ["FORMAT", "Index", "write_index"]

FORMAT = 2
"""Raised whenever the files come to mean something else."""
BLOCK_TERMS = 4_000_000
MERGED_POSTINGS = 4_000_000
_CHUNK = 1024  # passages at once in Python lists

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
    """Where the arrays are mapped from; None for an index in memory."""

    def __post_init__(self) -> None:
        for values in (self.scores, self.positions, self.starts):
            values.flags.writeable = False  # mapped or not, so that the kernel is compiled for one type only

    @classmethod
    def load(cls, folder: Path, *, mapped: bool = True) -> Index:
        """Open what `write_index` wrote: mapped, which takes no time whatever its size, or read into memory.

        Raises:
            RetrievalError: The files cannot be read.
        """
        try:
            return cls(
                Vocabulary.open(folder, mapped=mapped),
                _load(folder / _SCORES, mapped),
                _load(folder / _POSITIONS, mapped),
                _load(folder / _STARTS, mapped),
                int(json.loads((folder / _PARAMS).read_bytes())["num_docs"]),
                folder if mapped else None,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RetrievalError(
                f"The index in {folder} cannot be read: {error!r}. Delete this folder to have it built again."
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, and one sent to another process, maps the same files."""
        if self.folder is not None:
            return Index.load, (self.folder,)
        return Index, (self.vocabulary, self.scores, self.positions, self.starts, self.passages)


def _load(path: Path, mapped: bool) -> Any:
    # A plain array over the mapped file: slices of numpy.memmap cost several times more.
    return np.load(path, mmap_mode="r" if mapped else None).view(np.ndarray)


def write_index(passages: Iterable[list[str]], folder: Path, *, k1: float, b: float) -> None:
    """Build the index of passages, given by their terms, into an existing folder.

    Args:
        passages: The terms of each passage, in corpus order. Read once, as a stream.
        folder: Temporary files of 12 bytes a posting are put there too, and removed again.
        k1: Saturation of the term frequency.
        b: Normalisation by passage length.

    Raises:
        DataError: There is no term.
    """
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__  # a new term gets the next number
    lengths = array("i")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        blocks = [
            _Block.write(Path(scratch) / f"{number}", *_inverted(*block))
            for number, block in enumerate(_numbered(passages, vocabulary, lengths))
        ]
        if not vocabulary:
            raise DataError(f"The corpus of {len(lengths)} passages holds no word to search for.")
        frequencies = _frequencies(blocks, len(vocabulary))
        scorer = _Scorer(frequencies, np.frombuffer(lengths, np.int32), float(k1), float(b))
        _merge(blocks, frequencies, scorer, folder)
    write_vocabulary(vocabulary, folder)
    _write_for_bm25s(vocabulary, len(lengths), k1, b, folder)


def _write_for_bm25s(vocabulary: dict[str, int], passages: int, k1: float, b: float, folder: Path) -> None:
    params = {"k1": float(k1), "b": float(b), "method": "lucene", "num_docs": passages, "backend": "numpy"}
    (folder / _PARAMS).write_text(json.dumps(params, indent=4), encoding="utf-8")
    with (folder / _VOCABULARY).open("w", encoding="utf-8") as file:
        file.write(json.dumps(vocabulary, ensure_ascii=False))


_Numbered = tuple[NDArray[np.int32], NDArray[np.int32], int]


def _numbered(passages: Iterable[list[str]], vocabulary: dict[str, int], lengths: array[int]) -> Iterator[_Numbered]:
    """Blocks of passages: the numbers of their terms, the terms of each, and the position of the first.

    New terms are entered into `vocabulary`, and every passage's number of terms into `lengths`.
    """
    stream = iter(passages)
    ids: list[NDArray[np.int32]] = []
    first = held = 0
    while chunk := list(itertools.islice(stream, _CHUNK)):
        lengths.extend(map(len, chunk))
        ids.append(np.fromiter(map(vocabulary.__getitem__, itertools.chain.from_iterable(chunk)), np.int32))
        held += len(ids[-1])
        if held >= BLOCK_TERMS:
            yield np.concatenate(ids), np.array(lengths[first:], np.int32), first
            ids, first, held = [], len(lengths), 0
    if held:
        yield np.concatenate(ids), np.array(lengths[first:], np.int32), first


def _inverted(
    ids: NDArray[np.int32], lengths: NDArray[np.int32], first: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Postings in the order of terms, then passages: their keys and how often the term occurs, as in `_Block`."""
    positions = np.repeat(np.arange(first, first + len(lengths)), lengths)
    keys = ids.astype(np.int64) << 32 | positions
    keys.sort()
    new = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[new], np.diff(new, append=len(keys)).astype(np.int32)


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
        """The postings of terms `low:high`."""
        keys = self.keys()
        start, stop = np.searchsorted(keys, np.array([low, high]) << 32).tolist()
        counts = np.fromfile(self.path.with_suffix(".counts"), np.int32, stop - start, offset=4 * start)
        return np.array(keys[start:stop]), counts


def _frequencies(blocks: list[_Block], terms: int) -> NDArray[np.int64]:
    """The number of passages with each term."""
    frequencies = np.zeros(terms, np.int64)
    for block in blocks:
        frequencies += np.bincount(block.keys() >> 32, minlength=terms)
    return frequencies


class _Scorer:
    """Lucene's BM25 as bm25s computes it: in float64, with an inverse document frequency rounded to float32."""

    def __init__(self, frequencies: NDArray[np.int64], lengths: NDArray[np.int32], k1: float, b: float) -> None:
        n = len(lengths)
        rarity = [math.log(1 + (n - df + 0.5) / (df + 0.5)) for df in frequencies.tolist()]
        self._rarity = np.array(rarity, np.float32)
        self._norms = k1 * ((1 - b) + b * lengths / lengths.mean())

    def __call__(
        self, terms: NDArray[np.int64], positions: NDArray[np.int32], counts: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._rarity[terms] * (counts / (self._norms[positions] + counts))
        return scores.astype(np.float32)


def _merge(blocks: list[_Block], frequencies: NDArray[np.int64], scorer: _Scorer, folder: Path) -> None:
    starts = np.concatenate([[0], np.cumsum(frequencies)])
    total = int(starts[-1])
    with ExitStack() as files:
        scores_file = files.enter_context(_array_file(folder / _SCORES, np.float32, total))
        positions_file = files.enter_context(_array_file(folder / _POSITIONS, np.int32, total))
        for low, high in _ranges(starts):
            terms, positions, counts = _sorted([block.read(low, high) for block in blocks])
            scores = scorer(terms, positions, counts)
            scores.tofile(scores_file)
            positions.tofile(positions_file)
    np.save(folder / _STARTS, starts)


def _ranges(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of terms of at most `MERGED_POSTINGS` postings, or of one term."""
    low, terms = 0, len(starts) - 1
    while low < terms:
        high = int(np.searchsorted(starts, starts[low] + MERGED_POSTINGS, side="right")) - 1
        yield low, max(high, low + 1)
        low = max(high, low + 1)


def _sorted(
    parts: list[tuple[NDArray[np.int64], NDArray[np.int32]]],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Terms, positions and counts of the postings of all blocks, in the order of terms, then positions."""
    keys, counts = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    return keys >> 32, (keys & 0xFFFFFFFF).astype(np.int32), counts[order]


def _array_file(path: Path, dtype: type[np.generic], length: int) -> Any:
    """A file for `length` items, with the header that makes it one of NumPy's."""
    file = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file
