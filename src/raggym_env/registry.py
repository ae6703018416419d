"""Plug-ins by name: one table for each protocol, and one way to make what a name stands for.

A plug-in is named by a key of its table, by "module:Class", or is a class or function itself. All three work alike
for retrievers, language models, process rewards and policies, in Python, on the command line and in cards that the
user trusts. A card from somebody else must not name a module: that would run code of their choice; see
`raggym_env.cards`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from raggym_env.errors import OptionError, UnknownName

__all__ = ["LLMS", "POLICIES", "PROCESS_REWARDS", "RETRIEVERS", "Factory", "Registry", "names_code"]

Factory = Callable[..., Any]
"""A class, or a function, that makes a plug-in from its options."""

_MODULE_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Registry(dict[str, str | Factory]):
    """Name -> class, or "module:Class" to import it from. Add your own entries as to any dictionary.

    Args:
        kind: What error messages call an entry, e.g. "retriever".
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
        if not isinstance(plugin, str):
            return plugin
        target = self.get(plugin, plugin)
        if not isinstance(target, str):
            return target
        if not _MODULE_CLASS.fullmatch(target):
            raise UnknownName(self.kind, plugin, self)
        module_name, _, path = target.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # A module that is there and imports a missing one keeps its traceback.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise UnknownName(f"{self.kind} or module", module_name, self) from error
        for attribute in path.split("."):
            try:
                found = getattr(found, attribute)
            except AttributeError as error:
                raise UnknownName(f"{self.kind} in module {module_name}", path, _classes(found)) from error
        if not callable(found):
            raise UnknownName(f"{self.kind} class in module {module_name}", path, _classes(found))
        return found  # type: ignore[no-any-return]

    def make(self, plugin: str | Factory, /, *arguments: Any, **options: Any) -> Any:
        """Make the plug-in: `resolve(plugin)(*arguments, **options)`.

        The options are checked against the signature before the call, so that an error raised inside a constructor
        keeps its traceback.

        Raises:
            UnknownName: As for `resolve`.
            OptionError: An option does not exist, is missing, or is out of range.
        """
        factory = self.resolve(plugin)
        self.check_options(plugin, factory, arguments, options)
        return factory(*arguments, **options)

    def check_options(
        self, plugin: str | Factory, factory: Factory, arguments: tuple[Any, ...], options: Mapping[str, Any]
    ) -> None:
        """Raise `OptionError` where the factory's signature does not take these arguments and options."""
        try:
            signature = inspect.signature(factory)
        except (TypeError, ValueError):  # some built-in classes have no signature: their call says what is wrong
            return
        try:
            signature.bind(*arguments, **options)
        except TypeError as error:
            name = plugin if isinstance(plugin, str) else getattr(plugin, "__qualname__", repr(plugin))
            parameters = list(signature.parameters.values())[len(arguments) :]
            known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            raise OptionError(_wrong_options(f"The {self.kind} {name!r}", known, options, error)) from None


def names_code(value: str) -> bool:
    """True if a card's text names a plug-in as "module:Class", so that reading the card would import code.

    A language model such as `hf:smollm2` has the same form and names a back end of the library.

    >>> names_code("subprocess:Popen"), names_code("hf:smollm2"), names_code("lexical")
    (True, False, False)
    """
    module, _, rest = value.partition(":")
    return _MODULE_CLASS.match(value) is not None and module not in LLMS and not rest.startswith("//")


def _wrong_options(subject: str, known: list[str], options: Mapping[str, Any], error: TypeError) -> str:
    listed = f"Its options: {', '.join(known) or 'none'}."
    unknown = [name for name in options if name not in known]
    if not unknown:
        return f"{subject}: {error}. {listed}"
    close = difflib.get_close_matches(unknown[0], known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{subject} has no option {unknown[0]!r}.{hint} {listed}"


def _classes(module: Any) -> list[str]:
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
