"""Language models, by name: `hf:NAME`, `openai:MODEL@URL`, `scripted:FILE`, or your own `module:Class`.

Adding a back end is adding a file and a name to `raggym_env.registry.LLMS`.
"""

from __future__ import annotations

from typing import Any

from raggym_env.errors import OptionError
from raggym_env.protocols import LLM, Completion, Messages, Sampling, Scorer
from raggym_env.registry import LLMS, Factory

__all__ = ["LLM", "LLMS", "Completion", "Messages", "Sampling", "Scorer", "make"]


def make(llm: str | Factory, /, **options: Any) -> LLM:
    """Make a model from a spec such as `hf:smollm2` or `openai:my-model@http://localhost:8000/v1`.

    Args:
        llm: A back end, a colon, and what that back end calls the model; your own "module:Class" or
            "module:Class:MODEL"; or a class. A class of yours gets MODEL, where there is one, as its first argument.
        options: Keyword arguments of the back end or class.

    Raises:
        UnknownName: There is no such back end or class.
        OptionError: The spec has no back end, or the back end has no such option.
        LLMError: The model cannot be had; the message says what was tried.
        MissingExtra: The back end needs an optional dependency that is not installed.
    """
    if not isinstance(llm, str):
        made: LLM = LLMS.make(llm, **options)
        return made
    backend, _, name = llm.partition(":")
    if not backend or not name:
        raise OptionError(
            f"A model is named like hf:NAME or openai:MODEL@URL, got {llm!r}. Back ends: {', '.join(sorted(LLMS))}, "
            "or your own module:Class."
        )
    if backend in LLMS:
        made = LLMS.make(backend, name, **options)
        return made
    attribute, colon, model = name.partition(":")
    made = LLMS.make(f"{backend}:{attribute}", *([model] if colon else []), **options)
    return made
