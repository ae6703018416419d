"""`raggym data`: list the data sets, show whether their files are available, download and verify them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column

from raggym_env.cli._options import AsJson, TrustCard
from raggym_env.cli._output import say, say_json, show_fields, show_table
from raggym_env.cli._verify import folder_bytes, verify_all

if TYPE_CHECKING:
    from raggym_env.data.catalogue import SplitStatus

__all__ = ["app"]

app = typer.Typer(help="List, download, describe and verify data sets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name or path of an environment card, or a data set's folder.")]


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the splits of every shipped card and show whether their data is available."""
    from raggym_env.data import catalogue

    statuses = [status for card in catalogue.shipped_cards() for status in catalogue.statuses(card)]
    if as_json:
        say_json([asdict(status) for status in statuses])
        return
    _table(statuses)
    if missing := sum(bool(status.problem) for status in statuses):
        say(f"{missing} of {len(statuses)} splits are not here. `raggym data get CARD` gets what can be downloaded;")
        say("`raggym data info CARD` says which files are missing, and where they are looked for.")
    if any(not status.problem and status.passages is None for status in statuses):
        say("Passages are counted when a split is first used: -.")


@app.command("get")
def get_command(name: Name, as_json: AsJson = False, trust_card: TrustCard = False) -> None:
    """Download what the hub has and prepare the corpora. Exits with 1 if a split stays unavailable.

    With the name of prebuilt vectors, wiki-18-e5, download them.
    """
    from raggym_env.data import catalogue
    from raggym_env.data.prebuilt import PREBUILT, fetch_prebuilt

    if name in PREBUILT:
        say(str(fetch_prebuilt(name)))
        return
    statuses = catalogue.get(catalogue.named_card(name, trust=trust_card))
    _print(statuses, as_json)
    if any(status.problem for status in statuses):
        raise typer.Exit(1)


@app.command("info")
def info_command(name: Name, as_json: AsJson = False, trust_card: TrustCard = False) -> None:
    """Describe one data set: its licence, its splits with their sources and sizes, and an example question."""
    from raggym_env.data import catalogue

    card = catalogue.named_card(name, trust=trust_card)
    statuses = catalogue.statuses(card)
    about = {"name": card.name, "title": card.title, "description": card.description, "licence": card.licence}
    if as_json:
        say_json({**about, "splits": [asdict(status) for status in statuses]})
        return
    show_fields(about)
    _print(statuses, as_json=False)
    if example := next((status.example for status in statuses if status.example), ""):
        show_fields({"example": example})


@app.command("verify")
def verify_command(
    env: Annotated[str | None, typer.Argument(help="Environment; default: all corpora in the cache.")] = None,
) -> None:
    """Read corpora whole, and compare them with their checksums and with the files that they were prepared from.

    With an environment, the questions of its splits are read too. Prints one line for each corpus or split, and exits
    with 1 if one of them is missing or damaged.
    """
    from raggym_env.data import catalogue, verify

    if env is None:
        folders = verify.prepared_folders()
        verify_all((path.name, 2 * folder_bytes(path), partial(verify.verify_corpus, path)) for path in folders)
        return
    card = catalogue.named_card(env)
    verify_all((f"{card.name} {split}", 0, partial(verify.verify_split, card, split)) for split in card.dataset.splits)


def _print(statuses: Sequence[SplitStatus], as_json: bool) -> None:
    if as_json:
        say_json([asdict(status) for status in statuses])
        return
    _table(statuses)
    for status in statuses:
        if text := status.problem or (status.warning and f"warning: {status.warning}"):
            say(text)  # not wrapped, so that paths and commands in it can be copied


def _table(statuses: Sequence[SplitStatus]) -> None:
    rows = []
    for status in statuses:
        # "-" rather than 0: the size is unknown as long as the split cannot be read.
        questions = "-" if status.questions is None else f"{status.questions:,}"
        passages = "-" if status.passages is None else f"{status.passages:,}"
        rows.append((status.card, status.split, questions, passages, status.source or "not here"))
    numbers = (Column(name, justify="right", no_wrap=True) for name in ("questions", "passages"))
    columns: list[str | Column] = [Column("card", no_wrap=True), Column("split", no_wrap=True), *numbers, "read from"]
    show_table(columns, rows, lines=False)
