"""Dense retrieval: passages and queries become vectors, and FAISS finds the nearest passages.

    <store>/
        embeddings-4f1c0d9a8b7e6f50.shards/      shards of a corpus that is being embedded, from which a build resumes
        embeddings-4f1c0d9a8b7e6f50/             the vectors of all passages: 0000000000-0000004096.npy, ...
        dense-7d0a11c45e9f3b26/                  an hnsw or ivf index over them: index.faiss

Embedding takes most of the time, so vectors are stored apart from the index: every kind of index uses the same ones.

Scores and ties. FAISS only proposes candidates. Their scores are computed again in float64 from the stored vectors,
rounded to 16 significant bits (a relative 1.5e-5, far above the noise of an encoder and far below the differences
between passages), and equal scores keep corpus order. So hits do not depend on how FAISS splits its work, every kind
of index gives a passage the same score, and copies of a passage keep their order.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raggym_env.core import Passage
from raggym_env.data.prebuilt import PREBUILT, prebuilt_file
from raggym_env.errors import DataError, RetrievalError, UnknownName, check_option
from raggym_env.protocols import Hit
from raggym_env.retrieval.dense.encoders import Encoder, EncoderOptions, Vectors
from raggym_env.retrieval.dense.faiss_file import flat_file_vectors
from raggym_env.retrieval.dense.faiss_index import (
    FaissIndex,
    FlatIndex,
    IndexOptions,
    MappedVectors,
    Positions,
    build_index,
    shard_rows,
)
from raggym_env.retrieval.index_store import Store, corpus_key, key_hash, open_or_build, store_folder
from raggym_env.retrieval.requests import check_request
from raggym_env.storage.atomic import atomic_file
from raggym_env.storage.parsing import ParseError, open_file

__all__ = ["DTYPES", "DenseRetriever"]

DTYPES = ("float32", "float16")
_BITS = 16  # significant bits of a score
_TIE = 2.0**-13  # relative difference of float32 scores below which the exact ones may have another order
_MARGIN = 8  # candidates beyond k, so that one search usually settles the ties at the last rank
_SAMPLE = 1 << 20  # bytes
_log = logging.getLogger(__name__)

_Embed = Callable[[Sequence[Passage]], Vectors]


# Options are inherited as fields, so that each is named, typed and documented once, and the generated constructor
# takes all of them by keyword. Bases are listed from the last: the encoder's options then come first.
@dataclass(frozen=True, eq=False, kw_only=True)
class DenseRetriever(IndexOptions, EncoderOptions):
    """Finds the passages whose vectors have the largest inner product with the query's. Thread-safe.

    A blank query has no hits. Any other query has `k`, or all passages if there are fewer; only an approximate index
    may find fewer. Queries and passages longer than the encoder reads are cut off at the end.

    The keyword arguments are those of `EncoderOptions` and `IndexOptions`, and the fields below.

    Raises:
        DataError: The corpus is empty.
        OptionError: An option is out of range.
        UnknownName: There is no such encoder, kind of index or dtype.
        RetrievalError: The encoder is not available, or the index cannot be built or opened.
        MissingExtra: sentence-transformers or FAISS is not installed.
    """

    corpus: Sequence[Passage] = field(kw_only=False, repr=False)
    """The passages. Their order decides between equal scores."""
    dtype: str = "float32"
    """Precision of the vectors on disk, "float32" or "float16". float16 takes half the space, but a flat index has to
    convert all vectors for each search: ten times as long for a single query."""
    shard: int = 4096
    """Passages embedded between two checkpoints, from which an interrupted build resumes."""
    vectors: str | Path | None = None
    """Vectors of the passages that were computed elsewhere, by the same encoder and in the corpus's order: the file of
    a flat FAISS index by inner product, or a name in `raggym_env.data.prebuilt.PREBUILT`. None computes them."""
    store: Store = True
    """See `index_store.Store`; False builds in a temporary folder, deleted with the retriever."""

    def __post_init__(self) -> None:
        EncoderOptions.__post_init__(self)
        IndexOptions.__post_init__(self)
        if not len(self.corpus):
            raise DataError("The corpus has no passages to search.")
        if self.dtype not in DTYPES:
            raise UnknownName("dtype of the 'dense' retriever", str(self.dtype), DTYPES)
        valid = isinstance(self.shard, int) and self.shard >= 1
        check_option("shard", self.shard, valid, "a whole number of passages, at least 1")
        fits = self.vectors is None or self.dtype == "float32"
        check_option("dtype", self.dtype, fits, "float32 with prebuilt vectors")
        # Open everything now: errors are the constructor's, and no two threads open it at once.
        _ = self._index

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`."""
        check_request(queries, k)
        results: list[list[Hit]] = [[] for _ in queries]
        rows = [row for row, query in enumerate(queries) if query.strip()]
        if rows:
            vectors, total = self._encoder.queries([queries[row] for row in rows]), len(self._vectors)
            if vectors.shape[1] != self._vectors.dimension:
                raise RetrievalError(
                    f"The encoder's vectors have {vectors.shape[1]} dimensions, those of the index in {self._folder} "
                    f"{self._vectors.dimension}. Delete the index to have it built again."
                )
            if self.quantization == "none":
                candidates = _candidates(self._index, vectors, min(k, total), total)
            else:  # by scores that are too rough to tell ties
                _, lines = self._index.search(vectors, min(max(k, self.rescored), total))
                candidates = [line[line >= 0] for line in lines]
            for row, vector, positions in zip(rows, vectors, candidates, strict=True):
                exact = self._vectors.rows(positions).astype(np.float64) @ vector.astype(np.float64)
                mantissa, exponent = np.frexp(exact)
                scores = np.ldexp(np.round(np.ldexp(mantissa, _BITS)), exponent - _BITS)  # to _BITS significant bits
                if not np.isfinite(scores).all():
                    raise RetrievalError(
                        f"A vector in {self._folder} is not finite. Delete it to have it computed again."
                    )
                best = np.lexsort((positions, -scores))[:k]  # by score, then by position in the corpus
                passages = [self.corpus[position] for position in positions[best].tolist()]
                results[row] = list(map(Hit, passages, scores[best].tolist()))
        return results

    @cached_property
    def fingerprint(self) -> str:
        """Changes with everything that changes results: the corpus, the encoder, the precision and the index."""
        return f"dense-{key_hash({**self._index_key, 'queries': self._encoder.query_key, **self.search_key})}"

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self)

    @cached_property
    def _index_key(self) -> dict[str, Any]:
        # Vectors from elsewhere may be of any encoder, so they are known by their content.
        encoder = self._encoder.passage_key if self._prebuilt is None else {"file": _sample_hash(self._prebuilt)}
        vectors = {"corpus": corpus_key(self.corpus), "encoder": encoder, "dtype": self.dtype}
        return {"vectors": vectors, **self.build_key(len(self.corpus))}

    @cached_property
    def _folder(self) -> Path:
        folder = store_folder(self.store)
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="raggym-dense-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    @cached_property
    def _prebuilt(self) -> Path | None:
        if self.vectors is None:
            return None
        return prebuilt_file(str(self.vectors)) if self.vectors in PREBUILT else Path(self.vectors).expanduser()

    @cached_property
    def _vectors(self) -> MappedVectors:
        if self._prebuilt is not None:
            return _prebuilt_vectors(self._prebuilt, len(self.corpus))
        return _open_vectors(self.corpus, self._encoder, self._index_key["vectors"], self.shard, self._folder)

    @cached_property
    def _index(self) -> FlatIndex | FaissIndex:
        key, vectors = self._index_key, self._vectors
        if self.index == "flat":
            return FlatIndex(vectors)

        def build(folder: Path) -> None:
            build_index(vectors, self, folder / "index.faiss")

        folder = open_or_build("dense", key, build, store=self._folder, libraries=("faiss-cpu",))
        return FaissIndex(folder / "index.faiss", self, vectors)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy opens the stored vectors and index again: mapped files cannot be sent to another process.
        return functools.partial(type(self), **{item.name: getattr(self, item.name) for item in fields(self)}), ()


def _candidates(index: FlatIndex | FaissIndex, queries: Vectors, k: int, total: int) -> list[Positions]:
    """Return for each query the positions of all vectors that could be among its best `k`: a few more than `k`."""
    candidates: list[Positions] = [np.empty(0, np.int64)] * len(queries)
    rows = np.arange(len(queries))
    depth = k + _MARGIN
    while len(rows):
        depth = min(depth, total)
        scores, positions = index.search(queries[rows], depth)
        for row, line in zip(rows, positions, strict=True):
            candidates[row] = line[line >= 0]
        # If the last candidate may tie with the k-th, so may vectors beyond it: search deeper for those queries.
        last, limit = scores[:, -1].astype(np.float64), scores[:, k - 1].astype(np.float64)
        rows = rows[(last >= limit - _TIE * np.abs(limit)) & (positions[:, -1] >= 0) & (depth < total)]
        depth *= 4
    return candidates


def _prebuilt_vectors(path: Path, passages: int) -> MappedVectors:
    try:
        return MappedVectors([flat_file_vectors(path, passages)])
    except (OSError, ParseError) as error:
        raise RetrievalError(
            f"{path} cannot be used as the vectors of the corpus, which has {passages:,} passages: {error}. It must be "
            "a flat FAISS index by inner product, of the passages in their order."
        ) from error


def _sample_hash(path: Path) -> str:
    """Return a hash of a file's size and of its first and last part: reading all of 65 GB would take minutes."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_SAMPLE)
            file.seek(max(0, size - _SAMPLE))
            return hashlib.blake2b(b"%d " % size + head + file.read(_SAMPLE), digest_size=8).hexdigest()
    except (OSError, ParseError) as error:
        raise RetrievalError(f"The vectors {path} cannot be read: {error}.") from error


def _open_vectors(
    corpus: Sequence[Passage], encoder: Encoder, key: dict[str, Any], shard: int, store: Path
) -> MappedVectors:
    def build(folder: Path) -> None:
        shards = folder.with_suffix(".shards")
        _embed(corpus, encoder.passages(), shards, np.dtype(key["dtype"]), shard)
        # Linked, not moved: should the build fail now, say on a full disk, hours of embedding would be lost.
        for path in shards.glob("*.npy"):
            try:
                os.link(path, folder / path.name)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, folder / path.name)

    libraries = ("sentence-transformers", "transformers", "torch")
    folder = open_or_build("embeddings", key, build, store=store, libraries=libraries)
    shutil.rmtree(folder.with_suffix(".shards"), ignore_errors=True)
    vectors = MappedVectors.load(folder)
    if len(vectors) != len(corpus) or vectors.dtype != key["dtype"]:
        raise RetrievalError(
            f"{folder} holds {len(vectors)} vectors in {vectors.dtype} for {len(corpus)} passages in {key['dtype']}. "
            "Delete this folder."
        )
    return vectors


def _embed(corpus: Sequence[Passage], embed: _Embed, folder: Path, dtype: np.dtype[Any], shard: int) -> None:
    """Embed the rest of the corpus, shard by shard, each written completely or not at all. Shows and logs progress."""
    from rich.console import Console
    from rich.progress import Progress

    folder.mkdir(parents=True, exist_ok=True)
    first = _embedded(folder)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("Embedding passages", total=len(corpus), completed=first)
        for start in range(first, len(corpus), shard):
            passages = [corpus[row] for row in range(start, min(start + shard, len(corpus)))]
            with np.errstate(over="ignore"):  # overflow in float16 is the error below
                vectors = embed(passages).astype(dtype)
            if not np.isfinite(vectors).all():
                raise RetrievalError(f"Passages from {start} on have vectors that {dtype} cannot hold.")
            end = start + len(passages)
            with atomic_file(folder / f"{start:010d}-{end:010d}.npy") as file:
                np.save(file, np.ascontiguousarray(vectors), allow_pickle=False)
            bar.update(task, completed=end)
            _log.info("Embedded %d of %d passages", end, len(corpus))


def _embedded(folder: Path) -> int:
    """Return the number of passages, counted from the first without a gap, that are embedded already."""
    count = 0
    for path in sorted(folder.glob("*.npy")):
        start, end = shard_rows(path) or (-1, -1)
        if start != count or end <= start:
            break
        count = end
    return count
