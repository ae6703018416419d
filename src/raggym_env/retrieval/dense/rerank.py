"""Reranking: a model reorders the best passages of any retriever.

A cross-encoder reads query and passage together (Nogueira and Cho, arXiv:1901.04085), which is more accurate than any
index and far too slow for a whole corpus, so it reads only the `depth` best passages of another retriever.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from raggym_env.core import Passage
from raggym_env.errors import MissingExtra, RetrievalError, check_option
from raggym_env.models.files import check_files, find
from raggym_env.protocols import Hit, search
from raggym_env.retrieval.dense.encoders import passage_text, torch_device
from raggym_env.retrieval.fusion import Spec, check_depth, make_member
from raggym_env.retrieval.index_store import key_hash
from raggym_env.retrieval.requests import check_request, encodable

__all__ = ["DEPTH", "MODEL", "CrossEncoderScorer", "PassageScorer", "RerankRetriever"]

DEPTH = 50
MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"
_PLACES = 5  # decimals of a score: coarser than the noise between batches, finer than any real difference


@runtime_checkable
class PassageScorer(Protocol):
    """Scores how well passages answer a query. If it has a `fingerprint`, the retriever's depends on it."""

    def score(self, query: str, passages: Sequence[Passage]) -> Sequence[float]:
        """Return one finite number per passage, in order; higher is better. There is at least one passage."""
        ...


class RerankRetriever:
    """Reranks the hits of another retriever. Thread-safe if the retriever and the model are.

    The `depth` best passages of the retriever are scored, or `k` if that is more; no others are ever returned. Equal
    scores keep the retriever's order. Each query's passages are scored separately, so a result does not depend on the
    other queries of a request.

    Args:
        corpus: The passages, for a retriever given by name or table.
        retriever: A name, a table `{name = "bm25", k1 = 0.9}` with its options, or an object with a `search` method.
        model: Folder or name on the hub of a cross-encoder, or a `PassageScorer`.
        depth: Passages scored per query, at least 1.
        device, batch_size, max_length: Of the cross-encoder, as for `CrossEncoderScorer`.

    Raises:
        OptionError: An option is out of range, or the retriever has no such option.
        RetrievalError: The model cannot be used.
        UnknownName: No retriever has that name.
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
        else:
            check_option(
                "model", model, isinstance(model, PassageScorer), "a name, a folder or an object with a score method"
            )
            self._scorer = model

    @property
    def fingerprint(self) -> str:
        """Changes with the depth, and with the retriever and the model as far as their fingerprints do."""
        key = {
            "retriever": self._first.fingerprint,
            "model": str(getattr(self._scorer, "fingerprint", "")),
            "depth": self._depth,
        }
        return f"rerank-{key_hash(key)}"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`; scores are the model's, and equal ones keep the retriever's order."""
        check_request(queries, k)
        if not queries:
            return []
        results = search(self._first, queries, max(self._depth, k))
        return [self._reranked(query, hits)[:k] for query, hits in zip(queries, results, strict=True)]

    def _reranked(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        if not hits:
            return []
        passages = [hit.passage for hit in hits]
        scores = [float(score) for score in self._scorer.score(query, passages)]
        # NaN compares as false with everything, so sorting by it would give any order without an error.
        if len(scores) != len(passages) or not all(map(math.isfinite, scores)):
            raise RetrievalError(
                f"{type(self._scorer).__name__} must give one finite score for each of {len(passages)} passages, "
                f"gave {scores!r:.200} for the query {query!r:.80}."
            )
        return sorted(map(Hit, passages, scores), key=lambda hit: -hit.score)  # stable: equal scores keep their order


class CrossEncoderScorer:
    """Scores by a sentence-transformers `CrossEncoder`: its single logit, rounded to five decimals. Thread-safe.

    A passage is read as one text, title, space, text, and cut off at the model's length. Weights are read from
    safetensors files only, and no code that comes with a model is run.

    Args:
        model: Folder, or name on the hub.
        device: A torch device such as "cpu" or "cuda:1"; None for a GPU if there is one.
        batch_size: Pairs scored at once, at least 1.
        max_length: Tokens of query and passage together, at most the model's limit, which is the default.

    Raises:
        MissingExtra: sentence-transformers is not installed.
        OptionError: An option is out of range.
        RetrievalError: The model is not available, or was not trained to score pairs.
    """

    fingerprint: str
    """Changes with the model and `max_length`."""

    def __init__(
        self, model: str | Path, *, device: str | None = None, batch_size: int = 32, max_length: int | None = None
    ) -> None:
        valid = type(batch_size) is int and batch_size >= 1
        check_option("batch_size", batch_size, valid, "a whole number, at least 1")
        self.name = str(model)
        self._batch_size = batch_size
        source = find(self.name, hub=self.name, suggestions=(MODEL,))
        self._encoder = _load(source.folder, torch_device(device))
        self._encoder.max_seq_length = _length(self._encoder, max_length)
        self._lock = threading.Lock()  # a tokenizer of the tokenizers library is not thread-safe while it pads
        self.fingerprint = key_hash({"model": source.identity, "max_length": max_length})

    def score(self, query: str, passages: Sequence[Passage]) -> list[float]:
        """Return one logit per passage.

        Raises:
            RetrievalError: The model failed, or there is not enough memory.
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
        # A text's logit differs in the last bits with its place in the batch. Rounded, copies of a passage are ties.
        return [round(float(score), _PLACES) for score in scores]


def _load(folder: Path, device: str | None) -> Any:
    try:
        import torch
        from safetensors import SafetensorError
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MissingExtra("A cross-encoder", "dense") from error
    try:
        check_files(folder)
        encoder = CrossEncoder(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
            # The usual sigmoid is 1.0 in float32 for every logit above 17, and would make ties of them.
            activation_fn=torch.nn.Identity(),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise RetrievalError(
            f"The cross-encoder in {folder} cannot be loaded: {error}. It needs a config.json, a tokenizer and "
            "safetensors weights."
        ) from error
    if encoder.num_labels != 1:
        raise RetrievalError(f"{folder} has {encoder.num_labels} outputs. A reranker has one: num_labels = 1.")
    model = encoder.transformers_model
    saved_as = getattr(model.config, "architectures", None) or []
    # transformers adds a random scoring layer to a bare encoder and only logs it.
    suffix = "ForSequenceClassification"
    if type(model).__name__.endswith(suffix) and not any(name.endswith(suffix) for name in saved_as):
        raise RetrievalError(
            f"{folder} is not a cross-encoder: it was saved as {', '.join(saved_as) or 'a bare encoder'}, without a "
            f"scoring layer. Pass a trained cross-encoder such as {MODEL!r}."
        )
    return encoder


def _length(encoder: Any, max_length: int | None) -> int:
    text_config = encoder.config.get_text_config()
    # Either may be missing; tokenizers without a limit report a huge one.
    limits = (encoder.max_seq_length, getattr(text_config, "max_position_embeddings", None), 1 << 31)
    longest = min(int(limit) for limit in limits if limit)
    if max_length is None:
        return longest
    valid = type(max_length) is int and 1 <= max_length <= longest
    check_option("max_length", max_length, valid, f"a whole number from 1 to the model's {longest}")
    return max_length
