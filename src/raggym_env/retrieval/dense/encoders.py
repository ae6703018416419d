"""Encoders that turn queries and passages into vectors: a table of popular models, and loading of any other.

sentence-transformers computes the vectors. They are compared by inner product, which for normalized vectors is the
cosine. Model files are untrusted: weights are read from safetensors files only, never from pickles, and no code that
comes with a model is run.
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
from raggym_env.errors import MissingExtra, OptionError, RetrievalError, UnknownName, check_option
from raggym_env.models.files import Source, UnsafeFiles, check_files, find
from raggym_env.retrieval.requests import encodable

__all__ = ["ENCODERS", "Encoder", "EncoderOptions", "EncoderSpec", "Vectors", "passage_text", "torch_device"]

Vectors = NDArray[np.float32]

MIN_LENGTH = 8
"""The smallest `max_length`: with fewer tokens, the special ones of the model would leave no room for a word."""


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """How an encoder has to be used, from its model card."""

    hub: str
    """Its name on the Hugging Face hub."""
    passage_hub: str = ""
    """The encoder of passages on the hub, if it is another one than that of queries."""
    query_prefix: str = ""
    passage_prefix: str = ""
    pooling: Literal["cls", "mean"] = "mean"
    normalize: bool = True
    query_length: int = 512
    """Tokens read of a query, including its prefix; the rest is cut off."""
    passage_length: int = 512
    """Tokens read of a passage, including its prefix; the rest is cut off."""
    pairs: bool = False
    """True if a passage is given as a pair of title and text, not as one text of title, space, text."""


_BGE = "Represent this sentence for searching relevant passages: "

ENCODERS: dict[str, EncoderSpec] = {
    # Its model card cuts texts at 256 tokens, though the weights would accept 512.
    "minilm": EncoderSpec("sentence-transformers/all-MiniLM-L6-v2", query_length=256, passage_length=256),
    "bge-small": EncoderSpec("BAAI/bge-small-en-v1.5", query_prefix=_BGE, pooling="cls"),
    "bge-base": EncoderSpec("BAAI/bge-base-en-v1.5", query_prefix=_BGE, pooling="cls"),
    "bge-large": EncoderSpec("BAAI/bge-large-en-v1.5", query_prefix=_BGE, pooling="cls"),
    "e5-base": EncoderSpec("intfloat/e5-base-v2", query_prefix="query: ", passage_prefix="passage: "),
    "e5-large": EncoderSpec("intfloat/e5-large-v2", query_prefix="query: ", passage_prefix="passage: "),
    # Contriever and MedCPT were trained with plain inner products: the norms of their vectors carry information.
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
"""Name -> how the encoder has to be used. BGE: arXiv:2309.07597. E5: arXiv:2212.03533. Contriever: arXiv:2112.09118.
MedCPT: arXiv:2307.00589. MiniLM: arXiv:2002.10957, fine-tuned by the sentence-transformers project."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Which encoder to use, and how to run it.

    Raises:
        OptionError: An option is out of range.
    """

    model: str | Path = "minilm"
    """A name in `ENCODERS`, a name on the hub (`OWNER/NAME`), or a folder. A model that is not in the table must be
    a sentence-transformers model: its configuration then determines how texts are encoded."""
    passage_model: str | Path | None = None
    """The encoder of passages, given like `model`; None if it is the same, or the one that the table lists."""
    like: str | None = None
    """A name in `ENCODERS` whose prefixes, pooling and lengths apply to `model`: for a fine-tuned or converted copy."""
    max_length: int | None = None
    """Tokens read of a text, at most as many as the model reads anyway. The rest is cut off."""
    device: str | None = None
    """A torch device such as "cpu" or "cuda:1"; None for a GPU if there is one. FAISS uses the CPU in any case."""
    batch_size: int = 64
    """Texts encoded at once, at least 1."""

    def __post_init__(self) -> None:
        length, size = self.max_length, self.batch_size
        long_enough = length is None or (isinstance(length, int) and length >= MIN_LENGTH)
        check_option("max_length", length, long_enough, f"a whole number of tokens, at least {MIN_LENGTH}")
        check_option("batch_size", size, isinstance(size, int) and size >= 1, "a whole number, at least 1")


class Encoder:
    """Turns queries and passages into vectors. Thread-safe: one thread encodes at a time.

    Raises:
        UnknownName: No model has that name.
        OptionError: This machine has no such device.
        RetrievalError: The model is not available or cannot be used.
        MissingExtra: sentence-transformers is not installed.
    """

    query_key: dict[str, Any]
    """Everything but the text that the vector of a query depends on, as JSON values."""
    passage_key: dict[str, Any]
    """The same for the vector of a passage."""

    def __init__(self, options: EncoderOptions) -> None:
        name, spec = str(options.model), _spec(str(options.model), options.like)
        self._spec = spec
        self._max_length = options.max_length
        self._device = torch_device(options.device)
        self._batch_size = options.batch_size
        # One lock for both models: a tokenizer of the tokenizers library is not thread-safe while it pads.
        self._lock = threading.Lock()
        self._queries = _find(name)
        passage_name = options.passage_model or (spec.passage_hub if spec else None)
        self._passages = _find(str(passage_name)) if passage_name else self._queries
        self.query_key = _key(self._queries, spec, options.max_length, passages=False)
        self.passage_key = _key(self._passages, spec, options.max_length, passages=True)
        self._model = self._load(self._queries, spec.query_length if spec else None)

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of queries, shape `(n, dimension)`.

        On a CPU a vector does not depend on the other queries; on a GPU it does, by about 1e-6.
        """
        texts = [encodable(text) for text in texts]
        with self._lock:
            model = self._model
            if model.device.type != "cpu":
                return self._encode(model.encode_query, texts)
            # Padding changes a vector in its last bits. Queries of equal length are encoded together, without any.
            features = model.preprocess(texts, prompt=model.prompts.get("query"), task="query")
            mask = features.get("attention_mask")  # None for static word vectors, which are not padded
            lengths = np.zeros(len(texts)) if mask is None else np.asarray(mask.sum(dim=1))
            groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
            parts = [self._encode(model.encode_query, [texts[row] for row in group]) for group in groups]
        # The parts are ordered by length; sorting their row numbers restores the order of the queries.
        vectors: Vectors = np.concatenate(parts)[np.argsort(np.concatenate(groups))]
        return vectors

    def passages(self) -> Callable[[Sequence[Passage]], Vectors]:
        """Return a function from passages to their vectors, shape `(n, dimension)`.

        The function holds the passages' encoder if that is another one, so memory is freed with the function.
        """
        spec = self._spec
        same = self._passages is self._queries and (spec is None or spec.passage_length == spec.query_length)
        model = self._model if same else self._load(self._passages, spec.passage_length if spec else None)
        pairs = spec is not None and spec.pairs

        def encode(passages: Sequence[Passage]) -> Vectors:
            inputs = [(encodable(p.title), encodable(p.text)) if pairs else passage_text(p) for p in passages]
            with self._lock:
                return self._encode(model.encode_document, inputs)

        return encode

    def _encode(self, encode: Callable[..., Any], inputs: list[Any]) -> Vectors:
        # A model from the table has its own Normalize module; another one says only how its vectors are compared.
        normalize = self._spec is None and self._model.similarity_fn_name == "cosine"
        vectors = encode(inputs, batch_size=self._batch_size, normalize_embeddings=normalize, show_progress_bar=False)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _load(self, source: Source, length: int | None) -> Any:
        try:
            check_files(source.folder)
        except UnsafeFiles as error:
            raise RetrievalError(
                f"The encoder cannot be loaded: {error}. A folder may need like=NAME, where NAME is in the table of "
                "encoders."
            ) from error
        model = _sentence_transformer(source.folder, self._spec, self._device)
        limits = [limit for limit in (model.max_seq_length, length, self._max_length) if limit]
        if limits:
            model.max_seq_length = min(limits)
        return model


def torch_device(device: str | None) -> str | None:
    """Return the device after checking that it can be used. None stands for a GPU if there is one.

    Raises:
        OptionError: This machine has no such device.
        MissingExtra: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("The 'dense' retriever", "dense") from error
    try:
        kind = torch.device(device).type if device else None
    except RuntimeError as error:
        raise OptionError(f"device must be a torch device such as cpu or cuda:1, got {device!r}.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device is {device!r}, but torch sees no GPU on this machine. Use device='cpu'.")
    return device


def passage_text(passage: Passage) -> str:
    """Return a passage as one text, title, space, text, for models that take no pairs."""
    return encodable(f"{passage.title} {passage.text}".strip())


def _spec(model: str, like: str | None) -> EncoderSpec | None:
    """Return the row of the table for a model; None if it has none."""
    if like is not None and like not in ENCODERS:
        raise UnknownName("encoder", str(like), ENCODERS)
    return ENCODERS.get(like or model) or next((spec for spec in ENCODERS.values() if spec.hub == model), None)


def _find(name: str) -> Source:
    return find(name, hub=ENCODERS[name].hub if name in ENCODERS else name, suggestions=ENCODERS)


def _key(source: Source, spec: EncoderSpec | None, max_length: int | None, *, passages: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {}  # without a row in the table, the model's files determine everything
    lengths = [max_length] if max_length else []
    if spec:
        settings = {"pooling": spec.pooling, "normalize": spec.normalize}
        settings |= {"prefix": spec.passage_prefix, "pairs": spec.pairs} if passages else {"prefix": spec.query_prefix}
        lengths.append(spec.passage_length if passages else spec.query_length)
    return {"model": source.identity, **settings, "length": min(lengths, default=None)}


def _sentence_transformer(folder: Path, spec: EncoderSpec | None, device: str | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    except ImportError as error:
        raise MissingExtra("The 'dense' retriever", "dense") from error
    # float32 even for a half-precision checkpoint: `dense` rounds scores in the belief that they are that precise.
    options: dict[str, Any] = {"model_kwargs": {"use_safetensors": True, "dtype": "float32"}}
    if spec is None and not (folder / "modules.json").is_file():
        raise RetrievalError(
            f"{folder} is not a sentence-transformers model (it has no modules.json), so its pooling and prefixes are "
            f"unknown. Pass like=NAME if it is used like one of: {', '.join(ENCODERS)}."
        )
    try:
        if spec:
            # Built from the table: a plain transformers folder has no modules.json, and a copy's may be wrong.
            transformer = Transformer(str(folder), **options)
            pooling = Pooling(transformer.get_embedding_dimension(), spec.pooling)
            modules = [transformer, pooling, *([Normalize()] if spec.normalize else [])]
            prompts = {"query": spec.query_prefix, "document": spec.passage_prefix}
            return SentenceTransformer(modules=modules, device=device, prompts=prompts)
        options |= {"local_files_only": True, "trust_remote_code": False}
        model = SentenceTransformer(str(folder), device=device, **options)
    except Exception as error:  # damaged files end in errors of any class, from tokenizers in a bare Exception
        raise RetrievalError(f"The encoder in {folder} cannot be loaded: {error}") from error
    if model.similarity_fn_name not in ("cosine", "dot"):
        raise RetrievalError(
            f"The encoder in {folder} compares by {model.similarity_fn_name} distance; only cosine and dot can be used."
        )
    return model
