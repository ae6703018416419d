"""Environments: episodes as Gymnasium sees them. Knows nothing of language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raggym_env.envs.registration import make_env, make_vector_env, register_card

if TYPE_CHECKING:
    from raggym_env.envs.candidates import CandidateActions, Candidates
    from raggym_env.envs.env import RAGEnv
    from raggym_env.envs.vector import RAGVectorEnv
    from raggym_env.envs.wrappers import RecordEpisodes, TaggedText

__all__ = [
    "CandidateActions",
    "Candidates",
    "RAGEnv",
    "RAGVectorEnv",
    "RecordEpisodes",
    "TaggedText",
    "make_env",
    "make_vector_env",
    "register_card",
]

# Loaded on first use (PEP 562): `import raggym_env` must not wait for Gymnasium and NumPy.
_MODULES = {
    "CandidateActions": "candidates",
    "Candidates": "candidates",
    "RAGEnv": "env",
    "RAGVectorEnv": "vector",
    "RecordEpisodes": "wrappers",
    "TaggedText": "wrappers",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
