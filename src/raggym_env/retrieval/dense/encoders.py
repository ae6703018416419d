"""Encoders that turn queries and passages into vectors: a table of the known ones, and how any other is loaded.

The rows of `ENCODERS` say what the model cards say: what is put before a query or a passage, how token vectors are
pooled, whether the result is normalised, and how many tokens are read. All compare by inner product, which for
normalised vectors is the cosine. sentence-transformers does the work.

Files from others are data: weights are read from safetensors files only, never from pickles, and no code that comes
with a model is run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Passage
from raggym_env.errors import MissingExtra, RetrievalError, UnknownName
from raggym_env.models.files import Source, find
from raggym_env.retrieval.requests import encodable

__all__ = ["ENCODERS", "Encoder", "EncoderSpec", "Vectors", "passage_text", "torch_device"]

Vectors = NDArray[np.float32]

MIN_LENGTH = 8
"""Fewer tokens would leave no room for a word between the model's own."""


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What an encoder expects, from its model card."""

    hub: str
    """Its name on the Hugging Face hub."""
    passage_hub: str = ""
    """The encoder of passages, where it is another one."""
    query_prefix: str = ""
    passage_prefix: str = ""
    pooling: Literal["cls", "mean"] = "mean"
    normalize: bool = True
    query_length: int = 512
    """Tokens read of a query, its prefix included; the rest is cut off."""
    passage_length: int = 512
    pairs: bool = False
    """A passage is given as a pair of title and text. Otherwise as one text: title, space, text."""

    @property
    def for_queries(self) -> dict[str, Any]:
        """What the vector of a query depends on, beside the model and the text."""
        return {**self._for_both, "prefix": self.query_prefix, "length": self.query_length}

    @property
    def for_passages(self) -> dict[str, Any]:
        """What the vector of a passage depends on, beside the model and the text."""
        return {**self._for_both, "prefix": self.passage_prefix, "length": self.passage_length, "pairs": self.pairs}

    @property
    def _for_both(self) -> dict[str, Any]:
        return {"pooling": self.pooling, "normalize": self.normalize}


_BGE = "Represent this sentence for searching relevant passages: "

ENCODERS: dict[str, EncoderSpec] = {
    "minilm": EncoderSpec("sentence-transformers/all-MiniLM-L6-v2", query_length=256, passage_length=256),
    "bge-small": EncoderSpec("BAAI/bge-small-en-v1.5", query_prefix=_BGE, pooling="cls"),
    "bge-base": EncoderSpec("BAAI/bge-base-en-v1.5", query_prefix=_BGE, pooling="cls"),
    "bge-large": EncoderSpec("BAAI/bge-large-en-v1.5", query_prefix=_BGE, pooling="cls"),
    "e5-base": EncoderSpec("intfloat/e5-base-v2", query_prefix="query: ", passage_prefix="passage: "),
    "e5-large": EncoderSpec("intfloat/e5-large-v2", query_prefix="query: ", passage_prefix="passage: "),
    "contriever": EncoderSpec("facebook/contriever", normalize=False),
    "contriever-msmarco": EncoderSpec("facebook/contriever-msmarco", normalize=False),
    "medcpt": EncoderSpec(
        "ncbi/MedCPT-Query-Encoder",
        passage_hub="ncbi/MedCPT-Article-Encoder",
        pooling="cls",
        normalize=False,
        query_length=64,
        pairs=True,
    ),
}
"""Name -> what it expects. BGE: arXiv:2309.07597. E5: arXiv:2212.03533. Contriever: arXiv:2112.09118.
MedCPT: arXiv:2307.00589. MiniLM: arXiv:2002.10957, fine-tuned by the sentence-transformers project."""


class Encoder:
    """Turns queries and passages into vectors. Thread-safe: one thread encodes at a time.

    Args:
        model: A name of `ENCODERS`, a name on the hub (`OWNER/NAME`), or a folder. What the table does not know must
            be a sentence-transformers model: its own configuration then says how texts are encoded.
        passage_model: The same for passages, where they have an encoder of their own.
        like: A name of `ENCODERS` whose prefixes, pooling and lengths hold for `model`: for a fine-tuned or converted
            copy.
        max_length: Tokens read of a text, at most as many as the model reads anyway. The rest is cut off.
        device: A torch device such as "cpu" or "cuda:1"; None for a GPU where there is one.
        batch_size: Texts encoded at once.

    Raises:
        UnknownName: There is no model of that name.
        RetrievalError: The model cannot be had or is none that can be used, or an option is out of range.
        MissingExtra: sentence-transformers is not installed.
    """

    query_key: dict[str, Any]
    """All that the vector of a query depends on, as JSON values."""
    passage_key: dict[str, Any]
    """All that the vector of a passage depends on, as JSON values."""

    def __init__(
        self,
        model: str | Path = "minilm",
        *,
        passage_model: str | Path | None = None,
        like: str | None = None,
        max_length: int | None = None,
        device: str | None = None,
        batch_size: int = 64,
    ) -> None:
        _check(max_length, batch_size)
        spec = _spec(str(model), like)
        self._spec = spec
        self._max_length = max_length
        self._device = torch_device(device)
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self._queries = _find(str(model))
        self._passages = self._queries
        if passage_model or (spec and spec.passage_hub):
            self._passages = _find(str(passage_model or (spec and spec.passage_hub)))
        self.query_key = _key(self._queries, spec.for_queries if spec else None, max_length)
        self.passage_key = _key(self._passages, spec.for_passages if spec else None, max_length)
        self._model = self._load(self._queries, spec.query_length if spec else None)

    def queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of queries, shape `(n, dimension)`.

        On a CPU, queries of equal length are encoded together and without padding: padding changes a vector in its
        last bits, so it would depend on the other queries. On a GPU it does, by about 1e-6.
        """
        texts = [encodable(text) for text in texts]
        with self._lock:
            if self._model.device.type != "cpu":
                return self._encode(self._model.encode_query, texts)
            lengths = self._lengths(texts)
            rows = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
            parts = [self._encode(self._model.encode_query, [texts[row] for row in group]) for group in rows]
        vectors: Vectors = np.concatenate(parts)[np.argsort(np.concatenate(rows))]
        return vectors

    def passages(self) -> Callable[[Sequence[Passage]], Vectors]:
        """A function from passages to their vectors. It holds the passages' own encoder, where there is one."""
        spec = self._spec
        same = self._passages is self._queries and (spec is None or spec.passage_length == spec.query_length)
        model = self._model if same else self._load(self._passages, spec.passage_length if spec else None)
        as_input = _pair if spec and spec.pairs else passage_text

        def encode(passages: Sequence[Passage]) -> Vectors:
            with self._lock:
                return self._encode(model.encode_document, [as_input(passage) for passage in passages])

        return encode

    def _encode(self, encode: Callable[..., Any], inputs: list[Any]) -> Vectors:
        normalize = self._spec is None and self._model.similarity_fn_name == "cosine"
        vectors = encode(inputs, batch_size=self._batch_size, normalize_embeddings=normalize, show_progress_bar=False)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _lengths(self, texts: list[str]) -> NDArray[Any]:
        features = self._model.preprocess(texts, prompt=self._model.prompts.get("query"), task="query")
        mask = features.get("attention_mask")
        return np.zeros(len(texts)) if mask is None else np.asarray(mask.sum(dim=1))

    def _load(self, source: Source, length: int | None) -> Any:
        if not any(source.folder.glob("**/*.safetensors")):
            raise RetrievalError(
                f"The encoder in {source.folder} has no safetensors weights; others are not read, because they are "
                "pickles, which can run code. If you trust them, load and save the model once by "
                "sentence_transformers.SentenceTransformer(NAME).save(FOLDER), then pass model=FOLDER, and like=NAME "
                "if the table knows it."
            )
        model = _loaded(source.folder, self._spec, self._device)
        limits = [limit for limit in (model.max_seq_length, length, self._max_length) if limit]
        if limits:
            model.max_seq_length = min(limits)
        return model


def _check(max_length: int | None, batch_size: int) -> None:
    if max_length is not None and (not isinstance(max_length, int) or max_length < MIN_LENGTH):
        raise RetrievalError(f"max_length must be a whole number of tokens, at least {MIN_LENGTH}, got {max_length!r}.")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise RetrievalError(f"batch_size must be a whole number, at least 1, got {batch_size!r}.")


def torch_device(device: str | None) -> str | None:
    """The name of a torch device, checked; None is left to sentence-transformers, which takes a GPU if there is one.

    Raises:
        RetrievalError: There is no such device here.
        MissingExtra: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("The 'dense' retriever", "dense") from error
    try:
        kind = torch.device(device).type if device else None
    except RuntimeError as error:
        raise RetrievalError(f"device must be a torch device such as cpu or cuda:1, got {device!r}.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise RetrievalError(f"device={device!r} was asked for, but torch sees no GPU here. Use device='cpu'.")
    return device


def _spec(model: str, like: str | None) -> EncoderSpec | None:
    """What the table says of a model; None if nothing."""
    if like is not None and like not in ENCODERS:
        raise UnknownName("encoder", str(like), ENCODERS)
    return ENCODERS.get(like or model) or next((spec for spec in ENCODERS.values() if spec.hub == model), None)


def _loaded(folder: Path, spec: EncoderSpec | None, device: str | None) -> Any:
    try:
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtra("The 'dense' retriever", "dense") from error
    options: dict[str, Any] = {"model_kwargs": {"use_safetensors": True, "dtype": "float32"}}
    if spec is None and not (folder / "modules.json").is_file():
        raise RetrievalError(
            f"{folder} is no sentence-transformers model (it has no modules.json), so nothing says how its vectors "
            f"are made. Pass like=NAME if it is like one of: {', '.join(ENCODERS)}."
        )
    try:
        if spec:
            model: Any = SentenceTransformer(
                modules=_modules(folder, spec, options), device=device, prompts=_prompts(spec)
            )
        else:
            model = SentenceTransformer(
                str(folder), device=device, local_files_only=True, trust_remote_code=False, **options
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise RetrievalError(f"The encoder in {folder} cannot be loaded: {error}") from error
    if spec is None and model.similarity_fn_name not in ("cosine", "dot"):
        raise RetrievalError(
            f"The encoder in {folder} compares by {model.similarity_fn_name} distance; only cosine and dot can be used."
        )
    return model


def _modules(folder: Path, spec: EncoderSpec, options: dict[str, Any]) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(folder), **options)
    pooling = Pooling(transformer.get_embedding_dimension(), spec.pooling)
    return [transformer, pooling, *([Normalize()] if spec.normalize else [])]


def _prompts(spec: EncoderSpec) -> dict[str, str]:
    return {"query": spec.query_prefix, "document": spec.passage_prefix}


def passage_text(passage: Passage) -> str:
    """A passage as one text, as models read it that take no pairs."""
    return encodable(f"{passage.title} {passage.text}".strip())


def _pair(passage: Passage) -> tuple[str, str]:
    return encodable(passage.title), encodable(passage.text)


def _key(source: Source, settings: dict[str, Any] | None, max_length: int | None) -> dict[str, Any]:
    settings = settings or {}  # without, the model's own files say it all
    lengths = [length for length in (settings.get("length"), max_length) if length]
    return {"model": source.identity, **settings, "length": min(lengths, default=None)}


def _find(name: str) -> Source:
    return find(name, hub=ENCODERS[name].hub if name in ENCODERS else name, known=ENCODERS)
