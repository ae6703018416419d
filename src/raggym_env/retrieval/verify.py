"""Deep checks of stored indexes, for `raggym index verify`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raggym_env.errors import RetrievalError
from raggym_env.retrieval.index_store import check_index, store_folder
from raggym_env.storage.checksums import Progress

__all__ = ["index_folders", "verify_index"]


def index_folders(folder: Path | None = None) -> list[Path]:
    """Return the indexes in a store, by default that in the cache; a folder that is itself an index is the only one."""
    store = folder or store_folder(True)
    assert store is not None  # noqa: S101  # for mypy
    if (store / "manifest.json").exists():
        return [store]
    return sorted(path for path in store.glob("*-*/") if path.suffix not in (".partial", ".shards"))


def verify_index(folder: Path, progress: Progress | None = None) -> str:
    """Read all of an index, and return a description of it.

    Raises:
        RetrievalError: It is damaged, or of another format.
        MissingExtra: Its back end is not installed.
    """
    manifest = check_index(folder, progress)
    kind, key = manifest["kind"], manifest["key"]
    if kind not in _CHECKS:
        raise RetrievalError(f"{folder} holds an index of the kind {kind!r}, which this version does not know.")
    # An index over vectors has the key of the vectors in its own.
    vectors = key.get("vectors", key)
    corpus = vectors.get("corpus") if isinstance(vectors, dict) else None
    passages = corpus.get("passages") if isinstance(corpus, dict) else None
    if type(passages) is not int:
        raise RetrievalError(f"{folder} holds an index whose manifest has no number of passages.")
    try:
        _CHECKS[kind](folder, passages, key)
    except (OSError, ValueError) as error:
        raise RetrievalError(f"The index in {folder} is damaged: {error}. Delete it to have it built again.") from error
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return f"{kind} index of {passages:,} passages, {size / 1e6:,.1f} MB"


def _bm25(folder: Path, passages: int, key: Mapping[str, Any]) -> None:
    from raggym_env.retrieval.bm25.index import Index

    Index.load(folder, passages).check()


def _embeddings(folder: Path, passages: int, key: Mapping[str, Any]) -> None:
    from raggym_env.retrieval.dense.faiss_index import MappedVectors

    vectors = MappedVectors.load(folder)
    vectors.check()
    if len(vectors) != passages or vectors.dtype != key.get("dtype"):
        raise ValueError(f"{len(vectors):,} vectors in {vectors.dtype}, not {passages:,} in {key.get('dtype')}")


def _dense(folder: Path, passages: int, key: Mapping[str, Any]) -> None:
    import numpy as np

    from raggym_env.retrieval.dense.faiss_file import check_faiss_file

    kind, dtype = key.get("kind"), key["vectors"].get("dtype") if "vectors" in key else None
    quantization = key.get("quantization", "none")
    if kind not in ("hnsw", "ivf") or dtype not in ("float32", "float16") or not isinstance(quantization, str):
        raise ValueError(f"an index of the kind {kind!r} over vectors in {dtype!r}, quantized by {quantization!r}")
    check_faiss_file(folder / "index.faiss", kind, np.dtype(dtype), passages, quantization=quantization)


def _lucene(folder: Path, passages: int, key: Mapping[str, Any]) -> None:
    from raggym_env.retrieval.lucene.index import document_count

    if (documents := document_count(folder)) != passages:
        raise ValueError(f"it has {documents:,} documents")


_CHECKS = {"bm25": _bm25, "embeddings": _embeddings, "dense": _dense, "lucene": _lucene}
