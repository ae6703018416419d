"""The questions of an environment as the files that verl, Search-R1 and SkyRL train on.

    raggym export RAGGym-Synth-v0 --to verl --split train --out data
    raggym serve RAGGym-Synth-v0                                        the search engine of the rollouts

    data/train.parquet   one row per question: the prompt, the gold answers, and what the trainer's code looks up
    data/verl.yaml       the trainer's settings: where the search engine is, how many passages, how many turns

Columns and settings are those of the trainers' own preparation of Search-R1's data: `nq_search.py` of Search-R1,
`preprocess_search_r1_dataset.py` of verl and `searchr1_dataset.py` of SkyRL. The prompts are ours. Gold answers are
where a trainer's reward function and tools look for them, never in a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pyarrow as pa
from pyarrow import parquet

from raggym_env.cards import EnvCard, env_card
from raggym_env.core import State, Task, option_letter
from raggym_env.data import load_tasks
from raggym_env.errors import RunError, check_option
from raggym_env.integrations.instructions import VERL_SYSTEM
from raggym_env.network.urls import is_plain_url
from raggym_env.storage.atomic import atomic_file, write_atomic
from raggym_env.text.exits import for_file_name
from raggym_env.text.tagged import tagged_text
from raggym_env.training.trl.episodes import SYSTEM

__all__ = ["SEARCH_R1_SOURCES", "URL", "Exported", "Trainer", "export_prompts", "tool_schema"]

Trainer = Literal["verl", "search-r1", "skyrl"]

URL = "http://127.0.0.1:8000/retrieve"
"""Where `raggym serve` answers by default."""

SEARCH_R1_SOURCES = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
"""The only values of `data_source` that Search-R1's reward function accepts; all mean exact match."""


class Exported(NamedTuple):
    """What was written."""

    prompts: Path
    settings: Path
    rows: int
    data_source: str
    card: EnvCard
    split: str


def export_prompts(
    card: str | Path | EnvCard,
    trainer: Trainer,
    out: str | Path,
    split: str | None = None,
    *,
    limit: int | None = None,
    url: str = URL,
    data_source: str | None = None,
    trust: bool = False,
) -> Exported:
    """Write the prompts of a split as `SPLIT.parquet`, and the trainer's settings as `TRAINER.yaml`.

    Args:
        card: Name, path or card of an environment. Its corpus is not read and no index is built.
        trainer: "verl", "search-r1" or "skyrl".
        out: Folder of the files. It may exist, with other splits in it.
        split: By default the card's default split.
        limit: Maximum number of questions, the first ones.
        url: Where the search engine will be: `raggym serve`, or another server of the same format.
        data_source: Name by which the trainer groups scores; by default the card's. Search-R1 takes one of
            `SEARCH_R1_SOURCES` only: by default the one that the card's name has, else "hotpotqa".
        trust: Whether a card at a path may use the user's authority; see `raggym_env.cards`.

    Raises:
        UnknownName: A card or split of that name does not exist.
        OptionError: An argument is out of range.
        RunError: The prompts exist already, or the settings exist and differ.
        DataNotFound: The questions are in none of the places looked at.
    """
    card = env_card(card, trust=trust)
    check_option("trainer", trainer, trainer in get_args(Trainer), f"one of {get_args(Trainer)}")
    check_option("limit", limit, limit is None or limit >= 1, "at least 1, or None")
    # OmegaConf, which reads the settings, would replace "${...}" by a variable of the environment.
    check_option("url", url, is_plain_url(url) and "$" not in url, "an http or https URL, without password and query")
    source = _data_source(card, trainer, data_source)
    tasks = load_tasks(card, split)
    prompts = Path(out) / f"{for_file_name(tasks.split)}.parquet"
    settings, content = Path(out) / f"{trainer}.yaml", json.dumps(_settings(card, trainer, url), indent=2) + "\n"
    _check_free(prompts, settings, content)
    columns, row = _COLUMNS[trainer]
    shared = {"environment": card.name, "split": tasks.split, "metric": card.episode.metric}
    rows = [
        {"data_source": source, "ability": "fact-reasoning", **row(card, source, task, {"index": index, **shared})}
        for index, task in enumerate(tasks.tasks[:limit])
    ]
    Path(out).mkdir(parents=True, exist_ok=True)
    with atomic_file(prompts) as file:
        parquet.write_table(pa.Table.from_pylist(rows, pa.schema({**_SHARED_COLUMNS, **columns})), file)
    write_atomic(settings, content)
    return Exported(prompts, settings, len(rows), source, card, tasks.split)


def tool_schema() -> dict[str, Any]:
    """Return the description of the tool `search` for a model, as OpenAI's interface has it."""
    query = {"type": "string", "description": "What to look for: a name, a title or a short question."}
    parameters = {"type": "object", "properties": {"query": query}, "required": ["query"]}
    description = "Search an encyclopedia. Returns the best passages, each with its title."
    return {"type": "function", "function": {"name": "search", "description": description, "parameters": parameters}}


def _data_source(card: EnvCard, trainer: Trainer, data_source: str | None) -> str:
    if trainer != "search-r1":
        if data_source is None:
            return card.name
        # Half of a surrogate pair, which no file can hold, is not printable.
        is_name = bool(data_source.strip()) and data_source.isprintable()
        check_option("data_source", data_source, is_name, "a printable name")
        return data_source
    if data_source is None:
        parts = card.name.lower().split("-")
        return next((name for name in SEARCH_R1_SOURCES if name in parts), "hotpotqa")
    expected = f"one of {SEARCH_R1_SOURCES}, which are all that Search-R1 can score"
    check_option("data_source", data_source, data_source in SEARCH_R1_SOURCES, expected)
    return data_source


def _settings(card: EnvCard, trainer: Trainer, url: str) -> dict[str, Any]:
    """Return the settings. They are written as JSON, which is YAML, too."""
    k, searches = card.retrieval.k, card.episode.max_searches
    if trainer == "verl":
        config = {"type": "native", "url": url, "topk": k, "max_searches": searches}
        tool = {"class_name": "raggym_env.integrations.verl.SearchTool", "config": config}
        return {"tools": [{**tool, "tool_schema": tool_schema()}]}
    if trainer == "search-r1":
        return {"do_search": True, "max_turns": searches, "retriever": {"url": url, "topk": k}}
    # Its own search environment is for those who want Search-R1's rewards.
    search = {"search_url": url, "topk": k}
    environment = {"env_class": "raggym", "skyrl_gym": {"search": search}}
    # A search beyond the budget is a turn of its own, in which the environment ends the episode.
    return {"environment": environment, "generator": {"max_turns": searches + 1, "batched": False}}


def _check_free(prompts: Path, settings: Path, content: str) -> None:
    if prompts.exists():
        raise RunError(f"{prompts} exists. Choose another folder to export to, or delete that file.")
    if settings.exists() and settings.read_text(encoding="utf-8", errors="replace") != content:
        raise RunError(
            f"{settings} exists and has other settings. Export all splits with the same settings, choose another "
            "folder, or delete that file."
        )


_Row = Callable[[EnvCard, str, Task, dict[str, Any]], dict[str, Any]]

_TEXTS = pa.list_(pa.string())
_GOLD = pa.struct({"target": _TEXTS})
_SHARED_COLUMNS: dict[str, Any] = {
    "data_source": pa.string(),
    "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
    "ability": pa.string(),
}
_RULE = pa.struct({"style": pa.string(), "ground_truth": _GOLD})
_INFO: dict[str, Any] = {
    "index": pa.int64(),
    "split": pa.string(),
    "environment": pa.string(),
    "metric": pa.string(),
    "question_id": pa.string(),
    "question": pa.string(),
    "options": _TEXTS,
    "correct": pa.int64(),
}
_CREATE = pa.struct({"ground_truth": _GOLD, "question": pa.string(), "data_source": pa.string()})
_TOOLS = pa.struct({"search": pa.struct({"create_kwargs": _CREATE})})
_TOOL_INFO = {"need_tools_kwargs": pa.bool_(), "tools_kwargs": _TOOLS}


def _info(task: Task, info: dict[str, Any]) -> dict[str, Any]:
    question = task.question
    about = {"question_id": question.id, "question": question.text, "options": question.options}
    return {**info, **about, "correct": task.correct}


def _gold(task: Task) -> dict[str, Any]:
    # Trainers compare texts: a question with options is answered by the letter as well.
    letter = () if task.correct is None else (option_letter(task.correct),)
    return {"target": [*letter, *task.answers]}


def _question(card: EnvCard, task: Task) -> str:
    return tagged_text(State(task.question, (), card.episode.max_searches))


def _verl_row(card: EnvCard, source: str, task: Task, info: dict[str, Any]) -> dict[str, Any]:
    create = {"ground_truth": _gold(task), "question": task.question.text, "data_source": source}
    tools = {"need_tools_kwargs": True, "tools_kwargs": {"search": {"create_kwargs": create}}}
    return {
        "prompt": _chat(VERL_SYSTEM, _question(card, task)),
        "agent_name": "tool_agent",  # verl's loop that calls tools; its default takes one turn
        "reward_model": {"style": "rule", "ground_truth": _gold(task)},
        "extra_info": {**_info(task, info), **tools},
    }


def _search_r1_row(card: EnvCard, source: str, task: Task, info: dict[str, Any]) -> dict[str, Any]:
    # One message, since it trains base models. Its reward function searches the prompt for answers, too, and counts
    # none unless it finds two: the instructions must hold exactly one.
    content = f"{SYSTEM}\n\n{_question(card, task)}"
    return {
        "prompt": [{"role": "user", "content": content}],
        "reward_model": {"style": "rule", "ground_truth": _gold(task)},
        "extra_info": _info(task, info),
    }


def _skyrl_row(card: EnvCard, source: str, task: Task, info: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": _chat(SYSTEM, _question(card, task)),
        "env_class": "raggym",
        "reward_spec": {"method": "rule", "ground_truth": _gold(task)},
        "extra_info": _info(task, info),
    }


def _chat(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


_COLUMNS: dict[str, tuple[dict[str, Any], _Row]] = {
    "verl": (
        {"agent_name": pa.string(), "reward_model": _RULE, "extra_info": pa.struct({**_INFO, **_TOOL_INFO})},
        _verl_row,
    ),
    "search-r1": ({"reward_model": _RULE, "extra_info": pa.struct(_INFO)}, _search_r1_row),
    "skyrl": (
        {
            "env_class": pa.string(),
            "reward_spec": pa.struct({"method": pa.string(), "ground_truth": _GOLD}),
            "extra_info": pa.struct(_INFO),
        },
        _skyrl_row,
    ),
}
