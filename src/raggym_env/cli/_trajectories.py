"""Process data for people: counts over a collection, and single trajectories to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from raggym_env.core import Action, Answer, Search, option_letter
from raggym_env.text.exits import for_rich, for_terminal
from raggym_env.training.process_data.rows import comparable
from raggym_env.training.process_data.trajectories import Collection, Trajectory, TrajectoryStep

__all__ = ["Summary", "render", "sample", "summarise"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts over a collection. States, candidates and pairs are those of the trajectories that it keeps."""

    trajectories: int
    """Episodes that ended."""
    failed: int
    """Questions whose episode failed, for example by an outage."""
    kept_trajectories: int
    states: int
    candidates_per_state: float
    """Mean number of scored candidates; equal actions of a state count once."""
    pairs: int
    """Pairs of one state's candidates whose scores differ by a margin: what a critic can be trained on."""
    preferences: int
    """States with at least one pair: what an actor can be tuned on."""
    outcome: float
    """Mean outcome of all episodes that ended, in [0, 1]; 0 if there is none."""

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the lines to print, each as a label and a text."""
        yield "trajectories", f"{self.trajectories:,}" + (f" ({self.failed:,} failed)" if self.failed else "")
        yield "kept", f"{self.kept_trajectories:,}"
        yield "states", f"{self.states:,}"
        yield "candidates", f"{self.candidates_per_state:.1f} per state"
        yield "pairs", f"{self.pairs:,} in {self.preferences:,} states"
        yield "outcome", f"{self.outcome:.3f} on average"


def summarise(collection: Collection, *, margin: float = 0.05) -> Summary:
    """Count what a collection holds. The scores of a pair differ by `margin` at least."""
    trajectories = list(collection.trajectories(kept=False))
    passing = [trajectory for trajectory in trajectories if collection.keeps(trajectory)]
    steps = [step for trajectory in passing for step in trajectory.steps]
    pairs = [len(comparable(step, margin)) for step in steps]  # per state
    return Summary(
        trajectories=len(trajectories),
        failed=collection.failed,
        kept_trajectories=len(passing),
        states=len(steps),
        candidates_per_state=sum(len(step.candidates) for step in steps) / max(1, len(steps)),
        pairs=sum(pairs),
        preferences=sum(count > 0 for count in pairs),
        outcome=sum(trajectory.outcome for trajectory in trajectories) / max(1, len(trajectories)),
    )


def sample(trajectories: Iterable[Trajectory], count: int) -> list[Trajectory]:
    """Return `count` of the trajectories, spread evenly over them, or all if there are fewer."""
    pool = list(trajectories)
    count = min(count, len(pool))
    return [pool[index * len(pool) // count] for index in range(count)]


def render(trajectory: Trajectory) -> RenderableType:
    """Return a trajectory to print: for every state the last passages and the candidates, the executed one marked.

    Texts of policies and passages are on one line each.
    """
    question = trajectory.question
    options = [f"{option_letter(index)}. {_line(text)}" for index, text in enumerate(question.options)]
    answer = "No answer" if trajectory.answer is None else f"Answered {_line(trajectory.answer)!r}"
    return Group(
        Panel(
            Text("\n".join([for_terminal(question.text), *options])),
            title=for_rich(_line(question.id)),
            title_align="left",
        ),
        *(part for number, step in enumerate(trajectory.steps, 1) for part in _step(number, step)),
        Text.assemble(f"{answer}, ", _outcome(trajectory.outcome), "\n"),
    )


def _step(number: int, step: TrajectoryStep) -> Iterator[RenderableType]:
    # Only the newest passages: those of earlier searches were printed with their steps.
    if step.state.history:
        titles = " · ".join(_line(passage.title) for passage in step.state.history[-1].passages)
        yield for_rich(f"   found: {titles or 'nothing'}", style="dim")
    yield Text(f"Step {number}, searches left: {step.state.searches_left}", style="bold")
    table = Table.grid(padding=(0, 2))
    for candidate in step.candidates:
        executed = candidate.action == step.action
        outcome = "" if candidate.outcome is None else _outcome(candidate.outcome)
        action = for_rich(_describe(candidate.action), style="bold" if executed else "")
        table.add_row(" ▶" if executed else "", f"{candidate.score or 0.0:+.3f}", action, outcome)
    yield table


def _describe(action: Action | None) -> str:
    match action:
        case Answer(text):
            return f"answer  {_line(text)}"
        case Search(query, draft):
            return f"search  {_line(query)}" + ("" if draft is None else f"  (draft: {_line(draft)})")
    return "no action"


def _outcome(value: float) -> Text:
    return Text(f"outcome {value:.2f}", style="green" if value >= 1.0 else "red" if value <= 0.0 else "yellow")


def _line(text: str) -> str:
    return for_terminal(text, length=100)  # about the width of a terminal, with the columns before it
