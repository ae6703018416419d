"""`raggym envs`, `policies`, `rewards` and `retrievers` list what ships; `raggym card` shows what cards hold."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import typer
from rich.table import Column
from rich.text import Text

from raggym_env.cli._options import AsJson
from raggym_env.cli._output import say, say_json, say_lines, show_hanging, show_table
from raggym_env.errors import UnknownName
from raggym_env.registry import PROCESS_REWARDS, RETRIEVERS, Factory, Registry
from raggym_env.storage.paths import CardKind, card_file, card_names
from raggym_env.text.exits import for_rich

__all__ = ["card", "envs", "policies", "retrievers", "rewards"]

card = typer.Typer(help="Show the keys that a card may have, and the cards that ship.", no_args_is_help=True)

# Extras that plug-ins cannot do without, with a module by which they are recognized.
_EXTRAS = {"model": ("llm", "torch"), "released": ("train", "peft"), "lucene": ("lucene", "pyserini")}
_EXTRAS |= dict.fromkeys(("dense", "rerank"), ("dense", "sentence_transformers"))
# What the options of a plug-in say that it needs.
_NEEDS = {
    "tasks": "gold answers or facts: train splits only",
    "llm": "a language model: llm=hf:smollm2",
    "path": "a model of `raggym train prm`: path=FOLDER",
    "url": "a server: url=URL",
}
_OWN_NEEDS = {("released", "path"): "a critic of the hub: path=RAG-Gym/ReSearch-HotpotQA-PRM"}


def envs(as_json: AsJson = False) -> None:
    """List the environments that ship with the library, and whether their data is here."""
    from raggym_env.cards import env_card
    from raggym_env.data.catalogue import has_data

    cards = [env_card(name) for name in card_names("envs")]
    if as_json:
        say_json([card.model_dump(mode="json") for card in cards])
        return
    rows = []
    for card in cards:
        retrieval, episode = card.retrieval, card.episode
        settings = f"{retrieval.name}, k={retrieval.k}, {episode.max_searches} searches, {episode.metric}"
        about = f"{card.title}. Splits: {', '.join(card.dataset.splits)}. {settings}."
        rows.append((card.name, "here" if has_data(card) else "not here", about))
    show_table([_name("Environment"), _name("Data"), "Questions and settings"], rows, lines=False)
    say("`raggym data get NAME` gets the data of an environment; `raggym data list` lists the splits.")


def policies(as_json: AsJson = False) -> None:
    """List the policies that ship with the library, and what they need."""
    from raggym_env.cards import policy_card

    cards = [policy_card(name) for name in card_names("policies")]
    if as_json:
        say_json([card.model_dump(mode="json") for card in cards])
        return
    rows = []
    for card in cards:
        needs = "a split named train" if card.policy == "gold" else "-"
        if card.policy == "prompt" and not card.options.get("llm"):
            needs = "a model: --llm hf:smollm2"
        rows.append((card.name, needs, card.description))
    show_table([_name("Policy"), "Needs", "Description"], rows, lines=False)


def rewards(as_json: AsJson = False) -> None:
    """List the process rewards, which also serve as critics, and what they need."""
    _list(PROCESS_REWARDS, "Reward", as_json)


def retrievers(as_json: AsJson = False) -> None:
    """List the retrievers, and what they need."""
    _list(RETRIEVERS, "Retriever", as_json)


class _Plugin(NamedTuple):
    name: str
    needs: list[str]
    description: str


def _list(registry: Registry, title: str, as_json: bool) -> None:
    plugins = [_plugin(name, target) for name, target in registry.items()]
    if as_json:
        say_json([plugin._asdict() for plugin in plugins])
        return
    rows = [(plugin.name, "; ".join(plugin.needs) or "-", plugin.description) for plugin in plugins]
    show_table([_name(title), "Needs", "Description"], rows, lines=False)


def _plugin(name: str, target: str | Factory) -> _Plugin:
    parameters, text = _signature(target)
    needs = [_OWN_NEEDS.get((name, option), need) for option, need in _NEEDS.items() if option in parameters]
    extra, module = _EXTRAS.get(name, ("", ""))
    if extra:
        needs.append(f"the extra {extra}" + ("" if importlib.util.find_spec(module) else ", which is not installed"))
    return _Plugin(name, needs, " ".join(text.split("\n\n")[0].split()))


def _signature(target: str | Factory) -> tuple[list[str], str]:
    """Return the options and the docstring of a plug-in. Its module is read, not imported: that may load torch."""
    if not isinstance(target, str):
        return list(inspect.signature(target).parameters), inspect.getdoc(target) or ""
    module, _, name = target.partition(":")
    spec = importlib.util.find_spec(module)
    source = Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""
    node: Any = next((node for node in ast.parse(source).body if getattr(node, "name", "") == name), None)
    if not isinstance(node, ast.ClassDef):
        return [], ""
    made = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    if made is None:  # a data class
        fields = [part.target for part in node.body if isinstance(part, ast.AnnAssign)]
        return [field.id for field in fields if isinstance(field, ast.Name)], ast.get_docstring(node) or ""
    arguments = (*made.args.posonlyargs, *made.args.args, *made.args.kwonlyargs)
    return [argument.arg for argument in arguments], ast.get_docstring(node) or ""


@card.command("keys")
def keys_command(
    kind: Annotated[Literal["env", "policy"], typer.Argument(help="The kind of card.")], as_json: AsJson = False
) -> None:
    """List every key that a card may have, with its type, default and meaning."""
    from raggym_env.card_keys import card_keys
    from raggym_env.cards import EnvCard, PolicyCard

    models: Mapping[str, type[EnvCard | PolicyCard]] = {"env": EnvCard, "policy": PolicyCard}
    keys = list(card_keys(models[kind]))
    if as_json:
        say_json([{**key._asdict(), "key": key.key} for key in keys])
        return
    for key in keys:
        say(f"{key.key}  ({key.type}; {key.default})" if key.default != "a table" else f"{key.key}  ({key.type})")
        show_hanging(Text(), for_rich(key.meaning))
    say("`raggym card show NAME > mine.toml` starts a card of your own from one that ships.")


@card.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="An environment (`raggym envs`) or a policy (`raggym policies`).")],
) -> None:
    """Print a card that ships with the library, to start a card of your own from: `> mine.toml`."""
    kinds = [kind for kind in get_args(CardKind) if name in card_names(kind)]
    if not kinds:
        raise UnknownName("card", name, [*card_names("envs"), *card_names("policies")])
    say_lines(card_file(kinds[0], name).read_text(encoding="utf-8").rstrip("\n"))


def _name(header: str) -> Column:
    return Column(header, no_wrap=True)  # a shortened name could not be copied
