"""Write the pages that are made from the library itself: cards, process rewards, command line, API, llms.txt.

Nothing in them is written twice: an environment's page comes from its card, a key's meaning from the schema, an
option's from the command, a class's from its docstring. What only a person can say is in `rewards.toml` and in the
templates. `scores.json` and `sizes.json` are figures of runs and of data sets; `figures.py` makes them.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import jinja2
import typer
from episodes import episode
from pydantic import BaseModel

import raggym_env
from raggym_env import registry
from raggym_env.card_keys import card_keys
from raggym_env.cards import EnvCard, PolicyCard, env_card, policy_card
from raggym_env.cli import app
from raggym_env.envs import RAGEnv
from raggym_env.evaluation.leaderboard import COLUMNS
from raggym_env.evaluation.published import PublishedResult, averages, read_published
from raggym_env.storage.parsing import parse_toml
from raggym_env.storage.paths import card_file, card_names

DOCS = Path(__file__).parent
DESCRIBED_FIRST = ("raggym_env", "raggym_env.protocols", "raggym_env.errors")

# A name, a colon and text, with its further lines indented.
ARGUMENT = re.compile(r"^(\w[\w, ]*): (.*(?:\n {4}.*)*)", re.MULTILINE)

API = {
    "raggym_env": "Register environments, and the vocabulary: questions, passages, states, actions.",
    "raggym_env.envs": "Environments, vector environments and wrappers.",
    "raggym_env.protocols": "The four protocols that you can implement, and how they are called.",
    "raggym_env.policies": "Policies, and search at inference over any of them.",
    "raggym_env.rewards": "Process rewards.",
    "raggym_env.retrieval": "Retrievers.",
    "raggym_env.llm": "Language models.",
    "raggym_env.data": "Questions and corpora.",
    "raggym_env.evaluation": "Runs, scores, comparisons, leaderboard and report.",
    "raggym_env.training": "Process data and trainers.",
    "raggym_env.testing": "Scripted fakes, and checks of each contract.",
    "raggym_env.errors": "Every error that is raised on purpose.",
}

PARAMETER_TYPES = {"str": "text", "int": "integer", "int range": "integer", "float": "number", "float range": "number"}
PARAMETER_TYPES |= {"list[str]": "texts", "list[Path]": "paths"}

TEMPLATES = jinja2.Environment(  # noqa: S701  # pages in Markdown, of templates and texts of this repository
    loader=jinja2.FileSystemLoader(DOCS / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters["cell"] = lambda value: " ".join(str(value).replace("|", "\\|").split())
TEMPLATES.filters["interval"] = lambda figure: "{:.3f} [{:.3f}, {:.3f}]".format(*figure) if figure else ""
TEMPLATES.filters["source"] = lambda card: card_file(*card).read_text(encoding="utf-8").strip()
TEMPLATES.globals["columns"] = COLUMNS


def write_all(folder: Path) -> None:
    """Write every generated page below a folder, and remove the pages of parts that no longer exist."""
    pages = {**env_pages(), **policy_pages(), **reward_pages(), **api_pages()}
    pages |= {"published.md": published_page(), "cards.md": card_page(), "cli.md": cli_page(), "llms.txt": llms_text()}
    for old in folder.rglob("*.*"):
        if old.relative_to(folder).as_posix() not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unchanged files keep their time, so that Sphinx rebuilds only what changed.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def page(template: str, **values: Any) -> str:
    return TEMPLATES.get_template(template).render(values)


# -- environments, policies and process rewards -----------------------------------------------------------------------


def env_pages() -> dict[str, str]:
    """Return a page for each environment, and their index."""
    cards = [env_card(name) for name in card_names("envs")]
    sections = docstring_sections(RAGEnv)
    sizes = {(row["card"], row["split"]): row for row in read_json("sizes.json")}
    cited = read_published()
    pages = {"envs/index.md": page("envs.md", cards=cards, sections=sections, sizes=sizes)}
    for card in cards:
        pages[f"envs/{card.name}.md"] = page(
            "env.md",
            card=card,
            sections=sections,
            sizes=sizes,
            boards=[board for board in read_json("scores.json") if board["environment"] == card.name],
            cited=[row for row in cited if row.environment == card.name],
            episode=episode(card),
            policies=card_names("policies"),
        )
    return pages


def published_page() -> str:
    """Return the page of the published results: a row for each agent and model, and its average."""
    sources: dict[str, dict[tuple[str, str], list[PublishedResult]]] = {}
    for row in read_published():
        sources.setdefault(row.source, {}).setdefault((row.policy, row.model), []).append(row)
    tables = []
    for source, agents in sources.items():
        names = list(dict.fromkeys(row.environment for rows in agents.values() for row in rows))
        tables.append((source, names, [(rows, averages(rows)[0]) for rows in agents.values()]))
    return page("published.md", tables=tables)


def policy_pages() -> dict[str, str]:
    """Return a page for each policy card, and their index."""
    cards = [policy_card(name) for name in card_names("policies")]
    pages = {"policies/index.md": page("policies.md", cards=cards)}
    for card in cards:
        text = page("policy.md", card=card, docstring=docstring(registry.POLICIES.resolve(card.policy)))
        pages[f"policies/{card.name}.md"] = text
    return pages


def reward_pages() -> dict[str, str]:
    """Return a page for each process reward, and their index.

    Raises:
        KeyError: `rewards.toml` does not describe one of them.
    """
    about = parse_toml((DOCS / "rewards.toml").read_text(encoding="utf-8"))
    names = sorted(name for name in registry.PROCESS_REWARDS if name != "none")
    rewards = [{"name": name, **about[name]} for name in names]
    pages = {"rewards/index.md": page("rewards.md", rewards=rewards)}
    for reward in rewards:
        cls = registry.PROCESS_REWARDS.resolve(reward["name"])
        pages[f"rewards/{reward['name']}.md"] = page("reward.md", reward=reward, docstring=docstring(cls))
    return pages


def read_json(name: str) -> Any:
    return json.loads((DOCS / name).read_text(encoding="utf-8"))


def docstring_sections(cls: Any) -> dict[str, str]:
    """Return the sections of a docstring that has Markdown headings, as those of Gymnasium's environments do."""
    parts = (inspect.getdoc(cls) or "").split("\n## ")[1:]
    return {head: text.strip() for head, _, text in (part.partition("\n") for part in parts)}


def docstring(cls: Any) -> dict[str, Any]:
    """Return the name of a class, its docstring as `text`, and its arguments as pairs of name and meaning.

    The errors, which come last, are left to the API reference.
    """
    body, _, rest = (inspect.getdoc(cls) or "").partition("\nArgs:\n")
    arguments, _, after = rest.partition("\n\n")
    text = "\n\n".join(part.partition("Raises:")[0].strip() for part in (body, after))
    options = [(name, " ".join(words.split())) for name, words in ARGUMENT.findall(textwrap.dedent(arguments))]
    return {"name": cls.__name__, "text": text.strip(), "options": options}


# -- cards ------------------------------------------------------------------------------------------------------------


def card_page() -> str:
    """Return every key of a card with its type, default and meaning, as `raggym card keys` lists them."""
    return page("cards.md", tables={"Environment cards": tables_of(EnvCard), "Policy cards": tables_of(PolicyCard)})


def tables_of(card: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the keys of a card by table, in the card's order; a table is described by the key that holds it."""
    keys = list(card_keys(card))
    about = {key.key: key.meaning for key in keys}
    names = dict.fromkeys(key.table for key in keys)
    return [
        {"name": name, "about": about.get(name, ""), "keys": [key for key in keys if key.table == name]}
        for name in names
    ]


# -- command line, API and llms.txt -----------------------------------------------------------------------------------


def cli_page() -> str:
    """Return every command with its usage, arguments and options."""
    return page("cli.md", commands=list(commands(typer.main.get_command(app), "raggym")))


def commands(command: Any, name: str) -> Iterator[dict[str, Any]]:
    """Yield a command's usage and parameters, or those of a group's commands."""
    # By its attributes: which class of Click's a group has depends on the version of Typer.
    if hasattr(command, "commands"):
        for part, inner in sorted(command.commands.items()):
            yield from commands(inner, f"{name} {part}")
        return
    ctx = command.context_class(command, info_name=name)
    panels: dict[str, list[dict[str, str]]] = {}
    for parameter in command.params:
        title = "Arguments" if parameter.param_type_name == "argument" else "Options"
        panels.setdefault(getattr(parameter, "rich_help_panel", None) or title, []).append(row(parameter, ctx))
    usage = " ".join([name, *command.collect_usage_pieces(ctx)])
    yield {"name": name, "help": inspect.cleandoc(command.help or ""), "usage": usage, "panels": panels}


def row(parameter: Any, ctx: Any) -> dict[str, str]:
    """Return a parameter's names, type, default and meaning."""
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name]
    kind = parameter.metavar or parameter.display_type(ctx).strip("<>")
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    has_default = default is not None and default is not False and not callable(default)
    return {
        "names": ", ".join(f"`{name}`" for name in names),
        "type": "" if getattr(parameter, "is_flag", False) else PARAMETER_TYPES.get(kind, kind),
        "default": f"`{default}`" if has_default else "required" if parameter.required else "",
        "help": (parameter.help or "").replace("\n", " "),
    }


def api_pages() -> dict[str, str]:
    """Return a page for each public package, and their index. A name that two packages export is described once."""
    pages = {"api/index.md": page("apis.md", modules=API)}
    described: dict[int, str] = {}
    for name in sorted(API, key=lambda name: name not in DESCRIBED_FIRST):
        module = import_module(name)
        # From the module's own dictionary: names that it imports on first use are no other package's.
        exported = {member: id(vars(module).get(member, member)) for member in module.__all__}
        elsewhere = {member: described[key] for member, key in exported.items() if key in described}
        described |= {key: name for key in exported.values() if key not in described}
        pages[f"api/{name}.md"] = page(
            "api.md", name=name, text=API[name], elsewhere=elsewhere, members=summaries(module)
        )
    return pages


def summaries(module: Any) -> dict[str, str]:
    """Return the names that a package exports, each with the first sentence of its docstring, "" where it has none."""
    members = {name: getattr(module, name) for name in sorted(module.__all__, key=str.lower)}
    texts = {
        name: " ".join((inspect.getdoc(member) or "").partition("\n\n")[0].split())
        for name, member in members.items()
        if inspect.isclass(member) or inspect.isfunction(member)
    }
    return {name: re.sub(r"(?<=[a-z`)])[.:] .*", ".", texts.get(name, "")) for name in members}


def llms_text() -> str:
    """Return an overview for language models, in the form of llmstxt.org."""
    written = [path for path in sorted(DOCS.rglob("*.md")) if not {"_build", "generated", "templates"} & {*path.parts}]
    pages = []
    for path in written:
        lines = path.read_text(encoding="utf-8").splitlines()
        title = next((line.removeprefix("# ") for line in lines if line.startswith("# ")), path.stem.title())
        pages.append((title, path.relative_to(DOCS).with_suffix(".html").as_posix()))
    envs = [env_card(name) for name in card_names("envs")]
    policies = [policy_card(name) for name in card_names("policies")]
    api = {name: summaries(import_module(name)) for name in API}
    return page("llms.txt", version=raggym_env.__version__, pages=pages, envs=envs, policies=policies, api=api)
