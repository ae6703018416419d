"""Dense retrieval: passages and queries become vectors, and the nearest passages are found by FAISS.

    <store>/
        embeddings-4f1c0d9a8b7e6f50.shards/      shards of a corpus that is being embedded; what is there is kept
        embeddings-4f1c0d9a8b7e6f50/             the vectors of all passages: 0000000000-0000004096.npy, ...
        dense-7d0a11c45e9f3b26/                  an hnsw or ivf index over them: index.faiss

Embedding takes most of the time, so it is kept apart from the index: every kind of index uses the same vectors.

Scores and ties. FAISS only proposes candidates. Their scores are computed again in float64 from the stored vectors,
rounded to 16 significant bits (a relative 1.5e-5, far above the noise of an encoder and far below what tells passages
apart), and equal ones are put in corpus order. So hits do not depend on how FAISS splits its work, every kind of index
gives a passage the same score, and copies of a passage keep their order.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Passage
from raggym_env.errors import DataError, RetrievalError, UnknownName
from raggym_env.protocols import Hit
from raggym_env.retrieval.dense.encoders import Encoder, Vectors
from raggym_env.retrieval.dense.faiss_index import (
    FaissIndex,
    FlatIndex,
    IndexOptions,
    MappedVectors,
    VectorIndex,
    build_index,
)
from raggym_env.retrieval.index_store import Store, corpus_key, key_hash, open_or_build, store_folder
from raggym_env.retrieval.requests import check_request

__all__ = ["DTYPES", "DenseRetriever"]

DTYPES = ("float32", "float16")
_BITS = 16  # of a score that count
_TIE = 2.0**-13  # scores nearer than this, relatively, may change places once they are computed exactly
_MARGIN = 8  # candidates beyond k: ties at the last place are then mostly settled at once
_log = logging.getLogger(__name__)

_Embed = Callable[[Sequence[Passage]], Vectors]


class DenseRetriever:
    """The passages whose vectors have the largest inner product with the query's. Thread-safe.

    A blank query finds nothing. Every other query finds `k` passages, or all if there are fewer; only an approximate
    index may find fewer. Queries and passages longer than the encoder reads are cut off at the end.

    Args:
        corpus: The passages. Their order decides between equal scores.
        model: The encoder: a name of `encoders.ENCODERS`, a name on the hub, or a folder; see `encoders.Encoder`.
        passage_model: See `encoders.Encoder`, as `like`, `max_length`, `device` and `batch_size`.
        like: See there.
        max_length: See there.
        device: See there. FAISS uses the CPU in any case.
        batch_size: See there.
        index: "flat" (exact), "hnsw" or "ivf" (approximate).
        m: See `faiss_index.IndexOptions`, as the next four.
        ef_construction: See there.
        ef_search: See there.
        nlist: See there.
        nprobe: See there.
        dtype: Of the vectors on disk, "float32" or "float16". The latter takes half the space; a flat index, which
            has to convert all of them, then takes ten times as long for a single query.
        shard: Passages embedded between two points that a killed build can go on from.
        store: See `index_store.Store`; False builds in a temporary folder, deleted with the retriever.

    Raises:
        DataError: The corpus is empty.
        RetrievalError: The encoder cannot be had, an option is out of range, or the index cannot be built or opened.
        UnknownName: There is no such encoder, kind of index or dtype.
        MissingExtra: sentence-transformers or FAISS is not installed.
    """

    fingerprint: str
    """Changes with everything that changes results: the corpus, the encoder, the precision and the index."""

    def __init__(
        self,
        corpus: Sequence[Passage],
        *,
        model: str | Path = "minilm",
        passage_model: str | Path | None = None,
        like: str | None = None,
        max_length: int | None = None,
        device: str | None = None,
        batch_size: int = 64,
        index: str = "flat",
        m: int = 32,
        ef_construction: int = 100,
        ef_search: int = 128,
        nlist: int | None = None,
        nprobe: int = 32,
        dtype: str = "float32",
        shard: int = 4096,
        store: Store = True,
    ) -> None:
        encoding: dict[str, Any] = {
            "model": model,
            "passage_model": passage_model,
            "like": like,
            "max_length": max_length,
            "device": device,
            "batch_size": batch_size,
        }
        indexing: dict[str, Any] = {
            "m": m,
            "ef_construction": ef_construction,
            "ef_search": ef_search,
            "nlist": nlist,
            "nprobe": nprobe,
        }
        self._made_with = {**encoding, **indexing, "index": index, "dtype": dtype, "shard": shard, "store": store}
        options = IndexOptions(index, **indexing)
        _check(corpus, dtype, shard)
        self._corpus = corpus
        self._encoder = Encoder(**encoding)
        stored = {"corpus": corpus_key(corpus), "encoder": self._encoder.passage_key, "dtype": dtype}
        built = {"vectors": stored, **options.build_key(len(corpus))}
        searched = {"queries": self._encoder.query_key, **options.search_key}
        self.fingerprint = f"dense-{key_hash({**built, **searched})}"
        place = self._place(store)
        self._vectors = _open_vectors(corpus, self._encoder, stored, shard, place)
        self._index = _open_index(self._vectors, options, built, place)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`."""
        check_request(queries, k)
        results: list[list[Hit]] = [[] for _ in queries]
        asked = [number for number, query in enumerate(queries) if query.strip()]
        if asked:
            vectors = self._encoder.queries([queries[number] for number in asked])
            candidates = _candidates(self._index, vectors, min(k, len(self._vectors)), len(self._vectors))
            for number, vector, positions in zip(asked, vectors, candidates, strict=True):
                results[number] = self._best(vector, positions, k)
        return results

    def _best(self, query: NDArray[np.float32], positions: NDArray[np.int64], k: int) -> list[Hit]:
        scores = _rounded(self._vectors.rows(positions).astype(np.float64) @ query.astype(np.float64))
        best = np.lexsort((positions, -scores))[:k]
        found = zip(positions[best].tolist(), scores[best].tolist(), strict=True)
        return [Hit(self._corpus[position], score) for position, score in found]

    def _place(self, store: Store) -> Path:
        folder = store_folder(store)
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="raggym-dense-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(DenseRetriever, self._corpus, **self._made_with), ()


def _check(corpus: Sequence[Passage], dtype: str, shard: int) -> None:
    if not len(corpus):
        raise DataError("The corpus holds no passage to search for.")
    if dtype not in DTYPES:
        raise UnknownName("dtype of the 'dense' retriever", str(dtype), DTYPES)
    if not isinstance(shard, int) or shard < 1:
        raise RetrievalError(f"shard must be a whole number of passages, at least 1, got {shard!r}.")


def _candidates(index: VectorIndex, queries: NDArray[np.float32], k: int, total: int) -> list[NDArray[np.int64]]:
    """For each query the positions of a few more than `k` vectors: all that could be among the best `k`."""
    found: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(queries)
    rows = np.arange(len(queries))
    depth = k + _MARGIN
    while len(rows):
        depth = min(depth, total)
        scores, positions = index.search(queries[rows], depth)
        for row, line in zip(rows, positions, strict=True):
            found[row] = line[line >= 0]
        # Where the last one found may tie with the k-th, so may others that were not found.
        last, limit = scores[:, -1].astype(np.float64), scores[:, k - 1].astype(np.float64)
        rows = rows[(last >= limit - _TIE * np.abs(limit)) & (positions[:, -1] >= 0) & (depth < total)]
        depth *= 4
    return found


def _rounded(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    mantissa, exponent = np.frexp(scores)
    rounded: NDArray[np.float64] = np.ldexp(np.round(np.ldexp(mantissa, _BITS)), exponent - _BITS)
    return rounded


def _open_vectors(
    corpus: Sequence[Passage], encoder: Encoder, key: dict[str, Any], shard: int, store: Path
) -> MappedVectors:
    def build(folder: Path) -> None:
        partial = folder.with_suffix(".shards")
        _embed(corpus, encoder.passages(), partial, np.dtype(key["dtype"]), shard)
        for path in partial.glob("*.npy"):
            _link(path, folder / path.name)

    folder = open_or_build(
        "embeddings", key, build, store=store, libraries=("sentence-transformers", "transformers", "torch")
    )
    shutil.rmtree(folder.with_suffix(".shards"), ignore_errors=True)
    vectors = MappedVectors.load(folder)
    if len(vectors) != len(corpus):
        raise RetrievalError(f"{folder} holds {len(vectors)} vectors for {len(corpus)} passages. Delete this folder.")
    return vectors


def _open_index(vectors: MappedVectors, options: IndexOptions, key: dict[str, Any], store: Path) -> VectorIndex:
    if options.kind == "flat":
        return FlatIndex(vectors)
    name = "index.faiss"
    folder = open_or_build(
        "dense", key, lambda path: build_index(vectors, options, path / name), store=store, libraries=("faiss-cpu",)
    )
    return FaissIndex(folder / name, options)


def _embed(corpus: Sequence[Passage], embed: _Embed, folder: Path, dtype: np.dtype[Any], shard: int) -> None:
    """Embed what is not embedded yet, shard by shard, each written whole."""
    folder.mkdir(parents=True, exist_ok=True)
    done = _embedded(folder)
    with _progress(done, len(corpus)) as advance:
        for start in range(done, len(corpus), shard):
            passages = [corpus[row] for row in range(start, min(start + shard, len(corpus)))]
            with np.errstate(over="ignore"):
                vectors = embed(passages).astype(dtype)
            if not np.isfinite(vectors).all():
                raise RetrievalError(f"Passages from {start} on have vectors that {dtype} cannot hold.")
            _write(vectors, folder / f"{start:010d}-{start + len(passages):010d}.npy")
            advance(len(passages))


def _embedded(folder: Path) -> int:
    """How many passages from the first on are embedded already."""
    done = 0
    for path in sorted(folder.glob("*.npy")):
        start, end = map(int, path.stem.split("-"))
        if start != done:
            break
        done = end
    return done


def _write(vectors: NDArray[Any], path: Path) -> None:
    with path.with_suffix(".tmp").open("wb") as file:
        np.save(file, vectors, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    path.with_suffix(".tmp").replace(path)


def _link(source: Path, target: Path) -> None:
    """Give a file a second place, so that it stays in the first until all of the second is known to be written."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


@contextlib.contextmanager
def _progress(done: int, total: int) -> Iterator[Callable[[int], None]]:
    """Called with how many more are done: a bar on a terminal, and messages in the log."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        row = bar.add_task("Embedding passages", total=total, completed=done)

        def advance(more: int) -> None:
            bar.update(row, advance=more)
            _log.info("Embedded %d of %d passages", int(bar.tasks[0].completed), total)

        yield advance
