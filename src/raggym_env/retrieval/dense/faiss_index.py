"""Nearest vectors by inner product: exact search over mapped files, and the approximate indexes of FAISS.

    flat    every vector is compared. Exact; no index but the vectors themselves, which stay on disk.
    hnsw    a graph (arXiv:1603.09320). Fast; finds most of the nearest.
    ivf     only the `nprobe` of `nlist` clusters that are nearest to the query are looked at. Small; fast to build.

All are searched from memory-mapped files: what is in memory is the kernel's cache, shared between processes.
Building an hnsw or ivf index needs memory for the vectors; a flat one needs none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from raggym_env.errors import MissingExtra, RetrievalError, UnknownName

__all__ = ["KINDS", "FaissIndex", "FlatIndex", "IndexOptions", "MappedVectors", "VectorIndex", "build_index"]

KINDS = ("flat", "hnsw", "ivf")

Scores = NDArray[np.float32]
Positions = NDArray[np.int64]

_BLOCK = 16_384  # vectors converted from float16 at once
_PER_CLUSTER = 256  # vectors per cluster to train on; FAISS takes no more


class VectorIndex(Protocol):
    """Finds the nearest of the stored vectors. Thread-safe."""

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[Scores, Positions]:
        """The `k` nearest for each query, nearest first; both arrays have the shape `(n, k)`.

        Where fewer are found, a row ends in positions of -1.
        """
        ...


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What kind of index, with FAISS's parameters.

    Raises:
        UnknownName: There is no such kind.
        RetrievalError: A parameter is out of range.
    """

    kind: str = "flat"
    m: int = 32
    """hnsw: neighbours per vector in the graph."""
    ef_construction: int = 100
    """hnsw: candidates kept while the graph is built."""
    ef_search: int = 128
    """hnsw: candidates kept while it is searched."""
    nlist: int | None = None
    """ivf: clusters; None for 4 times the square root of the number of vectors, with 39 vectors or more in each."""
    nprobe: int = 32
    """ivf: clusters looked at."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName("index of the 'dense' retriever", str(self.kind), KINDS)
        for name, value in asdict(self).items():
            if (
                name != "kind"
                and value is not None
                and (not isinstance(value, int) or value < (2 if name == "m" else 1))
            ):
                raise RetrievalError(
                    f"{name} must be a whole number, at least {2 if name == 'm' else 1}, got {value!r}."
                )

    def build_key(self, vectors: int) -> dict[str, Any]:
        """What the stored index depends on, beside its vectors."""
        if self.kind == "hnsw":
            return {"kind": self.kind, "m": self.m, "ef_construction": self.ef_construction}
        if self.kind == "ivf":
            return {"kind": self.kind, "nlist": self.clusters(vectors)}
        return {"kind": self.kind}

    @property
    def search_key(self) -> dict[str, Any]:
        """What the results depend on besides."""
        if self.kind == "hnsw":
            return {"ef_search": self.ef_search}
        return {"nprobe": self.nprobe} if self.kind == "ivf" else {}

    def clusters(self, vectors: int) -> int:
        """`nlist` for so many vectors.

        Raises:
            RetrievalError: It exceeds them.
        """
        if self.nlist is None:
            return max(1, min(int(4 * math.sqrt(vectors)), vectors // 39))
        if self.nlist > vectors:
            raise RetrievalError(f"nlist must be at most the number of passages, {vectors}, got {self.nlist}.")
        return self.nlist


class MappedVectors:
    """Vectors in files `FIRST-END.npy` that stay on disk: rows `FIRST` to `END` of one long array."""

    def __init__(self, shards: Sequence[NDArray[Any]]) -> None:
        """Of arrays of shape `(rows, dimension)`, in order; at least one."""
        # Plain arrays over the mapped files: slices of numpy.memmap cost several times more.
        self._shards = [shard.view(np.ndarray) for shard in shards]
        self._ends = np.cumsum([len(shard) for shard in shards])
        self.dimension = int(self._shards[0].shape[1])
        self.dtype = self._shards[0].dtype

    @classmethod
    def load(cls, folder: Path) -> MappedVectors:
        """Map the files of a folder.

        Raises:
            RetrievalError: One of them cannot be read.
        """
        try:
            return cls([np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))])
        except (OSError, ValueError, IndexError) as error:
            raise RetrievalError(
                f"The vectors in {folder} cannot be read: {error}. Delete this folder to have them made again."
            ) from error

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, positions: Positions) -> NDArray[np.float32]:
        """The vectors at these positions, shape `(n, dimension)`."""
        found = np.empty((len(positions), self.dimension), np.float32)
        numbers = np.searchsorted(self._ends, positions, side="right")
        for number in np.unique(numbers):
            here = numbers == number
            shard = self._shards[number]
            found[here] = shard[positions[here] - (self._ends[number] - len(shard))]
        return found

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All vectors in order, as position of the first and a float32 array. Those of float32 are not copied."""
        for end, shard in zip(self._ends.tolist(), self._shards, strict=True):
            start = end - len(shard)
            for low in range(0, len(shard), _BLOCK):
                yield start + low, np.ascontiguousarray(shard[low : low + _BLOCK], np.float32)


class FlatIndex:
    """Compares a query with every vector."""

    def __init__(self, vectors: MappedVectors) -> None:
        self._vectors = vectors
        self._faiss = _faiss()

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[Scores, Positions]:
        """As `VectorIndex.search`; fewer than `k` only where there are fewer vectors."""
        faiss = self._faiss
        heap = faiss.ResultHeap(len(queries), k, keep_max=True)
        heap.I.fill(-1)
        for start, block in self._vectors.blocks():
            scores, positions = faiss.knn(queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT)
            heap.add_result(scores, positions + start)
        heap.finalize()
        return heap.D, heap.I


class FaissIndex:
    """A stored hnsw or ivf index, mapped."""

    def __init__(self, path: Path, options: IndexOptions) -> None:
        """Open an index of one's own: FAISS does not protect itself against files made to harm.

        Raises:
            RetrievalError: It cannot be read.
        """
        faiss = _faiss()
        try:
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            raise RetrievalError(
                f"The index {path} cannot be read: {error}. Delete its folder to have it built again."
            ) from error
        if options.kind == "hnsw":
            self._params = faiss.SearchParametersHNSW(efSearch=options.ef_search)
        else:
            self._params = faiss.SearchParametersIVF(nprobe=options.nprobe)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[Scores, Positions]:
        """As `VectorIndex.search`."""
        scores, positions = self._index.search(queries, k, params=self._params)
        return scores, positions


def build_index(vectors: MappedVectors, options: IndexOptions, path: Path) -> None:
    """Build an hnsw or ivf index and write it to a file. Vectors are added block by block, in their own precision.

    The clusters of ivf are the same every time; the graph of hnsw is if it is built by one thread.
    """
    faiss = _faiss()
    stored: Literal["SQfp16", "Flat"] = "SQfp16" if vectors.dtype == np.float16 else "Flat"
    if options.kind == "hnsw":
        name = f"HNSW{options.m},{stored}" if stored == "Flat" else f"HNSW{options.m}_{stored}"
    else:
        name = f"IVF{options.clusters(len(vectors))},{stored}"
    index = faiss.index_factory(vectors.dimension, name, faiss.METRIC_INNER_PRODUCT)
    if options.kind == "hnsw":
        index.hnsw.efConstruction = options.ef_construction
    if not index.is_trained:
        index.train(_sample(vectors, options.clusters(len(vectors)) * _PER_CLUSTER))
    for _, block in vectors.blocks():
        index.add(block)
    faiss.write_index(index, str(path))


def _sample(vectors: MappedVectors, size: int) -> NDArray[np.float32]:
    """At most `size` vectors, evenly spread."""
    return vectors.rows(np.unique(np.linspace(0, len(vectors) - 1, min(size, len(vectors)), dtype=np.int64)))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("The 'dense' retriever", "dense") from error
    return faiss
