"""`raggym watch`: follow a run live, in the terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from raggym_env.cli._output import hanging, say, shown_live
from raggym_env.cli._signals import exit_code
from raggym_env.storage.work_folder import is_locked
from raggym_env.text.exits import for_rich

if TYPE_CHECKING:
    from raggym_env.evaluation.scored_run import ScoredRun

__all__ = ["Pace", "watch"]

_WINDOW_SECONDS = 120.0  # over which the rate is taken


def watch(
    run: Annotated[Path, typer.Argument(help="Run folder that `raggym eval` is writing to.")],
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Follow a run: score so far, rate, failures and time left. Ends with the run, or on Ctrl-C.

    A run that was killed is told from a slow one by its lock, which a process holds as long as it runs.

    The scores are those of `raggym leaderboard` on the episodes that have ended. Nothing is written into the folder.
    """
    try:
        with shown_live() as display:
            _follow(run, every, display)
    except KeyboardInterrupt as error:
        say("Stopped watching. The run goes on.")
        raise typer.Exit(exit_code(error)) from None


class Pace:
    """The rate at which questions get a score while somebody looks on, whatever was scored before."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, seconds: float, scored: int) -> None:
        """Note the number of scored questions at a time."""
        if self._counts and scored < self._counts[-1][1]:
            self._counts.clear()  # the run was deleted and begun again
        self._counts.append((seconds, scored))
        while len(self._counts) > 2 and seconds - self._counts[1][0] >= _WINDOW_SECONDS:
            self._counts.popleft()

    @property
    def rate(self) -> float:
        """Questions per second; 0 as long as none was scored."""
        (start, before), (end, after) = self._counts[0], self._counts[-1]
        return (after - before) / (end - start) if end > start else 0.0


def _follow(run: Path, every: float, display: Callable[[RenderableType], None]) -> None:
    from raggym_env.evaluation.scored_run import ScoredRun, cached_tasks

    load_tasks, pace, pause = cached_tasks(), Pace(), 0.0
    seen: object = None
    while True:
        time.sleep(pause)
        started = time.monotonic()
        held = is_locked(run)  # before the status: of a run that ends in between, the status says so
        # A run that is still loading its model has a lock, and writes run.json with its first episode.
        if not (run / "run.json").exists() and (run / ".lock").exists():
            if not held:
                stopped = for_rich(f"before its first episode: no process writes to {run}. The same command starts it.")
                display(hanging(for_rich("stopped"), stopped))
                return
            if seen is None:
                display(hanging(for_rich("waiting"), for_rich(f"for the first episode of {run}")))
            seen, pause = (), every
            continue
        scored = ScoredRun.read(run, load_tasks)
        status = scored.run.status  # before the episodes: if it is complete, they are
        if status == "running" and not held:
            status = "stopped"
        state = status, scored.run.episodes_file.stat().st_size
        pace.add(started, scored.scores.scored)
        if state != seen:
            display(_picture(scored, pace, status))
        if status == "stopped":
            last = datetime.fromtimestamp(scored.run.episodes_file.stat().st_mtime)
            resume = f"To resume it: {scored.run.command}" if scored.run.command else "The same call resumes it."
            say(f"Not running: stopped or killed; the last episode was written at {last:%Y-%m-%d %H:%M:%S}. {resume}")
        if status != "running":
            return
        # A long file takes a while to read, and most of the machine belongs to the run.
        seen, pause = state, max(every, 5 * (time.monotonic() - started))


def _picture(scored: ScoredRun, pace: Pace, status: str) -> RenderableType:
    scores, metric = scored.scores, scored.card.episode.metric
    run = for_rich(f"{scored.label} on {scored.card.name}, {scored.split} split", "bold")
    facts = [f"{scores.scored:,} of {scores.questions:,} scored"]
    if estimate := scores.metrics.get(metric):
        facts.append(f"{metric} {estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]")
    facts += [f"{scores.failed:,} failed"] if scores.failed else []
    facts += [f"{scores.no_action:,} no action"] if scores.no_action else []
    facts += [f"{scores.tokens:,} tokens"] if scores.tokens else []
    if status == "running" and pace.rate:
        left = timedelta(seconds=round((scores.questions - scores.scored) / pace.rate))
        facts += [f"{pace.rate:.1f}/s", f"{left} left"]
    length = 40 * scores.scored // scores.questions
    bar = Text("━" * length, "green") + Text("━" * (40 - length), "dim")
    return Group(hanging(for_rich(status), run), bar, for_rich("  ".join(facts)))
