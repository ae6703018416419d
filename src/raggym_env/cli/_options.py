"""Options that several commands share, as `Annotated` aliases. Each command sets its own defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raggym_env.errors import CardError, OptionError, RunError
from raggym_env.storage.parsing import ParseError, parse_toml

if TYPE_CHECKING:
    from raggym_env.runs.ray.pool import Workers

__all__ = [
    "LLM",
    "AsJson",
    "Concurrency",
    "Data",
    "Env",
    "InFlight",
    "Limit",
    "Out",
    "PolicyName",
    "Published",
    "Ray",
    "Seed",
    "Settings",
    "ShuffleSeed",
    "Split",
]
__all__ += [
    "TrustCard",
    "WorkerCount",
    "WorkerGPUs",
    "parse_settings",
    "published_file",
    "ray_workers",
    "refuse_unused",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

# Cards, and what to run on them.
Env = Annotated[str, typer.Argument(help="Environment: an id (`raggym envs`) or the path of a card.")]
PolicyName = Annotated[
    str, typer.Option("--policy", help="Policy: a name (`raggym policies`), a card's path, or module:Class.")
]
TrustCard = Annotated[
    bool,
    typer.Option(
        "--trust-card",
        help="Let cards at paths name code, servers, keys and files elsewhere. Only for cards that you have read.",
    ),
]
LLM = Annotated[str | None, typer.Option("--llm", help="Model: hf:smollm2, hf:smollm2+ADAPTER or openai:MODEL@URL.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a card, e.g. retrieval.k=10 or policy.options.x=1."),
]
Split = Annotated[str, typer.Option(help="Split of the environment.")]
Published = Annotated[
    bool,
    typer.Option(
        "--published",
        help="Show published results as well: the paper's, or those of a TOML file among the paths. Never ranked.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take the first N questions only.")]
ShuffleSeed = Annotated[
    int | None, typer.Option(help="With --limit: take N questions at random, by this seed, in place of the first N.")
]
Concurrency = Annotated[
    int | None,
    typer.Option(min=1, help="Requests to an API at the same time, in each worker. Default: as many as --in-flight."),
]
Seed = Annotated[int, typer.Option(help="Seed of the policy.")]

# Folders.
Data = Annotated[Path, typer.Argument(help="Folder made by `raggym collect`.")]
Out = Annotated[Path | None, typer.Option(help="Run folder. Default: below runs/, named after the run.")]

# Where the episodes run.
InFlight = Annotated[int, typer.Option(min=1, help="Episodes that run side by side, in each worker.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS|local",
        help="Run the episodes on Ray: local, HOST:PORT or auto on a machine of a cluster, or ray://HOST:PORT. "
        "Anybody who can reach a cluster can run code on it, so join only clusters that you trust.",
    ),
]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", min=1, help="Ray workers, of one CPU each. Default: as many as fit.")
]
WorkerGPUs = Annotated[
    float | None, typer.Option("--worker-gpus", min=0, help="GPUs of each Ray worker, e.g. 1 or 0.5. Default: none.")
]


def ray_workers(ray: str | None, workers: int | None, gpus: float | None) -> Workers | None:
    """Return the Ray workers that the options describe, or None if the episodes run in this process.

    Raises:
        RunError: An option of Ray was given without `--ray`.
    """
    if ray is not None:
        from raggym_env.runs.ray.pool import Workers

        return Workers(ray, workers, gpus or 0.0)
    if workers is not None or gpus is not None:
        raise RunError("--workers and --worker-gpus need Ray: add --ray local, or --ray ADDRESS of a cluster.")
    return None


def parse_settings(settings: Sequence[str] | None, option: str = "--set") -> dict[str, Any]:
    """Parse `KEY=VALUE` strings. A value is read as TOML or, where it is not valid TOML, taken as plain text.

    >>> parse_settings(["retrieval.k=10", "retrieval.name=rank-bm25"])
    {'retrieval.k': 10, 'retrieval.name': 'rank-bm25'}

    Raises:
        CardError: A string has no `=` or no key; the message names the `option`.
    """
    parsed = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise CardError(f"{option} takes KEY=VALUE, got {setting!r}.")
        try:
            parsed[key] = parse_toml(f"value = {value}")["value"]
        except ParseError:
            # Most values are names, such as rank-bm25: requiring TOML's quotes inside the shell's would be a nuisance.
            parsed[key] = value
    return parsed


def published_file(sources: list[Path], published: bool) -> tuple[list[Path], bool | Path]:
    """Return the sources without the TOML file of `--published`, and that file, or True for the paper's results.

    An option with a path would swallow the first run of `--published RUN`.

    Raises:
        RunError: There are several such files, or nothing else.
    """
    files = [source for source in sources if source.suffix == ".toml"] if published else []
    rest = [source for source in sources if source not in files]
    if len(files) > 1 or not rest:
        raise RunError(f"--published takes one TOML file at most, beside runs or predictions; got {sources}.")
    return rest, files[0] if files else published


def refuse_unused(context: typer.Context, names: Sequence[str], where: str) -> None:
    """Refuse the parameters `names` of a command if they were given, since they would have no effect `where`.

    Raises:
        OptionError: One was given.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise OptionError(f"{parameter.opts[0]} does nothing {where}. Leave it out.")
