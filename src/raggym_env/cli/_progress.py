"""The bar over running episodes that `raggym eval` and `raggym collect` show."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["EpisodeBar"]


class EpisodeBar(Progress):
    """Called with each ended episode: how many are done, of how many, and its record."""

    def __init__(self, name: str) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[score]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._name = name
        self._outcomes: list[float] = []
        self._errors: Counter[str] = Counter()
        self._row = self.add_task("loading", total=None, rate="", score="")
        self._since = time.perf_counter()

    def __call__(self, done: int, total: int, record: dict[str, Any]) -> None:
        if record["error"] is None:
            self._outcomes.append(record["steps"][-1]["outcome"] if record["stop"] != "no_action" else 0.0)
        else:
            self._errors[record["error"]] += 1
        rate = f"{len(self._outcomes) / (time.perf_counter() - self._since):.1f}/s"
        score = f"score {sum(self._outcomes) / len(self._outcomes):.3f}" if self._outcomes else ""
        self.update(self._row, description=self._name, completed=done, total=total, rate=rate, score=score)

    def exit_if_failed(self, failed: int) -> None:
        """Where episodes failed, say so with the commonest reasons, and leave with exit code 2."""
        if not failed:
            return
        typer.echo(f"{failed} episodes failed: the same command tries them again. Most often:", err=True)
        for error, count in self._errors.most_common(3):
            typer.echo(f"  {count} x {error}", err=True)
        raise typer.Exit(2)
