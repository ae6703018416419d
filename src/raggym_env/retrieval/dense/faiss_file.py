"""The files of the hnsw and ivf indexes, checked before FAISS reads them.

FAISS checks part of what it reads. A changed file may still end the process, take all memory, or give positions beyond
the corpus. Here the file is walked in the layout in which FAISS writes the indexes of this library, so that every
size, link and position in it is known to be in range; whatever has another layout is refused.
"""

from __future__ import annotations

import os
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.storage.parsing import ParseError, open_file

__all__ = ["check_faiss_file", "flat_file_vectors"]

# The first four bytes of a file, by the kind of index and how it stores vectors.
_MARKS = {("hnsw", "float32"): b"IHNf", ("hnsw", "float16"): b"IHNs", ("hnsw", "int8"): b"IHNs"}
_MARKS |= {("ivf", "float32"): b"IwFl", ("ivf", "float16"): b"IwSq", ("ivf", "int8"): b"IwSq", ("ivf", "pq"): b"IwPQ"}
_FLAT, _SCALAR, _LISTS = b"IxFI", b"IxSQ", b"ilar"  # parts: vectors in float32, in other precisions, inverted lists
_INNER_PRODUCT = 0
# faiss::ScalarQuantizer: its number of a type, the bytes of a dimension, and the numbers that it keeps for each: the
# least value and the range of int8.
_SCALARS = {"float16": (4, 2, 0), "int8": (0, 1, 2)}
_PQ_BITS = 8
_MAX_LEVELS = 64  # of a graph; a billion vectors have six


def check_faiss_file(
    path: Path, kind: str, dtype: np.dtype[Any], vectors: int, dimension: int = 0, quantization: str = "none"
) -> None:
    """Check the file of an index. Reads its structure, and of the vectors only the number.

    Args:
        path: The file.
        kind: "hnsw" or "ivf".
        dtype: Type of the vectors, float32 or float16.
        vectors: Number of the vectors.
        dimension: Number of their dimensions; 0 for any.
        quantization: As in `IndexOptions`.

    Raises:
        OSError: The file cannot be read.
        ParseError: It is not such an index, or a link or position in it is out of range.
    """
    with open_file(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise ParseError("it is empty")
        code = dtype.name if quantization == "none" else quantization
        if (kind, code) not in _MARKS:
            raise ParseError(f"there is no {kind} index that stores vectors as {code}")
        reader = _Reader(np.memmap(file, np.uint8, "r").view(np.ndarray), code, vectors, dimension)
    reader.header(_MARKS[kind, code], vectors)
    if kind == "hnsw":
        reader.hnsw()
    else:
        reader.ivf()
    reader.require(reader.position == len(reader.data), "its length")


def flat_file_vectors(path: Path, vectors: int) -> NDArray[np.float32]:
    """Return the vectors in the file of a flat FAISS index by inner product, mapped, shape `(vectors, dimension)`.

    Raises:
        OSError: The file cannot be read.
        ParseError: It is not such an index of that many vectors.
    """
    with open_file(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise ParseError("it is empty")
        reader = _Reader(np.memmap(file, np.uint8, "r").view(np.ndarray), "float32", vectors, 0)
    reader.header(_FLAT, vectors)
    numbers: NDArray[np.float32] = reader.numbers("<f4", vectors * reader.dimension, "the vectors")
    reader.require(reader.position == len(reader.data), "its length")
    return numbers.reshape(vectors, reader.dimension)


class _Reader:
    """Walks through a file; whatever is not as expected raises `ParseError`."""

    def __init__(self, data: NDArray[np.uint8], code: str, vectors: int, dimension: int) -> None:
        self.data = data
        self.code, self.vectors, self.dimension = code, vectors, dimension
        self.position = 0

    def require(self, valid: object, part: str) -> None:
        if not valid:
            raise ParseError(f"not an index of {self.vectors:,} vectors: {part} does not fit, before {self.position:,}")

    def take(self, dtype: str, count: int) -> NDArray[Any]:
        """Return the next `count` numbers of a type."""
        size = count * np.dtype(dtype).itemsize
        self.require(count >= 0 and self.position + size <= len(self.data), "a length")
        self.position += size
        return self.data[self.position - size : self.position].view(dtype)

    def number(self, form: str) -> int:
        return int(struct.unpack(f"<{form}", self.take("u1", struct.calcsize(form)).tobytes())[0])

    def numbers(self, dtype: str, count: int, part: str) -> NDArray[Any]:
        """Return a list of numbers, which the file has behind their count."""
        self.require(self.number("Q") == count, part)
        return self.take(dtype, count)

    def header(self, mark: bytes, vectors: int) -> None:
        """Read what all indexes start with."""
        self.require(self.take("u1", 4).tobytes() == mark, "its kind")
        dimension = self.number("i")
        self.dimension = self.dimension or dimension
        self.require(dimension == self.dimension > 0 and self.number("q") == vectors, "its size")
        self.take("u1", 16)  # without a meaning
        self.require(self.number("B") == 1 and self.number("i") == _INNER_PRODUCT, "its training or metric")

    def stored_vectors(self, mark: bytes, vectors: int) -> None:
        """Read an index that holds vectors in float32."""
        self.header(mark, vectors)
        self.numbers("<f4", vectors * self.dimension, "the vectors")

    def scalar_quantizer(self) -> int:
        """Read the description of vectors in float16 or int8, and return the bytes of one."""
        number, width, trained = _SCALARS[self.code]
        size = width * self.dimension
        kind = self.number("i")
        self.take("u1", 8)  # how the range of values was chosen
        sizes = [self.number("Q"), self.number("Q")]
        self.require(kind == number and sizes == [self.dimension, size], "the precision")
        self.numbers("<f4", trained * self.dimension, "the precision")
        return size

    def product_quantizer(self) -> int:
        """Read what follows the clusters of product quantization, and return the bytes of a vector."""
        self.require(self.number("B") <= 1, "the precision")
        size = self.number("Q")
        dimension, parts, bits = (self.number("Q") for _ in range(3))
        self.require((dimension, parts, bits) == (self.dimension, size, _PQ_BITS), "the precision")
        self.require(parts > 0 and dimension % parts == 0, "the precision")
        self.numbers("<f4", (1 << _PQ_BITS) * dimension, "the precision")
        return size

    def hnsw(self) -> None:
        """Read a graph: for each level of each vector a fixed number of links, -1 where there are fewer."""
        levels = self.number("Q")
        self.require(1 <= levels <= _MAX_LEVELS, "the number of levels")
        self.take("<f8", levels)  # the probability of a vector to be on each level
        # Each vector has links on its first level, and fewer on each further one: `ends` of them up to each level.
        ends = self.numbers("<i4", levels + 1, "the links of a level")
        self.require(ends[0] == 0 and (np.diff(ends) > 0).all(), "the links of a level")
        heights = self.numbers("<i4", self.vectors, "the levels")
        self.require(heights.min() >= 1 and heights.max() <= levels, "the levels")
        starts = self.numbers("<u8", self.vectors + 1, "the positions of links").astype(np.int64)
        self.require(starts[0] == 0 and (np.diff(starts) == ends[heights]).all(), "the positions of links")
        links = self.numbers("<i4", int(starts[-1]), "the links")
        self.require(links.min() >= -1 and links.max() < self.vectors, "a link")
        self._upper_levels(links, starts, heights, ends.tolist())
        entry, top = self.number("i"), self.number("i")
        self.require(0 <= entry < self.vectors and top == heights[entry] - 1, "the point of entry")
        searched = [self.number("i") for _ in range(3)]
        self.require(all(0 < value < 1 << 24 for value in searched), "a parameter of the search")
        if self.code == "float32":
            self.stored_vectors(_FLAT, self.vectors)
        else:
            self.header(_SCALAR, self.vectors)
            self.numbers("u1", self.vectors * self.scalar_quantizer(), "the vectors")

    def _upper_levels(self, links: NDArray[Any], starts: NDArray[Any], heights: NDArray[Any], ends: list[int]) -> None:
        """Check that links on a level lead to vectors on that level: others have no links of their own there."""
        for level, (low, high) in enumerate(pairwise(ends[1:]), start=1):
            sources = np.flatnonzero(heights > level)
            if not len(sources):
                return
            targets = links[starts[sources, None] + np.arange(low, high)]
            self.require((heights[targets[targets >= 0]] > level).all(), "a link")

    def ivf(self) -> None:
        """Read the centers of the clusters, and for each its vectors and their positions."""
        clusters = self.number("Q")
        self.require(1 <= clusters <= self.vectors and 1 <= self.number("Q") <= clusters, "the number of clusters")
        self.stored_vectors(_FLAT, clusters)
        self.require(self.number("B") == 0, "the kind of its map")
        self.numbers("<i8", 0, "its map")
        if self.code == "float32":
            size = 4 * self.dimension
        elif self.code == "pq":
            size = self.product_quantizer()
        else:
            size = self.scalar_quantizer()
            self.require(self.number("Q") == size and self.number("B") <= 1, "the precision")
        self.require(self.take("u1", 4).tobytes() == _LISTS, "the kind of its lists")
        self.require((self.number("Q"), self.number("Q")) == (clusters, size), "the lists")
        for length in self._lengths(clusters):
            self.take("u1", length * size)
            positions = self.take("<i8", length)
            self.require(not length or (positions.min() >= 0 and positions.max() < self.vectors), "a position")

    def _lengths(self, clusters: int) -> list[int]:
        """Read how many vectors each cluster has."""
        if (form := self.take("u1", 4).tobytes()) == b"full":
            lengths: list[int] = self.numbers("<u8", clusters, "the lists").tolist()
        else:  # only the lists that are not empty, in pairs of their number and their length
            self.require(form == b"sprs", "the lists")
            pairs = self.take("<u8", self.number("Q")).tolist()
            numbers, lengths = pairs[::2], pairs[1::2]
            ordered = all(low < high for low, high in pairwise([-1, *numbers, clusters]))
            self.require(len(pairs) % 2 == 0 and ordered, "the lists")
        self.require(sum(lengths) == self.vectors, "the lists")
        return lengths
