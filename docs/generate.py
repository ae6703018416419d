"""Writes the pages that are made from the library itself: cards, process rewards, command line, API, llms.txt.

Nothing in them is written twice: an environment's page comes from its card, a key's description from the schema, an
option's from the command, a class's from its docstring. `docs/scores.json` holds the figures of the leaderboard, as
`raggym leaderboard --json` prints them.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import raggym_env
from raggym_env import cards, policies, registry
from raggym_env.cards import EnvCard, PolicyCard, env_card, policy_card
from raggym_env.cli import app
from raggym_env.envs.registration import make_env
from raggym_env.evaluation.leaderboard import COLUMNS
from raggym_env.storage.paths import card_file, card_names

DOCS = Path(__file__).parent
SCORES = DOCS / "scores.json"
PUBLISHED = DOCS.parent / "benchmarks" / "published.toml"

API = {
    "raggym_env": "Register environments, and the vocabulary: questions, passages, states, actions.",
    "raggym_env.envs": "Environments, vector environments and wrappers.",
    "raggym_env.protocols": "The four things that you can plug in, and how they are called.",
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

GOLD = {"evidence": "facts", "evidence_value": "answers and facts", "rollout": "answers"}


def write_all(folder: Path) -> None:
    """Write every generated page below a folder; pages of parts that are gone are removed."""
    pages = {**env_pages(), **policy_pages(), **reward_pages(), **api_pages()}
    pages |= {"cards.md": card_reference(), "cli.md": cli_reference(), "llms.txt": llms_text()}
    for old in folder.rglob("*.*"):
        if str(old.relative_to(folder)) not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unchanged files keep their time, so that Sphinx rebuilds only what changed.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines = [list(heads), *([str(cell) for cell in row] for row in rows)]
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def index(title: str, text: str, names: Iterable[str]) -> str:
    """Return a page that lists others."""
    listed = "\n".join(names)
    return f"# {title}\n\n{text}\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"


# -- environments ---------------------------------------------------------------------------------------------------


def env_pages() -> dict[str, str]:
    """Return a page for each environment, and their index."""
    loaded = [env_card(name) for name in card_names("envs")]
    pages = {f"envs/{card.name}.md": env_page(card) for card in loaded}
    rows = [(f"[{card.name}]({card.name}.md)", card.title, ", ".join(card.dataset.splits), card.episode.metric) for card in loaded]
    text = "Each environment is a card, a TOML file.\n\n" + table(("id", "questions", "splits", "metric"), rows)
    return pages | {"envs/index.md": index("Environments", text, [card.name for card in loaded])}


def env_page(card: EnvCard) -> str:
    """Return the page of one environment."""
    retrieval, episode, reward = card.retrieval, card.episode, card.reward
    facts = [
        ("Action space", "`OneOf((Text query, Text answer))`; `step` also takes `Search(query, draft=None)` and `Answer(text)`"),
        ("Observation space", "`Dict(question, options, history, searches_left)`"),
        ("Reward", f"`{reward.outcome_weight:g} * outcome + {reward.process_weight:g} * process`, with the process reward `{reward.process_reward}`"),
        ("Outcome", f"`{episode.metric}` of the answer, in [0, 1]; 0 for a search"),
        ("Retriever", f"`{retrieval.name}`, {retrieval.k} passages per search" + "".join(f", `{key} = {value}`" for key, value in retrieval.options.items())),
        ("Search budget", f"{episode.max_searches} searches; one more truncates the episode"),
        ("Licence of the data", card.licence or "see the data set"),
        ("Make it", f'`gymnasium.make("{card.name}")`'),
    ]
    parts = [f"# {card.name}", card.title + ". " + card.description, table(("", ""), facts)]
    parts += ["## Start and end", textwrap.dedent("""\
        `reset` draws a question of the split; `options={"index": i}` or `{"question": text}` picks one. An answer
        ends the episode (`terminated`). A search when none is left ends it too (`truncated`): it is not run, and its
        draft, if it has one, is graded.""")]
    parts += ["## Arguments", textwrap.dedent("""\
        `split`, `k`, `max_searches`, `metric`, `process_reward`, `outcome_weight`, `process_weight` and `retriever`
        are keyword arguments of `gymnasium.make`; the names on the left are those of the [card](../cards.md).""")]
    parts += ["## Splits", splits(card)]
    if card.name.startswith("RAGGym-Synth"):
        parts += ["## An episode", "The first test question, played by `lexical` with three searches:", f"```text\n{episode_text(card)}\n```"]
    else:
        parts += ["## An episode", "The page of [RAGGym-Synth-v0](RAGGym-Synth-v0.md) shows one; the questions of this data set are not part of the library."]
    if board := scores(card.name):
        parts += ["## Scores", board]
    if cited := published(card.name):
        parts += ["## Published results", cited]
    parts += ["## The card", f"```toml\n{card_file('envs', card.name).read_text(encoding='utf-8').strip()}\n```"]
    parts += ["## Versions", "v0: the first version. A change that moves scores gets a new version."]
    return "\n\n".join(parts) + "\n"


def splits(card: EnvCard) -> str:
    """Return a table of a card's splits and the sources that are tried for each."""
    rows = []
    for split in card.dataset.splits:
        for number, source in enumerate(card.dataset.sources_of(split)):
            default = " (default)" if split == card.dataset.default_split else ""
            rows.append((f"`{split}`{default}" if number == 0 else "or", f"`{source.questions}`", f"`{source.corpus}`", source.rows))
    return table(("split", "questions", "corpus", "rows"), rows)


def episode_text(card: EnvCard) -> str:
    """Return an episode on the first test question as `render_mode="ansi"` shows it."""
    env = make_env(card.name, split="test", render_mode="ansi", max_searches=3)
    policy = policies.make("lexical")
    obs, _ = env.reset(seed=0, options={"index": 0})
    lines, ended = [env.render()], False
    while not ended:
        obs, _, terminated, truncated, _ = env.step(policy.act(obs))
        lines.append(env.render())
        ended = terminated or truncated
    return "\n".join(str(line) for line in lines[-1:])


def scores(environment: str) -> str:
    """Return the leaderboard of an environment, or "" where none was computed."""
    if not SCORES.exists():
        return ""
    boards = [board for board in json.loads(SCORES.read_text(encoding="utf-8")) if board["environment"] == environment]
    parts = []
    for board in boards:
        rows = [row for row in board["rows"] if row["scores"]]
        metrics = [name for name in COLUMNS if any(name in row["scores"]["metrics"] for row in rows)]
        lines = [
            (f"`{row['policy']}`", *(interval(row["scores"]["metrics"].get(name)) for name in metrics), f"{row['scores']['searches']:.2f}")
            for row in rows
        ]
        parts.append(f"{board['split']} split, {board['questions']:,} questions, 95 % intervals; {rows[0]['setting']}.")
        parts.append(table(("policy", *(COLUMNS[name] for name in metrics), "searches"), lines))
    return "\n\n".join(parts)


def interval(figure: list[float] | None) -> str:
    """Return a mean with its interval."""
    return "" if figure is None else "{:.3f} [{:.3f}, {:.3f}]".format(*figure)


def published(environment: str) -> str:
    """Return the cited results of an environment, with what makes them different from ours."""
    import tomllib

    results = [row for row in tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))["result"] if row["environment"] == environment]
    if not results:
        return ""
    names = [name for name in COLUMNS if any(name in row for row in results)]
    rows = [(row["policy"], *(f"{row[name]:.3f}" if name in row else "" for name in names), row["source"]) for row in results]
    warning = "```{warning}\nThese figures are cited. Their corpus, passages per search and language model differ from those above, so they are not comparable with them.\n```"
    return warning + "\n\n" + table(("policy", *(COLUMNS[name] for name in names), "source"), rows)


# -- policies and process rewards -------------------------------------------------------------------------------------


def policy_pages() -> dict[str, str]:
    """Return a page for each policy card, and their index."""
    loaded = [policy_card(name) for name in card_names("policies")]
    pages = {f"policies/{card.name}.md": policy_page(card) for card in loaded}
    rows = [(f"[{card.name}]({card.name}.md)", "yes" if card.policy == "prompt" else "no", card.description) for card in loaded]
    text = "A policy card names a class and its options.\n\n" + table(("policy", "language model", "what it does"), rows)
    return pages | {"policies/index.md": index("Policies", text, [card.name for card in loaded])}


def policy_page(card: PolicyCard) -> str:
    """Return the page of one policy card."""
    llm = " --llm hf:smollm2" if card.policy == "prompt" else ""
    parts = [
        f"# {card.name}",
        card.description,
        f"```console\n$ raggym eval RAGGym-Synth-v0 --policy {card.name}{llm} --limit 20\n```",
        "## Class",
        docstring(registry.POLICIES.resolve(card.policy)),
        "## The card",
        f"```toml\n{card_file('policies', card.name).read_text(encoding='utf-8').strip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def reward_pages() -> dict[str, str]:
    """Return a page for each process reward, and their index."""
    names = sorted(name for name in registry.PROCESS_REWARDS if name != "none")
    pages = {}
    rows = []
    for name in names:
        cls = registry.PROCESS_REWARDS.resolve(name)
        gold = GOLD.get(name, "no")
        rows.append((f"[{name}]({name}.md)", gold, first_line(cls)))
        use = f'```python\nimport gymnasium as gym\nimport raggym_env\n\nenv = gym.make("RAGGym-Synth-v0", split="train", process_reward="{name}")\n```' if name in GOLD | {"mini": "", "random": ""} else ""
        pages[f"rewards/{name}.md"] = "\n\n".join(part for part in (f"# {name}", f"Reads gold: {gold}.", docstring(cls), use) if part) + "\n"
    text = "A process reward scores every action in its state, higher is better.\n\n"
    return pages | {"rewards/index.md": index("Process rewards", text + table(("name", "reads gold", "score"), rows), names)}


def docstring(cls: Any) -> str:
    """Return a class's docstring as it stands, its options as a literal block."""
    text = inspect.getdoc(cls) or ""
    body, _, options = text.partition("\nArgs:\n")
    return body.strip() + (f"\n\n```text\n{textwrap.dedent(options).strip()}\n```" if options else "")


def first_line(cls: Any) -> str:
    """Return the first sentence of a docstring."""
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


# -- card reference -----------------------------------------------------------------------------------------------------


def card_reference() -> str:
    """Return every key of a card with its type, default and description."""
    parts = ["# Cards", "Every key of an environment card and of a policy card. Keys that a card does not have are refused."]
    for title, model in (("Environment cards", EnvCard), ("Policy cards", PolicyCard)):
        parts += [f"## {title}", *sections(model, "")]
    return "\n\n".join(parts) + "\n"


def sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield a table of a table's keys, then those of its sub-tables."""
    described = descriptions(model)
    fields = {name: info for name, info in model.model_fields.items() if name not in ("name", "path") or prefix}
    if prefix:
        yield f"### `[{prefix}]`"
        yield inspect.cleandoc(model.__doc__ or "")
    yield table(("key", "default", "meaning"), [(f"`{name}`", default(info), described.get(name, "")) for name, info in fields.items()])
    for name, info in fields.items():
        for inner in inner_models(info.annotation):
            yield from sections(inner, f"{prefix}.{name}".lstrip("."))


def inner_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models inside a type, each once."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for part in getattr(annotation, "__args__", ()):
        yield from inner_models(part)


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the text below each field of a model, in its source."""
    import ast

    texts = {}
    for base in reversed(model.__mro__):
        if not (inspect.isclass(base) and issubclass(base, BaseModel) and base.__module__ == cards.__name__):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return texts


def default(info: FieldInfo) -> str:
    """Return a field's default."""
    if info.is_required():
        return "required"
    return "a table" if isinstance(info.default, BaseModel) else f"`{json.dumps(info.default, default=str)}`"


# -- command line and API -------------------------------------------------------------------------------------------


def cli_reference() -> str:
    """Return every command with its arguments and options."""
    root = typer.main.get_command(app)
    return "\n\n".join(["# Command line", "Every command has `--help`.", *commands(root, "raggym")]) + "\n"


def commands(command: click.Command, name: str) -> Iterator[str]:
    """Yield the sections of a command and its subcommands."""
    if isinstance(command, click.Group):
        for part, inner in sorted(command.commands.items()):
            yield from commands(inner, f"{name} {part}")
        return
    yield f"## {name}"
    yield inspect.cleandoc(command.help or "")
    rows = []
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            shown = "" if parameter.default in (None, False, ()) or callable(parameter.default) else f" Default: `{parameter.default}`."
            rows.append((names, (parameter.help or "") + shown))
        else:
            rows.append((f"`{parameter.human_readable_name}`", getattr(parameter, "help", "") or ""))
    yield table(("argument or option", "meaning"), rows)


def api_pages() -> dict[str, str]:
    """Return a page for each public package."""
    pages = {
        f"api/{name}.md": f"# {name}\n\n{text}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :imported-members:\n```\n"
        for name, text in API.items()
    }
    rows = [(f"[{name}]({name}.md)", text) for name, text in API.items()]
    return pages | {"api/index.md": index("Python API", table(("module", "what it has"), rows), API)}


def llms_text() -> str:
    """Return an overview for language models (llmstxt.org)."""
    lines = [f"# raggym-env {raggym_env.__version__}", "", "> Question answering with a search engine as a Gymnasium environment, rewarded step by step.", ""]
    lines += ["## Environments", "", *(f"- {name}: {env_card(name).title}" for name in card_names("envs")), ""]
    lines += ["## Policies", "", *(f"- {name}: {policy_card(name).description}" for name in card_names("policies")), ""]
    lines += ["## Pages", "", *(f"- {path.relative_to(DOCS).with_suffix('.html')}" for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts and "generated" not in path.parts)]
    return "\n".join(lines) + "\n"
