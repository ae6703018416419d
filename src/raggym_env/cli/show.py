"""`raggym show`: the episodes of a run, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from raggym_env.errors import UnknownName
from raggym_env.text.exits import for_rich, for_terminal

if TYPE_CHECKING:
    from raggym_env.core import Action, Task
    from raggym_env.evaluation.scored_run import ScoredRun
    from raggym_env.mdp.records import Episode, Step

__all__ = ["show"]

_LISTED = 20


def show(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    question: Annotated[
        str | None, typer.Argument(help="Id of a question, or its number in the split. Default: list the questions.")
    ] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="List the questions with a wrong answer only.")] = False,
    flipped: Annotated[
        Path | None, typer.Option(metavar="RUN", help="List those that another run has right and this one wrong.")
    ] = None,
    grep: Annotated[
        str | None, typer.Option(help="List those whose question, queries, answer or model text contain this text.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Questions to list.")] = _LISTED,
    prompt: Annotated[bool, typer.Option("--prompt", help="Show the prompts too, if the run recorded them.")] = False,
) -> None:
    """Show what an agent saw, wrote and was scored, step by step."""
    from raggym_env.evaluation.scored_run import ScoredRun

    scored = ScoredRun.read(run)
    console = Console(markup=False, emoji=False, highlight=False)
    if question is not None:
        _print_episode(console, scored, _task(scored, question), prompt)
        return
    other = None if flipped is None else ScoredRun.read(flipped)
    tasks = [task for task in scored.tasks if task.id in scored.episodes and _matches(scored, task, wrong, other, grep)]
    _print_list(console, scored, tasks, limit)


def _task(scored: ScoredRun, question: str) -> Task:
    """Return the task with an id, or with a number from 1."""
    by_id = {task.id: task for task in scored.tasks}
    number = int(question) if question.isdecimal() and len(question) < 10 else 0
    if question not in by_id and not 1 <= number <= len(scored.tasks):
        raise UnknownName(f"question of {scored.run.path}", question, by_id)
    return by_id.get(question) or scored.tasks[number - 1]


def _is_right(scored: ScoredRun, task: Task) -> bool:
    return scored.by_question.get(task.id, {}).get(scored.card.episode.metric) == 1.0


def _matches(scored: ScoredRun, task: Task, wrong: bool, other: ScoredRun | None, grep: str | None) -> bool:
    if (wrong or other is not None) and _is_right(scored, task):
        return False
    if other is not None and not _is_right(other, task):
        return False
    texts = _texts(task, scored.episodes[task.id])
    return grep is None or any(grep.lower() in text.lower() for text in texts)


def _texts(task: Task, episode: Episode) -> Iterator[str]:
    yield from (task.id, task.question.text, episode.answer or "", episode.output, episode.error or "")
    for step in episode.steps:
        yield from (_action_text(step.action), step.text)
        yield from (passage.title for passage in step.passages)


def _print_list(console: Console, scored: ScoredRun, tasks: Sequence[Task], limit: int) -> None:
    metric = scored.card.episode.metric
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Id", no_wrap=True)
    table.add_column(metric, justify="right")
    table.add_column("Question", ratio=3)
    table.add_column("Answer", ratio=1)
    for task in tasks[:limit]:
        episode = scored.episodes[task.id]
        value = scored.by_question.get(task.id, {}).get(metric)
        score = "failed" if value is None else f"{value:.2f}"
        answer = for_terminal(episode.answer or episode.stop or "", length=80)
        table.add_row(for_rich(task.id), score, for_rich(task.question.text), for_rich(answer))
    console.print(table)
    more = f", the first {limit} of them shown (--limit)" if len(tasks) > limit else ""
    console.print(f"{len(tasks):,} of {len(scored.tasks):,} questions{more}.")


def _print_episode(console: Console, scored: ScoredRun, task: Task, prompt: bool) -> None:
    from raggym_env.core import option_letter
    from raggym_env.rewards.evidence import title_key

    _row(console, Text("question"), for_rich(task.question.text, "bold"))
    for index, option in enumerate(task.question.options):
        _row(console, Text(option_letter(index)), for_rich(option))
    facts = [("gold", " / ".join(task.answers)), ("passages", " · ".join(task.gold_titles)), ("type", task.type)]
    for name, value in (*facts, ("id", task.id)):
        if value:
            _row(console, Text(name, "dim"), for_rich(value, "dim"))
    episode = scored.episodes.get(task.id)
    if episode is None:
        console.print("The run has no episode of this question yet.")
        return
    gold = {title_key(title) for title in task.gold_titles}
    for number, step in enumerate(episode.steps, 1):
        _print_step(console, number, step, gold, prompt)
    _print_end(console, scored, task, episode)


def _print_step(console: Console, number: int, step: Step, gold: set[str], prompt: bool) -> None:
    from raggym_env.core import Search
    from raggym_env.rewards.evidence import title_key

    console.print()
    kind = "search" if isinstance(step.action, Search) else "answer"
    style = "cyan" if kind == "search" else "green"
    _row(console, Text(f"{number} {kind}", f"bold {style}"), for_rich(_action_text(step.action), "bold"))
    figures = [f"process reward {step.process_reward:+.3f}"]
    figures += [f"outcome {step.outcome:.3f}"] if kind == "answer" or step.outcome else []
    figures += [f"score {step.score:+.3f}"] if step.score is not None else []
    _indented(console, Text("   ".join(figures), "dim"))
    if isinstance(step.action, Search) and step.action.draft:
        _indented(console, for_rich(f"answer so far: {step.action.draft}"))
    for rank, passage in enumerate(step.passages, 1):
        mark = Text("★", "yellow") if title_key(passage.title) in gold else Text(" ")
        excerpt = f": {for_terminal(passage.text, length=240)}" if passage.text else ""
        _indented(console, mark + for_rich(f"[{rank}] {passage.title}{excerpt}"))
    if kind == "search" and not step.passages:
        _indented(console, Text("nothing found", "dim"))
    for candidate in step.candidates:
        score = "   none" if candidate.score is None else f"{candidate.score:+.3f}"
        chosen = "→" if candidate.action == step.action else " "
        name = "no action" if candidate.action is None else _action_text(candidate.action)
        kind = {"Search": "search", "Answer": "answer"}.get(type(candidate.action).__name__, "")
        _indented(console, for_rich(f"{chosen} {score} {kind:7}{name}", "" if chosen == "→" else "dim"))
    if prompt:
        for message in step.messages:
            _block(console, f"prompt, {message['role']}", message["content"])
        if not step.messages:
            _indented(console, Text("no prompt recorded: run `raggym eval` with --record-prompts", "dim"))
    if step.text:
        _block(console, "model", step.text)


def _print_end(console: Console, scored: ScoredRun, task: Task, episode: Episode) -> None:
    from raggym_env.evaluation.scores import searches_of

    console.print()
    if episode.error is not None:
        _row(console, Text("failed", "bold yellow"), for_rich(episode.error))
        return
    scores = scored.by_question[task.id]
    right = _is_right(scored, task)
    verdict = Text("✓ right" if right else "✗ wrong", "bold green" if right else "bold red")
    _row(console, verdict, for_rich(episode.answer or f"no answer ({episode.stop})", "bold"))
    tokens = episode.usage.prompt_tokens + episode.usage.completion_tokens
    figures = [f"{name} {value:.3f}" for name, value in scores.items()]
    figures += [f"{searches_of(episode)} searches", f"{episode.seconds:.2f} s"] + (
        [f"{tokens:,} tokens"] if tokens else []
    )
    _indented(console, Text("   ".join(figures), "dim"))
    if episode.output:
        _block(console, "output that is no action", episode.output)


def _action_text(action: Action) -> str:
    from raggym_env.core import Search

    return action.query if isinstance(action, Search) else action.text


def _row(console: Console, head: Text, text: Text) -> None:
    """Print a text behind a short head. Its further lines are indented, so that none can pass for a line of ours."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=8)
    table.add_column()
    table.add_row(head, text)
    console.print(table)


def _indented(console: Console, text: Text) -> None:
    console.print(Padding(text, (0, 0, 0, 2)))


def _block(console: Console, title: str, text: str) -> None:
    """Print text of a model as it was written, line by line, behind a bar."""
    _indented(console, Text(f"{title}:", "dim"))
    for line in for_terminal(text, lines=True).split("\n"):
        console.print(Padding(Text("│ ", "dim") + Text(line), (0, 0, 0, 4)))
