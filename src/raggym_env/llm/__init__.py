"""Language models, by name: `hf:NAME`, `openai:MODEL@URL`, `scripted:FILE`, or your own `module:Class`.

To add a back end, add a file and a name to `raggym_env.registry.LLMS`.
"""

from __future__ import annotations

from typing import Any

from raggym_env.errors import OptionError
from raggym_env.llm.hf.names import check_name
from raggym_env.protocols import LLM, Completion, Messages, Sampling, Scorer
from raggym_env.registry import LLMS, Factory

__all__ = ["LLM", "LLMS", "Completion", "Messages", "Sampling", "Scorer", "make"]


def make(llm: str | Factory, /, **options: Any) -> LLM:
    """Return the model that a spec such as `hf:smollm2` or `openai:my-model@http://localhost:8000/v1` stands for.

    Args:
        llm: A back end, a colon, and the back end's name of the model; your own "module:Class" or "module:Class:MODEL",
            which gets MODEL as its first argument; or a class.
        options: Keyword arguments of the back end or class.

    Raises:
        UnknownName: There is no such back end or class.
        OptionError: The spec has no back end, or an option is unknown or out of range.
        LLMError: The model cannot be loaded; the message says what was tried.
        MissingExtra: The back end needs an optional dependency that is not installed.
    """
    plugin, arguments = _parsed(llm) if isinstance(llm, str) else (llm, [])
    model: LLM = LLMS.make(plugin, *arguments, **options)
    return model


def check(llm: str, /, *, here: bool = True, **options: Any) -> None:
    """Raise what `make` would raise, as far as that can be told without loading a model or sending a request.

    Args:
        llm: As for `make`.
        here: The model is going to be made on this machine, so that its files or its key must be here.
        options: As for `make`. Those of `hf:` are not checked.
    """
    plugin, arguments = _parsed(llm)
    if plugin == "hf":  # whose module loads torch
        check_name(arguments[0], here=here)
    elif plugin in ("openai", "scripted") and here:
        LLMS.make(plugin, *arguments, **options)
    else:
        LLMS.check(plugin, *arguments, **options)


def _parsed(llm: str) -> tuple[str, list[str]]:
    """Return the back end or class that a spec names, and the arguments that it gives."""
    backend, _, name = llm.partition(":")
    if not backend or not name:
        raise OptionError(
            f"A model is named like hf:NAME or openai:MODEL@URL, got {llm!r}. Back ends: "
            f"{', '.join(sorted(LLMS))}, or your own module:Class."
        )
    if backend in LLMS:
        return backend, [name]
    class_name, *arguments = name.split(":", 1)  # module:Class, perhaps followed by :MODEL
    return f"{backend}:{class_name}", arguments
