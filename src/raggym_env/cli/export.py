"""`raggym export`: process data for TRL, questions for other trainers, and runs for other evaluation tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raggym_env.cli._options import Limit, Settings, TrustCard, parse_settings, refuse_unused
from raggym_env.cli._output import say

if TYPE_CHECKING:
    from raggym_env.integrations.trainer_data import Trainer

__all__ = ["export"]


# Options of each kind of export; any other that is given is an error.
_ROWS = ("agent", "every", "outcome_weight", "trust_card")
_PAIRS = ("margin", "pairs", "seed")
_PROMPTS = ("split", "limit", "settings", "url", "data_source", "trust_card")
_OPTIONS = {
    "sft": _ROWS,
    "preference": _ROWS + _PAIRS,
    "reward": ("every", "outcome_weight", *_PAIRS),
    **dict.fromkeys(("verl", "search-r1", "skyrl"), _PROMPTS),
    "inspect": (),
    "trec": (),
}


def export(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder made by `raggym collect`; for verl, search-r1 and skyrl, an environment; for inspect and "
            "trec, a folder made by `raggym eval`."
        ),
    ],
    to: Annotated[
        Literal["sft", "preference", "reward", "verl", "search-r1", "skyrl", "inspect", "trec"],
        typer.Option(
            help="Rows for TRL (sft, preference, reward), the prompts of another trainer, a log for `inspect view`, or "
            "TREC's run and qrels."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to create; for verl, search-r1 and skyrl it may exist.")],
    agent: Annotated[str, typer.Option("--as", metavar="POLICY", help="Prompt agent to train.")] = "react",
    every: Annotated[bool, typer.Option("--all", help="Use all trajectories, not only the kept ones.")] = False,
    margin: Annotated[float, typer.Option(min=0.001, help="Least difference of scores in a pair.")] = 0.05,
    pairs: Annotated[int | None, typer.Option(min=1, help="Maximum number of pairs per state.")] = None,
    outcome_weight: Annotated[float, typer.Option(help="Weight of an answer's outcome, added to its score.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the pairs that are drawn.")] = 0,
    split: Annotated[str | None, typer.Option(help="Split of the environment. Default: the card's.")] = None,
    limit: Limit = None,
    settings: Settings = None,
    url: Annotated[
        str | None,
        typer.Option(help="Where `raggym serve` will answer the trainer. Default: http://127.0.0.1:8000/retrieve."),
    ] = None,
    data_source: Annotated[
        str | None, typer.Option(help="Name by which the trainer groups scores. Default: the environment's.")
    ] = None,
    trust_card: TrustCard = False,
) -> None:
    """Export process data for TRL, an environment's questions for other trainers, or a run for evaluation tools."""
    every_option = {name for names in _OPTIONS.values() for name in names}
    refuse_unused(context, sorted(every_option - set(_OPTIONS[to])), f"with --to {to}")
    if to == "verl" or to == "search-r1" or to == "skyrl":  # not `in`, by which no type checker knows what is left
        prompts = {"split": split, "limit": limit, "url": url, "data_source": data_source}
        prompts = {name: value for name, value in prompts.items() if value is not None}
        return _export_prompts(data, to, out, settings, trust_card, prompts)
    if to == "inspect" or to == "trec":
        return _export_run(data, to, out)
    from raggym_env.cards import policy_card
    from raggym_env.training import Collection, Renderer
    from raggym_env.training import export as run_export

    options: dict[str, Any] = {} if to == "sft" else {"seed": seed, "margin": margin}
    if to != "sft" and pairs is not None:  # otherwise the kind's own default
        options["pairs"] = pairs
    options |= {"kept": not every, "outcome_weight": outcome_weight}
    renderer = None if to == "reward" else Renderer(policy_card(agent, trust=trust_card))
    provenance = run_export(Collection.read(data), out, to, renderer, **options)
    counts = provenance["counts"]
    say(f"{counts['rows']:,} {to} rows of {counts['trajectories']:,} trajectories: {out}")


def _export_prompts(
    env: Path, trainer: Trainer, out: Path, settings: list[str] | None, trust: bool, options: dict[str, Any]
) -> None:
    from raggym_env.cards import env_card, override
    from raggym_env.integrations.trainer_data import export_prompts

    card = override(env_card(str(env), trust=trust), parse_settings(settings))
    exported = export_prompts(card, trainer, out, **options)
    say(f"{exported.rows:,} prompts of {card.name}, split {exported.split}: {exported.prompts}")
    say(f"The trainer's settings: {exported.settings}. Start the search engine: raggym serve {env}")
    if trainer == "search-r1":
        metric = card.episode.metric
        note = "" if metric == "em" else f", not by {metric} as the environment does"
        say(f"Search-R1 will score these rows as {exported.data_source}, by exact match{note}.")


def _export_run(run: Path, to: Literal["inspect", "trec"], out: Path) -> None:
    if to == "inspect":
        from raggym_env.integrations.inspect import export_log

        log = export_log(run, out)
        return say(f"A log for inspect_ai: {log}. `inspect view --log-dir {out}` shows it.")
    from raggym_env.integrations.trec import export_trec

    counts = export_trec(run, out)
    left_out = f" ({counts.left_out:,} left out)" if counts.left_out else ""
    say(f"{counts.documents:,} documents for {counts.questions:,} questions{left_out}: {out}")
