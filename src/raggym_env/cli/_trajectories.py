"""Process data for people: what a collection amounts to, and single trajectories to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from raggym_env.core import Action, Answer, option_letter
from raggym_env.text.untrusted import clipped, one_line
from raggym_env.training.process_data.rows import comparable
from raggym_env.training.process_data.trajectories import Choice, Collection, Trajectory

__all__ = ["Summary", "sample", "shown", "summarise"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a collection amounts to. States, candidates and pairs are those of the kept trajectories."""

    trajectories: int
    """Those that ended."""
    failed: int
    """Questions whose episode failed, by an outage say."""
    kept: int
    states: int
    candidates: int
    """Scored, in all states together; equal actions of a state count once."""
    pairs: int
    """Pairs of one state's candidates whose scores differ by a margin: what a critic can be trained on."""
    preferences: int
    """States with at least one pair: what an actor can be tuned on."""
    outcome: float
    """Mean outcome of all that ended, in [0, 1]; 0 if there is none."""

    @property
    def candidates_per_state(self) -> float:
        return self.candidates / self.states if self.states else 0.0

    def rows(self) -> Iterator[tuple[str, str]]:
        """Its figures as they are printed, with what they are called."""
        yield "trajectories", f"{self.trajectories:,}" + (f" ({self.failed:,} failed)" if self.failed else "")
        yield "kept", f"{self.kept:,}"
        yield "states", f"{self.states:,}"
        yield "candidates", f"{self.candidates_per_state:.1f} per state"
        yield "pairs", f"{self.pairs:,} in {self.preferences:,} states"
        yield "outcome", f"{self.outcome:.3f} on average"


def summarise(collection: Collection, *, margin: float = 0.05) -> Summary:
    """Count what is in a collection.

    Args:
        collection: Process data.
        margin: What two scores differ by, at least, to make a pair.
    """
    outcomes: list[float] = []
    kept = 0
    candidates: list[int] = []
    pairs: list[int] = []
    for trajectory in collection.trajectories(kept=False):
        outcomes.append(trajectory.outcome)
        if collection.keeps(trajectory):
            kept += 1
            candidates += [len(choice.candidates) for choice in trajectory.choices]
            pairs += [len(comparable(choice, margin)) for choice in trajectory.choices]
    return Summary(
        trajectories=len(outcomes),
        failed=collection.failed,
        kept=kept,
        states=len(candidates),
        candidates=sum(candidates),
        pairs=sum(pairs),
        preferences=sum(count > 0 for count in pairs),
        outcome=sum(outcomes) / len(outcomes) if outcomes else 0.0,
    )


def sample(trajectories: Iterable[Trajectory], count: int) -> list[Trajectory]:
    """`count` of the trajectories, or as many as there are, spread evenly over them."""
    found = list(trajectories)
    count = min(count, len(found))
    return [found[index * len(found) // count] for index in range(count)]


def shown(trajectory: Trajectory) -> RenderableType:
    """A trajectory to print: in every state what was found last, and the candidates, the executed one marked.

    Texts of policies and passages come on one line each, without control characters, and their markup is not read.
    """
    question = trajectory.question
    options = [f"{option_letter(index)}. {_line(text)}" for index, text in enumerate(question.options)]
    answer = "No answer" if trajectory.answer is None else f"Answered {_line(trajectory.answer)!r}"
    return Group(
        Panel(Text("\n".join([one_line(question.text), *options])), title=Text(_line(question.id)), title_align="left"),
        *(part for number, choice in enumerate(trajectory.choices, 1) for part in _step(number, choice)),
        Text.assemble(f"{answer}, ", _outcome(trajectory.outcome), "\n"),
    )


def _step(number: int, choice: Choice) -> Iterator[RenderableType]:
    if choice.state.history:
        titles = " · ".join(_line(passage.title) for passage in choice.state.history[-1].passages)
        yield Text(f"   found: {titles or 'nothing'}", style="dim")
    yield Text(f"Step {number}, searches left: {choice.state.searches_left}", style="bold")
    table = Table.grid(padding=(0, 2))
    for candidate in choice.candidates:
        executed = candidate.action == choice.action
        outcome = "" if candidate.outcome is None else _outcome(candidate.outcome)
        words = Text(_words(candidate.action), style="bold" if executed else "")
        table.add_row(" ▶" if executed else "", f"{candidate.score:+.3f}", words, outcome)
    yield table


def _words(action: Action) -> str:
    if isinstance(action, Answer):
        return f"answer  {_line(action.text)}"
    draft = "" if action.draft is None else f"  (draft: {_line(action.draft)})"
    return f"search  {_line(action.query)}{draft}"


def _outcome(value: float) -> Text:
    return Text(f"outcome {value:.2f}", style="green" if value >= 1.0 else "red" if value <= 0.0 else "yellow")


def _line(text: str) -> str:
    return clipped(one_line(text), 100)
