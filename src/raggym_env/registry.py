"""Plug-ins by name: one table for each protocol, and one way to make the objects that names stand for.

A plug-in is named by a key of its table, by "module:Class", or is a class or function itself. All three work alike
for retrievers, language models, process rewards and policies, in Python, on the command line and in cards that the
user trusts. A card from somebody else must not name a module: that would run code of their choice; see
`raggym_env.cards`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import ModuleType, NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from raggym_env.errors import OptionError, UnknownName, shown

__all__ = ["LLMS", "POLICIES", "PROCESS_REWARDS", "RETRIEVERS", "Factory", "Registry", "class_hint", "names_code"]

Factory = Callable[..., Any]
"""A class, or a function, that makes a plug-in from its options."""

_DOTTED = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_MODULE_CLASS = re.compile(f"{_DOTTED}:{_DOTTED}")
_LIKE_A_CLASS = re.compile(
    rf"(?P<module>{_DOTTED})\.(?P<path>[A-Z]\w*)|(?:.*[/\\])?(?P<file>[A-Za-z_]\w*)\.py:(?P<inner>{_DOTTED})"
)
"""A class as Python or a shell names it, which is not how the library does."""


class Registry(dict[str, str | Factory]):
    """Maps names to classes, or to "module:Class" to import them from. Entries can be added as to any dictionary.

    Args:
        kind: The word for an entry in error messages, e.g. "retriever".
        entries: The entries that ship with the library.
    """

    def __init__(self, kind: str, entries: Mapping[str, str | Factory]) -> None:
        super().__init__(entries)
        self.kind = kind

    def resolve(self, plugin: str | Factory) -> Factory:
        """Return the class that a name, "module:Class" or the class itself stands for.

        Raises:
            UnknownName: The name is not in the table, or the module has no such class.
        """
        target = self.get(plugin, plugin) if isinstance(plugin, str) else plugin
        if not isinstance(target, str):
            return target
        if not _MODULE_CLASS.fullmatch(target):
            raise UnknownName(self.kind, target, self, class_hint(target))
        module_name, _, path = target.partition(":")
        if module_name in LLMS:  # `hf:NAME` is a model, never the class NAME of a module called hf; see `names_code`
            raise UnknownName(self.kind, target, self)
        try:
            value: Any = _import(module_name)
        except ModuleNotFoundError as error:
            # Where the module exists and imports a missing one, its own traceback says more.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise UnknownName(f"{self.kind} or module", module_name, self, class_hint(target)) from error
        for attribute in path.split("."):
            if not hasattr(value, attribute):
                raise UnknownName(f"{self.kind} class in module {module_name}", path, _class_names(value))
            value = getattr(value, attribute)
        if not callable(value):
            raise UnknownName(f"{self.kind} class in module {module_name}", path, _class_names(value))
        return value  # type: ignore[no-any-return]

    def make(self, plugin: str | Factory, /, *arguments: Any, **options: Any) -> Any:
        """Make the plug-in: `resolve(plugin)(*arguments, **options)`.

        Options are checked against the signature and its annotations before the call, so an error that a constructor
        raises keeps its traceback.

        Raises:
            UnknownName: As for `resolve`.
            OptionError: An option does not exist, is missing, of the wrong type, or out of range.
        """
        self.check(plugin, *arguments, **options)
        return self.resolve(plugin)(*arguments, **options)

    def check(self, plugin: str | Factory, /, *arguments: Any, **options: Any) -> None:
        """Raise what `make` would raise about the name and the options, and make nothing.

        Where an argument is not there yet, any other object stands in for it.
        """
        try:
            signature = inspect.signature(self.resolve(plugin))
        except (TypeError, ValueError):  # some built-in classes have none: the call itself checks
            return
        try:
            signature.bind(*arguments, **options)
        except TypeError as error:
            parameters = list(signature.parameters.values())[len(arguments) :]
            names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            raise OptionError(_wrong_options(self._subject(plugin), names, options, error)) from None
        self.check_types(plugin, options)

    def check_types(self, plugin: str | Factory, options: Mapping[str, Any]) -> None:
        """Raise `OptionError` if an option is not of the type that the plug-in's signature gives it.

        Numbers, texts, bools, paths, choices and lists or tables of these are checked: a bool is no number, a number is
        finite and within 64 bits, and a text is no list. Everything else, and what has no annotation, is left alone.

        Raises:
            UnknownName: As for `resolve`.
        """
        factory = self.resolve(plugin)
        try:
            parameters = inspect.signature(factory).parameters
        except (TypeError, ValueError):
            return
        for name, value in options.items():
            parameter = parameters.get(name)
            if parameter is None or value is parameter.default:
                continue
            annotation = _resolved(factory, parameter.annotation)
            if not _fits(value, annotation):
                expected = f"{name} must be {_words(annotation)}"
                raise OptionError(f"{self._subject(plugin)}: {expected}, got {shown(value)}.")

    def _subject(self, plugin: str | Factory) -> str:
        name = plugin if isinstance(plugin, str) else getattr(plugin, "__qualname__", repr(plugin))
        return f"The {self.kind} {name!r}"


def _import(module_name: str) -> ModuleType:
    """Import a module that the user named. It may also lie in the current folder, as for `python -m`."""
    if module_name.partition(".")[0] in sys.modules or importlib.util.find_spec(module_name.partition(".")[0]):
        return importlib.import_module(module_name)
    # Only while this import lasts, and only for a module that is found nowhere else: whatever else is imported must
    # not come from the folder that somebody happens to be in.
    sys.path.append(os.getcwd())  # noqa: PTH109  # sys.path holds strings
    try:
        importlib.invalidate_caches()
        return importlib.import_module(module_name)
    finally:
        sys.path.pop()


def names_code(value: str) -> bool:
    """True if a string of a card names a plug-in as "module:Class", which would import code.

    A language model such as `hf:smollm2` has the same form but names a back end.

    >>> names_code("subprocess:Popen"), names_code("hf:smollm2"), names_code("lexical")
    (True, False, False)
    """
    # `match`, not `fullmatch`: an LLM may be named as "module:Class:MODEL".
    return _MODULE_CLASS.match(value) is not None and value.partition(":")[0] not in LLMS


def class_hint(name: str) -> str:
    """Return how a class is named that was named like `own.Policy`, `own.py:Policy` or `folder/own.py:Policy`.

    >>> class_hint("own.Policy")
    "Did you mean 'own:Policy'? A class is named module:Class."
    >>> class_hint("lexicl")
    ''
    """
    if not (match := _LIKE_A_CLASS.fullmatch(name)):
        return ""
    module, path = match["module"] or match["file"], match["path"] or match["inner"]
    return f"Did you mean '{module}:{path}'? A class is named module:Class."


def _wrong_options(subject: str, names: list[str], options: Mapping[str, Any], error: TypeError) -> str:
    listed = f"Its options: {', '.join(names) or 'none'}."
    unknown = [name for name in options if name not in names]
    if not unknown:
        return f"{subject}: {error}. {listed}"  # a missing option, which the signature names
    if unknown[0] == "llm":
        return f"{subject} uses no language model: leave out the option llm (--llm)."
    close = difflib.get_close_matches(unknown[0], names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{subject} has no option {unknown[0]!r}.{hint} {listed}"


def _resolved(factory: Factory, annotation: Any) -> Any:
    """Return an annotation as an object. One whose names cannot be found is `object`, which says nothing."""
    # A class inherits parameters that were written in another module.
    modules = [sys.modules.get(base.__module__) for base in getattr(factory, "__mro__", ())]
    scopes = [getattr(inspect.unwrap(factory), "__globals__", {}), *(vars(module) for module in modules if module)]
    for scope in scopes:
        try:
            return get_type_hints(SimpleNamespace(__annotations__={"": annotation}), globalns=scope)[""]
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
    return object


def _is_integer(value: Any) -> bool:
    # A bool is an int in Python. Longer numbers overflow where arrays and other languages compute.
    return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) < 1 << 64


def _is_number(value: Any) -> bool:
    return _is_integer(value) if isinstance(value, Integral) else isinstance(value, Real) and math.isfinite(value)


_SCALARS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number of at most 64 bits", _is_integer),
    float: ("a finite number", _is_number),
    str: ("a text", lambda value: isinstance(value, str)),
    Path: ("a path", lambda value: isinstance(value, str | os.PathLike)),
    NoneType: ("None", lambda value: value is None),
}
"""Simple types: their words for messages, and their checks."""
_PLAIN = (NoneType, bool, int, float, str, bytes, list, tuple, dict)


def _fits(value: Any, annotation: Any) -> bool:
    """True if a value is of an annotation's type, or if the annotation is not one of the simple ones."""
    kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if kind is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if isinstance(kind, type) and kind in _SCALARS:
        return _SCALARS[kind][1](value)
    # An object of any class but those of the values of cards and requests: protocols are met without inheriting.
    if kind is Callable or getattr(kind, "_is_protocol", False):
        return not isinstance(value, _PLAIN)
    if kind in (Mapping, dict):
        return isinstance(value, Mapping) and all(_fits(inner, (*arguments, Any, Any)[1]) for inner in value.values())
    if kind in (Sequence, list, tuple):
        # An array is no `Sequence`; a text and a table are like one, and would be read letter by letter, key by key.
        if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__getitem__"):
            return False
        if kind is tuple and arguments and Ellipsis not in arguments:
            return len(value) == len(arguments) and all(map(_fits, value, arguments))
        return all(_fits(inner, (*arguments, Any)[0]) for inner in value)
    return True


def _words(annotation: Any) -> str:
    """Return what a value of a simple annotation is, in words for a message."""
    kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, UnionType):
        return " or ".join(map(_words, arguments))
    if kind is Literal:
        return f"one of {arguments}"
    if isinstance(kind, type) and kind in _SCALARS:
        return _SCALARS[kind][0]
    if kind in (Mapping, dict):
        return "a table"
    if kind in (Sequence, list, tuple):
        inner = ", ".join(dict.fromkeys(_words(argument) for argument in arguments if argument is not Ellipsis))
        count = f"{len(arguments)} items" if kind is tuple and arguments and Ellipsis not in arguments else "items"
        return f"a list of {count}" + (f", each {inner}" if inner else "")
    return f"an object of the type {getattr(kind, '__name__', kind)}"


def _class_names(module: object) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, type) and not name.startswith("_")]


RETRIEVERS = Registry(
    "retriever",
    {
        "bm25": "raggym_env.retrieval.bm25.retriever:BM25Retriever",
        "rank-bm25": "raggym_env.retrieval.rank_bm25:RankBM25Retriever",
        "lucene": "raggym_env.retrieval.lucene.retriever:LuceneRetriever",
        "dense": "raggym_env.retrieval.dense.retriever:DenseRetriever",
        "rrf": "raggym_env.retrieval.fusion:RRFRetriever",
        "rerank": "raggym_env.retrieval.dense.rerank:RerankRetriever",
        "http": "raggym_env.retrieval.http:HTTPRetriever",
    },
)
"""Retrievers. The factory takes the corpus, then its options by keyword."""

LLMS = Registry(
    "language-model back end",
    {
        "hf": "raggym_env.llm.hf.model:load",
        "openai": "raggym_env.llm.openai.client:connect",
        "scripted": "raggym_env.llm.scripted:load",
    },
)
"""Language-model back ends. The factory takes what follows the colon of `hf:NAME`, then its options by keyword."""

PROCESS_REWARDS = Registry(
    "process reward",
    {
        "random": "raggym_env.rewards.random:RandomReward",
        "evidence": "raggym_env.rewards.evidence:EvidenceReward",
        "evidence_value": "raggym_env.rewards.evidence:EvidenceValue",
        "mini": "raggym_env.rewards.mini:MiniReward",
        "judge": "raggym_env.rewards.judge:JudgeReward",
        "model": "raggym_env.rewards.model:ModelReward",
        "released": "raggym_env.rewards.released:ReleasedReward",
        "rollout": "raggym_env.rewards.rollout:RolloutReward",
        "information_gain": "raggym_env.rewards.information_gain:InformationGain",
    },
)
"""Process rewards, also used as critics. The factory takes its options by keyword, and, where its signature has
them, the `tasks`, `dynamics` and `corpus` of the environment. One that takes `tasks` reads gold answers, and is
refused on splits that are not named train."""

POLICIES = Registry(
    "policy",
    {
        "gold": "raggym_env.policies.gold:GoldPolicy",
        "lexical": "raggym_env.policies.lexical:LexicalPolicy",
        "prompt": "raggym_env.policies.prompt:PromptAgent",
        "random": "raggym_env.policies.random:RandomPolicy",
        "scripted": "raggym_env.policies.scripted:ScriptedPolicy",
        "single_search": "raggym_env.policies.single_search:SingleSearchPolicy",
    },
)
"""Policies. The factory takes its options by keyword and, where its signature has them, the `tasks` of the environment.
One that takes `tasks` reads gold answers, and is refused on splits that are not named train."""
