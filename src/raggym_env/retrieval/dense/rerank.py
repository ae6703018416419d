"""A second look: the best passages of any retriever, put in the order that a model gives them.

A cross-encoder reads query and passage together (Nogueira and Cho, arXiv:1901.04085), which is more exact than any
index and far too slow for a whole corpus; so it reads only the `depth` best of another retriever.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from raggym_env.core import Passage
from raggym_env.errors import MissingExtra, RetrievalError
from raggym_env.models.files import find
from raggym_env.protocols import Hit, search
from raggym_env.retrieval.dense.encoders import passage_text, torch_device
from raggym_env.retrieval.fusion import Spec, check_depth, make_member
from raggym_env.retrieval.index_store import key_hash
from raggym_env.retrieval.requests import check_request, encodable

__all__ = ["DEPTH", "MODEL", "CrossEncoderScorer", "PassageScorer", "RerankRetriever"]

DEPTH = 50
MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"
_PLACES = 5


@runtime_checkable
class PassageScorer(Protocol):
    """Says how well passages answer a query. One with a `fingerprint` puts it into the retriever's."""

    def score(self, query: str, passages: Sequence[Passage]) -> Sequence[float]:
        """One finite number per passage, in order; higher is better. At least one passage is given."""
        ...


class RerankRetriever:
    """Reranks what another retriever finds. Thread-safe where the retriever and the model are.

    The `depth` best of the retriever are scored, or `k` where that is more; nothing beyond them is ever returned.
    Equal scores keep the retriever's order. Each query's passages are scored by themselves, so a result does not
    depend on the other queries of a request.

    Args:
        corpus: The passages, given to the retriever unless that is passed in.
        retriever: A name, a table `{name = "bm25", k1 = 0.9}` with its options, or an object with a `search` method.
        model: Folder or name on the hub of a cross-encoder, or an object with the `score` method of
            `PassageScorer`.
        depth: Passages scored per query, at least 1.
        device: For a cross-encoder, as for `CrossEncoderScorer`, like `batch_size` and `max_length`.
        batch_size: See `device`.
        max_length: See `device`.

    Raises:
        RetrievalError: An option has a value it cannot have, or the model cannot be used.
        UnknownName: No retriever has that name or option.
        MissingExtra: sentence-transformers is not installed.
    """

    def __init__(
        self,
        corpus: Sequence[Passage],
        *,
        retriever: Spec = "bm25",
        model: str | Path | PassageScorer = MODEL,
        depth: int = DEPTH,
        device: str | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> None:
        self._depth = check_depth(depth)
        self._first = make_member(retriever, corpus)
        if isinstance(model, str | Path):
            self._scorer: PassageScorer = CrossEncoderScorer(
                model, device=device, batch_size=batch_size, max_length=max_length
            )
        elif isinstance(model, PassageScorer):
            self._scorer = model
        else:
            raise RetrievalError(f"model must be a name, a folder or have a score method, got {model!r:.100}.")

    @property
    def fingerprint(self) -> str:
        """Changes with the retriever, the model and the depth, as far as their own fingerprints do."""
        key = {
            "retriever": self._first.fingerprint,
            "model": str(getattr(self._scorer, "fingerprint", "")),
            "depth": self._depth,
        }
        return f"rerank-{key_hash(key)}"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; scores are the model's, and equal ones keep the first retriever's order."""
        check_request(queries, k)
        if not queries:
            return []
        found = search(self._first, queries, max(self._depth, k))
        return [self._reranked(query, hits)[:k] for query, hits in zip(queries, found, strict=True)]

    def _reranked(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        if not hits:
            return []
        passages = [hit.passage for hit in hits]
        scores = [float(score) for score in self._scorer.score(query, passages)]
        if len(scores) != len(passages) or not all(map(math.isfinite, scores)):
            raise RetrievalError(
                f"{type(self._scorer).__name__} must give one finite score for each of {len(passages)} passages, "
                f"gave {scores!r:.200} for the query {query!r:.80}."
            )
        rescored = map(Hit, passages, scores)
        return sorted(rescored, key=lambda hit: -hit.score)  # stable: equal scores keep their order


class CrossEncoderScorer:
    """A sentence-transformers `CrossEncoder` with one output: a logit, rounded to five places. Thread-safe.

    A passage is read as `dense` reads it, title, space, text, and cut where it exceeds the model's length. Weights
    come from safetensors files only, and no code that comes with a model is ever run.

    Args:
        model: Folder, or name on the hub.
        device: A torch device such as "cpu" or "cuda:1"; None for a GPU where there is one.
        batch_size: Pairs computed at once, at least 1.
        max_length: Tokens of query and passage together, at most the model's own limit, which is the default.

    Raises:
        MissingExtra: sentence-transformers is not installed.
        RetrievalError: The model cannot be had, is not trained to score pairs, or an option is out of its range.
    """

    fingerprint: str
    """Changes with the model and `max_length`."""

    def __init__(
        self,
        model: str | Path,
        *,
        device: str | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> None:
        if type(batch_size) is not int or batch_size < 1:
            raise RetrievalError(f"batch_size must be a whole number, at least 1, got {batch_size!r}.")
        self.name = str(model)
        self._batch_size = batch_size
        source = find(self.name, hub=self.name, known=(MODEL,))
        self._encoder = _load(source.folder, torch_device(device))
        self._encoder.max_seq_length = _length(self._encoder, max_length)
        self._lock = threading.Lock()  # a tokenizer of the tokenizers library is not thread-safe while it pads
        self.fingerprint = key_hash({"model": source.identity, "max_length": max_length})

    def score(self, query: str, passages: Sequence[Passage]) -> list[float]:
        """One logit per passage.

        Raises:
            RetrievalError: The memory does not suffice, or the model failed otherwise.
        """
        query = encodable(query)
        pairs = [(query, passage_text(passage)) for passage in passages]
        try:
            with self._lock:
                scores = self._encoder.predict(pairs, batch_size=self._batch_size, show_progress_bar=False)
        except (RuntimeError, ValueError, IndexError) as error:
            raise RetrievalError(
                f"The cross-encoder {self.name} failed on {len(pairs)} pairs (batch_size={self._batch_size}): {error}"
            ) from error
        # The same text at another place of a batch differs in the last bits; the corpus may hold a text twice.
        return [round(float(score), _PLACES) for score in scores]


def _load(folder: Path, device: str | None) -> Any:
    try:
        import torch
        from safetensors import SafetensorError
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MissingExtra("A cross-encoder", "dense") from error
    try:
        encoder = CrossEncoder(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
            # The usual sigmoid is 1.0 for every logit above 17 and would make ties of them.
            activation_fn=torch.nn.Identity(),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise RetrievalError(
            f"The cross-encoder in {folder} cannot be loaded: {error}. It needs a config.json, a tokenizer and "
            "safetensors weights."
        ) from error
    _require_trained(folder, encoder)
    return encoder


def _require_trained(folder: Path, encoder: Any) -> None:
    """Refuse a model whose scores would come from weights that were never trained, or from several outputs."""
    if encoder.num_labels != 1:
        raise RetrievalError(f"{folder} has {encoder.num_labels} outputs. A reranker has one: num_labels = 1.")
    model = encoder.transformers_model
    if type(model).__name__.endswith("ForSequenceClassification"):
        saved_as = getattr(model.config, "architectures", None) or []
        if not any(name.endswith("ForSequenceClassification") for name in saved_as):
            raise RetrievalError(
                f"{folder} is no cross-encoder: it was saved as {', '.join(saved_as) or 'a bare encoder'}, without a "
                f"layer that scores. Pass one that was trained to, such as {MODEL!r}."
            )


def _length(encoder: Any, wanted: int | None) -> int:
    text = encoder.config.get_text_config()
    limits = (encoder.max_seq_length, getattr(text, "max_position_embeddings", None), 1 << 31)
    own = min(int(limit) for limit in limits if limit)
    if wanted is None:
        return own
    if type(wanted) is not int or not 1 <= wanted <= own:
        raise RetrievalError(f"max_length must be a whole number from 1 to the model's {own}, got {wanted!r}.")
    return wanted
