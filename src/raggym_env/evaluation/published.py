"""Published results: cited, never computed here, never ranked.

`published.toml` beside this file has those of the paper. Averages are computed from the rows, as the paper does it;
what it prints is not copied, since three of its averages are misprinted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from raggym_env.errors import DataError, shown
from raggym_env.storage.parsing import parse_toml, read_file

__all__ = ["PUBLISHED", "Average", "PublishedResult", "averages", "read_published"]

PUBLISHED = Path(__file__).with_name("published.toml")
"""The results of the paper, keyed to the cards of its settings."""

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


class PublishedResult(BaseModel):
    """One row of a published table: an agent on one environment. Means are in [0, 1]."""

    model_config = {"frozen": True}

    environment: str
    """Name of the environment card whose setting it was obtained in."""
    policy: str
    source: str
    """The publication, and the table."""
    model: str = ""
    """The language model; empty if it is not stated."""
    k: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Passages per search; None if it is not stated or the agent does not search."""
    corpus: str = ""
    """What was searched; empty if it is not stated or the agent does not search."""
    accuracy: _Share | None = None
    em: _Share | None = None
    f1: _Share | None = None
    cover_em: _Share | None = None
    recall: _Share | None = None

    @property
    def means(self) -> Mapping[str, float]:
        """The published means by metric."""
        return self.model_dump(include={"accuracy", "em", "f1", "cover_em", "recall"}, exclude_none=True)

    @property
    def setting(self) -> str:
        """The model, the passages per search and the corpus as one line, as far as they are stated."""
        parts = [self.model] if self.model else []
        parts += [f"k={self.k}"] if self.k else []
        parts += [f"corpus {self.corpus}"] if self.corpus else []
        return ", ".join(parts)


class _File(BaseModel):
    result: list[PublishedResult]


class Average(NamedTuple):
    """The means of an agent over environments."""

    policy: str
    model: str
    environments: tuple[str, ...]
    means: Mapping[str, float]
    """Mean by metric, for those metrics that every environment has."""


def read_published(path: str | Path = PUBLISHED) -> list[PublishedResult]:
    """Read a file of published results: a table `[[result]]` each, with the keys of `PublishedResult`.

    Raises:
        DataError: The file cannot be read, or a result lacks a key or has a value of the wrong type.
    """
    try:
        return _File.model_validate(parse_toml(read_file(Path(path)))).result
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']} (given: {shown(first['input'], 80)})"
        raise DataError(f"{path} is not a file of published results: {reason}.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a file of published results: {error}") from error


def averages(results: Iterable[PublishedResult], environments: Iterable[str] | None = None) -> list[Average]:
    """Return the mean of each policy and model over environments, each weighing the same, in the order of the results.

    An accuracy counts as EM and as F1, as in the paper.

    Args:
        results: Published results.
        environments: Names of the environments to average over. A policy that lacks one of them is left out. By default
            those that each policy has.
    """
    wanted = None if environments is None else tuple(environments)
    agents: dict[tuple[str, str], dict[str, PublishedResult]] = {}
    for result in results:
        if wanted is None or result.environment in wanted:
            agents.setdefault((result.policy, result.model), {})[result.environment] = result
    return [
        Average(policy, model, tuple(rows), _means(list(rows.values())))
        for (policy, model), rows in agents.items()
        if wanted is None or len(rows) == len(wanted)
    ]


def _means(rows: list[PublishedResult]) -> dict[str, float]:
    columns = {
        # No other metric of a choice among options is published.
        "em": [row.accuracy if row.em is None else row.em for row in rows],
        "f1": [row.accuracy if row.f1 is None else row.f1 for row in rows],
        "cover_em": [row.cover_em for row in rows],
    }
    complete = {name: [mean for mean in column if mean is not None] for name, column in columns.items()}
    return {name: sum(column) / len(rows) for name, column in complete.items() if len(column) == len(rows)}
