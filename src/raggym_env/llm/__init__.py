"""Language models, by name: `hf:NAME`, `openai:MODEL@URL`, `scripted:FILE`.

Adding a back end is adding a file and a name to `BACKENDS`.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from raggym_env.errors import LLMError, UnknownName
from raggym_env.protocols import LLM, Completion, Messages, Sampling, Scorer

__all__ = ["BACKENDS", "LLM", "Completion", "Messages", "Sampling", "Scorer", "make"]

BACKENDS: dict[str, str] = {
    "hf": "raggym_env.llm.hf.model:load",
    "openai": "raggym_env.llm.openai.client:connect",
    "scripted": "raggym_env.llm.scripted:load",
}
"""Back end -> "module:callable". The callable takes what follows the colon, then options by keyword."""


def make(spec: str, **options: Any) -> LLM:
    """Make a model from a spec such as `hf:smollm2` or `openai:my-model@http://localhost:8000/v1`.

    Args:
        spec: Back end, a colon, and what that back end calls the model.
        options: Keyword arguments of the back end.

    Raises:
        LLMError: The spec has no back end, or the model cannot be had; the message says what was tried.
        UnknownName: There is no such back end.
        MissingExtra: The back end needs an optional dependency that is not installed.
    """
    backend, colon, name = spec.partition(":")
    if not colon or not name:
        raise LLMError(
            f"A model is named like hf:NAME or openai:MODEL@URL, got {spec!r}. Back ends: {sorted(BACKENDS)}."
        )
    if backend not in BACKENDS:
        raise UnknownName("language-model back end", backend, BACKENDS)
    module, _, attribute = BACKENDS[backend].partition(":")
    build = getattr(importlib.import_module(module), attribute)
    try:
        inspect.signature(build).bind(name, **options)
    except TypeError as error:
        known = [
            each for each, about in inspect.signature(build).parameters.items() if about.kind is about.KEYWORD_ONLY
        ]
        raise LLMError(f"The back end {backend!r}: {error}. Its options: {', '.join(known)}.") from error
    model: LLM = build(name, **options)
    return model
