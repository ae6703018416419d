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
import os
import re
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from raggym_env.errors import OptionError, UnknownName

__all__ = ["LLMS", "POLICIES", "PROCESS_REWARDS", "RETRIEVERS", "Factory", "Registry", "names_code"]

Factory = Callable[..., Any]
"""A class, or a function, that makes a plug-in from its options."""

_MODULE_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


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
            raise UnknownName(self.kind, target, self)
        module_name, _, path = target.partition(":")
        if module_name in LLMS:  # `hf:NAME` is a model, never the class NAME of a module called hf; see `names_code`
            raise UnknownName(self.kind, target, self)
        try:
            value: Any = _import(module_name)
        except ModuleNotFoundError as error:
            # Where the module exists and imports a missing one, its own traceback says more.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise UnknownName(f"{self.kind} or module", module_name, self) from error
        for attribute in path.split("."):
            if not hasattr(value, attribute):
                raise UnknownName(f"{self.kind} class in module {module_name}", path, _class_names(value))
            value = getattr(value, attribute)
        if not callable(value):
            raise UnknownName(f"{self.kind} class in module {module_name}", path, _class_names(value))
        return value  # type: ignore[no-any-return]

    def make(self, plugin: str | Factory, /, *arguments: Any, **options: Any) -> Any:
        """Make the plug-in: `resolve(plugin)(*arguments, **options)`.

        Options are checked against the signature before the call, so an error that a constructor raises keeps its
        traceback.

        Raises:
            UnknownName: As for `resolve`.
            OptionError: An option does not exist, is missing, or is out of range.
        """
        factory = self.resolve(plugin)
        try:
            signature = inspect.signature(factory)
        except (TypeError, ValueError):  # some built-in classes have none: the call itself checks
            return factory(*arguments, **options)
        try:
            signature.bind(*arguments, **options)
        except TypeError as error:
            name = plugin if isinstance(plugin, str) else getattr(plugin, "__qualname__", repr(plugin))
            parameters = list(signature.parameters.values())[len(arguments) :]
            names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            raise OptionError(_wrong_options(f"The {self.kind} {name!r}", names, options, error)) from None
        return factory(*arguments, **options)


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


def _wrong_options(subject: str, names: list[str], options: Mapping[str, Any], error: TypeError) -> str:
    listed = f"Its options: {', '.join(names) or 'none'}."
    unknown = [name for name in options if name not in names]
    if not unknown:
        return f"{subject}: {error}. {listed}"  # a missing option, which the signature names
    close = difflib.get_close_matches(unknown[0], names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{subject} has no option {unknown[0]!r}.{hint} {listed}"


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
        "rollout": "raggym_env.rewards.rollout:RolloutReward",
    },
)
"""Process rewards, also used as critics. The factory takes its options by keyword, and, where its signature has
them, the `tasks` and the `dynamics` of the environment. One that takes `tasks` reads gold answers, and is refused on
splits that are not named train."""

POLICIES = Registry(
    "policy",
    {
        "lexical": "raggym_env.policies.lexical:LexicalPolicy",
        "prompt": "raggym_env.policies.prompt:PromptAgent",
        "random": "raggym_env.policies.random:RandomPolicy",
        "scripted": "raggym_env.policies.scripted:ScriptedPolicy",
        "single_search": "raggym_env.policies.single_search:SingleSearchPolicy",
    },
)
"""Policies. The factory takes its options by keyword."""
