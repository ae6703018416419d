"""Nearest vectors by inner product: exact search over mapped files, and the approximate indexes of FAISS.

    flat    compares every vector. Exact; needs no index beyond the vectors themselves, which stay on disk.
    hnsw    a graph (arXiv:1603.09320). Fast; finds most of the nearest vectors.
    ivf     compares the vectors of only the `nprobe` of `nlist` clusters nearest to the query. Small; fast to build.

All are searched from memory-mapped files, so memory holds only the kernel's page cache, shared between processes.
Building an hnsw or ivf index needs memory for all vectors that it stores; a flat one needs none.

hnsw and ivf can store their vectors quantized. Such an index only proposes candidates, as many as `rescored`, whose
scores are computed from the vectors on the disk; so it is the index alone that has to fit into memory:

    quantization   bytes of a vector           21 million vectors of 384 and of 768 dimensions, in GB
    none           4 a dimension, float16 2    32.3    64.5     and with hnsw 5.6 for the links
    int8           1 a dimension                8.1    16.1     the same
    pq             `pq_bytes`, 8 dimensions     1.0     2.0     ivf only
                   to a byte by default
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.errors import MissingExtra, RetrievalError, UnknownName, check_option
from raggym_env.retrieval.dense.faiss_file import check_faiss_file
from raggym_env.storage.arrays import open_array

__all__ = ["KINDS", "FaissIndex", "FlatIndex", "IndexOptions", "MappedVectors", "Positions", "build_index"]
__all__ += ["QUANTIZATIONS", "shard_rows"]

KINDS = ("flat", "hnsw", "ivf")
QUANTIZATIONS = ("none", "int8", "pq")

Scores = NDArray[np.float32]
Positions = NDArray[np.int64]

_SHARD = re.compile(r"([0-9]{1,18})-([0-9]{1,18})\.npy")
_BLOCK = 16_384  # vectors converted from float16 at once: 64 MB as float32 with 1,024 dimensions
_MIN_PER_CLUSTER = 39  # FAISS warns that it clusters badly with fewer vectors to train on
_PQ_CENTERS = 256  # of each part of a vector: what a byte can number
_MAX_PER_CLUSTER = 256  # FAISS ignores any further ones


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """The kind of index, with FAISS's parameters.

    Raises:
        UnknownName: There is no such kind.
        OptionError: A parameter is out of range.
    """

    index: str = "flat"
    """"flat" (exact), "hnsw" or "ivf" (approximate)."""
    m: int = 32
    """hnsw: neighbors of each vector in the graph, at least 2."""
    ef_construction: int = 100
    """hnsw: candidates considered for each vector while the graph is built."""
    ef_search: int = 128
    """hnsw: candidates considered for each query."""
    nlist: int | None = None
    """ivf: number of clusters; None for 4 times the square root of the number of vectors, with at least 39 in each."""
    nprobe: int = 32
    """ivf: clusters searched for each query."""
    quantization: str = "none"
    """hnsw and ivf: how the index stores its vectors, "none" (as they are), "int8" (a byte for each dimension) or, for
    ivf, "pq" (product quantization, arXiv:1702.08734: `pq_bytes` for each vector)."""
    pq_bytes: int | None = None
    """pq: bytes of a vector, a divisor of its dimensions; None for an eighth of them."""
    rescored: int = 100
    """int8 and pq: candidates of each query, at least, that are scored again by their own vectors."""

    def __post_init__(self) -> None:
        if self.index not in KINDS:
            raise UnknownName("index of the 'dense' retriever", str(self.index), KINDS)
        if self.quantization not in QUANTIZATIONS:
            raise UnknownName("quantization of the 'dense' retriever", str(self.quantization), QUANTIZATIONS)
        fits = self.quantization == "none" or self.index == "ivf" or (self.index, self.quantization) == ("hnsw", "int8")
        check_option("quantization", self.quantization, fits, f"'none' with index {self.index!r}, or 'pq' with 'ivf'")
        for name in ("m", "ef_construction", "ef_search", "nlist", "nprobe", "pq_bytes", "rescored"):
            value, least = getattr(self, name), 2 if name == "m" else 1
            # Bounded: FAISS computes with 32 bits.
            unset = value is None and name in ("nlist", "pq_bytes")
            valid = unset or (isinstance(value, int) and least <= value <= 1_000_000)
            check_option(name, value, valid, f"a whole number, at least {least} and at most 1000000")

    def build_key(self, vectors: int) -> dict[str, Any]:
        """Return what the stored index depends on, apart from its vectors.

        Raises:
            OptionError: As for `clusters`.
        """
        key: dict[str, Any] = {"kind": self.index}
        if self.index == "hnsw":
            key |= {"m": self.m, "ef_construction": self.ef_construction}
        if self.index == "ivf":
            key |= {"nlist": self.clusters(vectors)}
        if self.quantization != "none":
            key |= {"quantization": self.quantization}
        return key | ({"pq_bytes": self.pq_bytes} if self.quantization == "pq" else {})

    @property
    def search_key(self) -> dict[str, Any]:
        """What results depend on, apart from the stored index."""
        keys = {"flat": {}, "hnsw": {"ef_search": self.ef_search}, "ivf": {"nprobe": self.nprobe}}
        return keys[self.index] | ({} if self.quantization == "none" else {"rescored": self.rescored})

    def code(self, vectors: int, dimension: int, dtype: np.dtype[Any]) -> str:
        """Return FAISS's name for the way in which the index stores its vectors.

        Raises:
            OptionError: Product quantization does not fit the vectors, or they are too few to train it.
        """
        if self.quantization == "none":
            return "SQfp16" if dtype == np.float16 else "Flat"
        if self.quantization == "int8":
            return "SQ8"
        enough = vectors >= _PQ_CENTERS
        check_option("quantization", "pq", enough, f"another for fewer than {_PQ_CENTERS} passages, here {vectors}")
        size = self.pq_bytes or max(1, dimension // 8)
        check_option("pq_bytes", size, dimension % size == 0, f"a divisor of the vectors' {dimension} dimensions")
        return f"PQ{size}"

    def clusters(self, vectors: int) -> int:
        """Return the number of clusters for that many vectors: `nlist`, or its default.

        Raises:
            OptionError: `nlist` is above the number of vectors.
        """
        if self.nlist is None:
            # 4 to 16 times the square root is FAISS's guideline for up to a million vectors.
            return max(1, min(int(4 * math.sqrt(vectors)), vectors // _MIN_PER_CLUSTER))
        check_option("nlist", self.nlist, self.nlist <= vectors, f"at most the number of passages, {vectors}")
        return self.nlist


def shard_rows(path: Path) -> tuple[int, int] | None:
    """Return the rows that a file of vectors holds, by its name: from the first up to, not including, the second."""
    match = _SHARD.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else None


class MappedVectors:
    """One long array of vectors, stored in files `FIRST-END.npy` that hold its rows from `FIRST` up to `END`.

    Args:
        shards: Arrays of shape `(rows, dimension)`, in order; at least one.
    """

    def __init__(self, shards: Sequence[NDArray[Any]]) -> None:
        # Plain arrays over the mapped files: a slice of numpy.memmap takes several times as long.
        self._shards = [shard.view(np.ndarray) for shard in shards]
        self._ends = np.cumsum([len(shard) for shard in shards])
        self.dimension = int(self._shards[0].shape[1])
        self.dtype = self._shards[0].dtype

    @classmethod
    def load(cls, folder: Path) -> MappedVectors:
        """Map the files of a folder.

        Raises:
            RetrievalError: One of them cannot be read, or they are not the rows of one array.
        """
        paths = sorted(folder.glob("*.npy"))
        try:
            shards = [open_array(path, np.float32, np.float16, ndim=2) for path in paths]
            ends = np.cumsum([0, *map(len, shards)]).tolist()
            if [shard_rows(path) for path in paths] != [*pairwise(ends)] or len(ends) < 2:
                raise ValueError("the files are not all rows of one array")
            if len({(shard.dtype, shard.shape[1]) for shard in shards}) > 1 or not shards[0].size:
                raise ValueError("the files hold vectors of different types or dimensions, or of none")
        except (OSError, ValueError) as error:
            raise RetrievalError(
                f"The vectors in {folder} cannot be read: {error}. Delete this folder to have them computed again."
            ) from error
        return cls(shards)

    def check(self) -> None:
        """Read all vectors.

        Raises:
            RetrievalError: One of them is not finite.
        """
        for start, block in self.blocks():
            if not np.isfinite(block).all():
                raise RetrievalError(f"Of the vectors from {start:,} on, one is not finite. Have them computed again.")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, positions: Positions) -> NDArray[np.float32]:
        """Return the vectors at these positions, shape `(n, dimension)`."""
        vectors = np.empty((len(positions), self.dimension), np.float32)
        shard_numbers = np.searchsorted(self._ends, positions, side="right")
        for number in np.unique(shard_numbers):
            in_shard = shard_numbers == number
            shard = self._shards[number]
            vectors[in_shard] = shard[positions[in_shard] - (self._ends[number] - len(shard))]
        return vectors

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield all vectors in order, in pairs of the first one's position and a float32 array.

        float32 vectors are not copied, unless a file has them where FAISS could not read them in place.
        """
        for end, shard in zip(self._ends.tolist(), self._shards, strict=True):
            start = end - len(shard)
            for low in range(0, len(shard), _BLOCK):
                yield start + low, np.require(shard[low : low + _BLOCK], np.float32, ["C", "A"])


class FlatIndex:
    """Exact search: compares a query with every vector. Thread-safe."""

    def __init__(self, vectors: MappedVectors) -> None:
        self._vectors = vectors
        self._faiss = _faiss()

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[Scores, Positions]:
        """Return scores and positions of the `k` nearest vectors of each query, nearest first, both of shape `(n, k)`.

        If there are fewer vectors than `k`, a row ends in positions of -1.
        """
        faiss = self._faiss
        # A heap keeps the best of all blocks: faiss.IndexFlat would copy every vector into memory instead.
        heap = faiss.ResultHeap(len(queries), k, keep_max=True)
        heap.I.fill(-1)  # positions that no vector takes
        for start, block in self._vectors.blocks():
            scores, positions = faiss.knn(queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT)
            heap.add_result(scores, positions + start)
        heap.finalize()
        return heap.D, heap.I


class FaissIndex:
    """A stored hnsw or ivf index, memory-mapped. Thread-safe."""

    def __init__(self, path: Path, options: IndexOptions, vectors: MappedVectors) -> None:
        """Open the index of `vectors` in a file. All sizes, links and positions in it are checked before.

        Raises:
            RetrievalError: It cannot be read, or is not such an index.
        """
        faiss = _faiss()
        try:
            check_faiss_file(path, options.index, vectors.dtype, len(vectors), vectors.dimension, options.quantization)
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
        except (OSError, ValueError, RuntimeError) as error:
            raise RetrievalError(
                f"The index {path} cannot be read: {error}. Delete its folder to have it built again."
            ) from error
        # Passed with each search: they are not part of the stored index, which works with any values.
        if options.index == "hnsw":
            self._params = faiss.SearchParametersHNSW(efSearch=options.ef_search)
        else:
            self._params = faiss.SearchParametersIVF(nprobe=options.nprobe)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[Scores, Positions]:
        """As `FlatIndex.search`, but a row ends in positions of -1 wherever fewer than `k` were found."""
        scores, positions = self._index.search(queries, k, params=self._params)
        return scores, positions


def build_index(vectors: MappedVectors, options: IndexOptions, path: Path) -> None:
    """Build an hnsw or ivf index and write it to a file.

    It stores the vectors in the precision that they have, or quantized.

    ivf clusters are the same in every build; an hnsw graph is only if it is built by one thread.

    Raises:
        OptionError: As for `IndexOptions.code`.
    """
    faiss = _faiss()
    structure = f"HNSW{options.m}" if options.index == "hnsw" else f"IVF{options.clusters(len(vectors))}"
    storage = options.code(len(vectors), vectors.dimension, vectors.dtype)
    index = faiss.index_factory(vectors.dimension, f"{structure},{storage}", faiss.METRIC_INNER_PRODUCT)
    if options.index == "hnsw":
        index.hnsw.efConstruction = options.ef_construction
    if not index.is_trained:
        size = min(options.clusters(len(vectors)) * _MAX_PER_CLUSTER, len(vectors))
        # Evenly spread over the corpus, whose neighbors often share a topic.
        index.train(vectors.rows(np.unique(np.linspace(0, len(vectors) - 1, size, dtype=np.int64))))
    for _, block in vectors.blocks():
        index.add(block)
    faiss.write_index(index, str(path))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("The 'dense' retriever", "dense") from error
    return faiss
