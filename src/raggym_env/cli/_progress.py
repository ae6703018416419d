"""The progress bar of `raggym eval` and `raggym collect`."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raggym_env.cli._output import say
from raggym_env.text.exits import for_terminal

__all__ = ["EpisodeBar"]

_LOGGER = logging.getLogger("raggym_env")


class _Loading(logging.Handler):
    """Shows in the bar what the library logs while it loads: the corpus, the index, the model; and warnings above."""

    def __init__(self, bar: EpisodeBar) -> None:
        super().__init__(logging.INFO)
        self._bar = bar
        self._first: tuple[str, float, float] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text, rate = record.getMessage(), ""
        if record.levelno >= logging.WARNING:
            say(f"warning: {text}", err=True)
            return
        match record.args:
            case (int(done), int(total)) if 0 < done <= total:  # a count that goes on, such as embedded passages
                if self._first is None or self._first[0] != record.msg:
                    self._first = str(record.msg), record.created, done
                _, start, before = self._first
                if record.created > start:
                    rate = f"{(done - before) / (record.created - start):,.0f}/s"
        self._bar.show_loading(text, rate)


class EpisodeBar(Progress):
    """A progress bar over episodes, called as each one ends; see `raggym_env.runs.run.Progress`.

    Until the first has ended, it shows what is loaded. Bars of other libraries are off while it lasts.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("{task.fields[score]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),  # results go to stdout, which may be piped into a file
        )
        self._name = for_terminal(name, length=80)
        self._outcomes: list[float] = []
        self._recorded = 0, 0.0  # number and sum of the outcomes before this command
        self._errors: Counter[str] = Counter()
        self._row = self.add_task("loading", total=None, rate="", score="")
        self._start = time.perf_counter()
        self._loading = _Loading(self)
        self._level = logging.NOTSET
        # Read by tqdm and by the hub's library when they are imported, which is later.
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def start(self) -> None:
        self._level = _LOGGER.level
        _LOGGER.addHandler(self._loading)
        _LOGGER.setLevel(min(logging.INFO, self._level or logging.INFO))
        super().start()

    def stop(self) -> None:
        if not self._outcomes and not self._errors:
            self.update(self._row, visible=False)  # an error or a complete run: an empty bar says nothing in a log
        super().stop()
        _LOGGER.removeHandler(self._loading)
        _LOGGER.setLevel(self._level)

    def show_loading(self, text: str, rate: str) -> None:
        """Show what is loaded, and how fast, until the first episode has ended."""
        if not self._outcomes and not self._errors:
            self.update(self._row, description=for_terminal(text, length=80), rate=rate)

    def resume(self, outcomes: list[float]) -> None:
        """Take the outcomes of earlier episodes into the score, though not into the rate."""
        self._recorded = len(outcomes), sum(outcomes)

    def __call__(self, completed: int, total: int, record: dict[str, Any]) -> None:
        if record["error"] is None:
            # An output that is not an action ended the episode without a step of its own, and scores 0.
            self._outcomes.append(record["steps"][-1]["outcome"] if record["stop"] != "no_action" else 0.0)
        else:
            self._errors[record["error"]] += 1
        # Episodes that failed at once would inflate the rate.
        rate = f"{len(self._outcomes) / (time.perf_counter() - self._start):.1f}/s"
        scored, total_score = self._recorded[0] + len(self._outcomes), self._recorded[1] + sum(self._outcomes)
        score = f"score {total_score / scored:.3f}" if scored else ""
        self.update(self._row, description=self._name, completed=completed, total=total, rate=rate, score=score)

    def exit_if_failed(self, failed: int) -> None:
        """If episodes failed, print the most frequent reasons and exit with code 2."""
        if not failed:
            return
        say(f"{failed} episodes failed. The same command runs them again. Most frequent reasons:", err=True)
        for error, count in self._errors.most_common(3):
            say(f"  {count} x {error}", err=True)
        raise typer.Exit(2)
