"""Every key of a card with its type, default and meaning, taken from the schema in `raggym_env.cards`."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel

__all__ = ["CardKey", "card_keys"]


class CardKey(NamedTuple):
    """A key of a card."""

    table: str
    """The table that it belongs to, as a dotted name; empty for the card itself."""
    name: str
    type: str
    default: str
    """As JSON; "required", or "a table"."""
    meaning: str

    @property
    def key(self) -> str:
        """The dotted key, as `--set` takes it."""
        return f"{self.table}.{self.name}".lstrip(".")


def card_keys(card: type[BaseModel]) -> Iterator[CardKey]:
    """Yield the keys of `EnvCard` or `PolicyCard`, table by table."""
    # Not written in a card: they come from its path and its user.
    return _keys(card, "", {"name", "path", "trusted"})


def _keys(model: type[BaseModel], table: str, left_out: set[str]) -> Iterator[CardKey]:
    meanings = _meanings(model)
    shown = {name: info for name, info in model.model_fields.items() if name not in left_out}
    for name, info in shown.items():
        inner = [part.__doc__ or "" for part in _models(info.annotation)]
        meaning = meanings.get(name) or " ".join(inspect.cleandoc(inner[0]).split("\n\n")[0].split() if inner else ())
        default = "a table" if isinstance(info.default, BaseModel) else json.dumps(info.default, default=str)
        yield CardKey(table, name, _type(info.annotation), "required" if info.is_required() else default, meaning)
    for name, info in shown.items():
        for part in _models(info.annotation):
            yield from _keys(part, f"{table}.{name}".lstrip("."), set())


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models inside a type."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for part in getattr(annotation, "__args__", ()):
        yield from _models(part)


_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def _type(annotation: Any) -> str:
    """Return a type in the words of TOML."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "table"
    origin = getattr(annotation, "__origin__", None)
    parts: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _type(origin)
    if origin is dict:
        return "table"
    if origin in (tuple, list):
        return f"list of {_type(parts[0])}s"
    if all(isinstance(part, str) for part in parts) and parts:  # Literal
        return " or ".join(json.dumps(part) for part in parts)
    return " or ".join(dict.fromkeys(_type(part) for part in parts if part is not type(None))) or "anything"


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the text below each field of a model, in its source."""
    texts = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        definition = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        for field, text in itertools.pairwise(getattr(definition, "body", ())):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[getattr(field.target, "id", "")] = " ".join(str(text.value.value).split())
    return texts
