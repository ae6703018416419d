"""`raggym show`: the episodes of a run, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.padding import Padding
from rich.table import Column
from rich.text import Text

from raggym_env.cli._output import say, show_hanging, show_table
from raggym_env.cli._output import show as render
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
    """Show what an agent saw, wrote and was scored, step by step.

    Of a step, "score" is what the critic, or the policy's own ranking, gave the action when it was chosen. "process
    reward" is what the environment then paid for it, by the process reward of its card.
    """
    from raggym_env.evaluation.scored_run import ScoredRun

    scored = ScoredRun.read(run)
    if question is not None:
        _print_episode(scored, _task(scored, question), prompt)
        return
    other = None if flipped is None else ScoredRun.read(flipped)
    tasks = [task for task in scored.tasks if task.id in scored.episodes and _matches(scored, task, wrong, other, grep)]
    _print_list(scored, tasks, limit)


def _task(scored: ScoredRun, question: str) -> Task:
    """Return the task with an id, or with a number from 1."""
    by_id = {task.id: task for task in scored.tasks}
    number = int(question) if question.isdecimal() and len(question) < 10 else 0
    if question not in by_id and not 1 <= number <= len(scored.tasks):
        raise UnknownName(f"question (an id, or a number from 1) of {scored.run.path}", question, by_id)
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


def _print_list(scored: ScoredRun, tasks: Sequence[Task], limit: int) -> None:
    metric = scored.card.episode.metric
    columns: list[str | Column] = [
        Column("Id", no_wrap=True),
        Column(metric, justify="right"),
        Column("Question", ratio=3),
        "Answer",
    ]
    rows = []
    for task in tasks[:limit]:
        episode = scored.episodes[task.id]
        value = scored.by_question.get(task.id, {}).get(metric)
        answer = for_terminal(episode.answer or episode.stop or "", length=80)
        rows.append((task.id, "failed" if value is None else f"{value:.2f}", task.question.text, answer))
    show_table(columns, rows, lines=False)
    more = f", the first {limit} of them shown (--limit)" if len(tasks) > limit else ""
    say(f"{len(tasks):,} of {len(scored.tasks):,} questions{more}.")


def _print_episode(scored: ScoredRun, task: Task, prompt: bool) -> None:
    from raggym_env.core import option_letter, title_key

    show_hanging(Text("question"), for_rich(task.question.text, "bold"))
    for index, option in enumerate(task.question.options):
        show_hanging(Text(option_letter(index)), for_rich(option))
    facts = [("gold", " / ".join(task.answers)), ("passages", " · ".join(task.gold_titles)), ("type", task.type)]
    for name, value in (*facts, ("id", task.id)):
        if value:
            show_hanging(Text(name, "dim"), for_rich(value, "dim"))
    episode = scored.episodes.get(task.id)
    if episode is None:
        say("The run has no episode of this question yet.")
        return
    gold = {title_key(title) for title in task.gold_titles}
    for number, step in enumerate(episode.steps, 1):
        _print_step(number, step, gold)
        if prompt:
            _print_prompt(scored, step)
        if step.text:
            _block("model", step.text)
    _print_end(scored, task, episode, prompt)
    if any(step.score is not None for step in episode.steps):
        legend = "score: by which the action was chosen. process reward: what the environment paid for it."
        _indented(Text(legend, "dim"))


def _print_step(number: int, step: Step, gold: set[str]) -> None:
    from raggym_env.core import Search, title_key

    say("")
    kind = "search" if isinstance(step.action, Search) else "answer"
    style = "cyan" if kind == "search" else "green"
    show_hanging(Text(f"{number} {kind}", f"bold {style}"), for_rich(_action_text(step.action), "bold"))
    figures = [f"process reward {step.process_reward:+.3f}"]
    figures += [f"outcome {step.outcome:.3f}"] if kind == "answer" or step.outcome else []
    figures += [f"score {step.score:+.3f}"] if step.score is not None else []
    _indented(Text("   ".join(figures), "dim"))
    if isinstance(step.action, Search) and step.action.draft:
        _indented(for_rich(f"answer so far: {step.action.draft}"))
    for rank, passage in enumerate(step.passages, 1):
        mark = Text("★", "yellow") if title_key(passage.title) in gold else Text(" ")
        excerpt = f": {for_terminal(passage.text, length=240)}" if passage.text else ""
        _indented(mark + for_rich(f"[{rank}] {passage.title}{excerpt}"))
    if kind == "search" and not step.passages:
        _indented(Text("nothing found", "dim"))
    for candidate in step.candidates:
        score = "   none" if candidate.score is None else f"{candidate.score:+.3f}"
        chosen = "→" if candidate.action == step.action else " "
        name = "no action" if candidate.action is None else _action_text(candidate.action)
        kind = {"Search": "search", "Answer": "answer"}.get(type(candidate.action).__name__, "")
        _indented(for_rich(f"{chosen} {score} {kind:7}{name}", "" if chosen == "→" else "dim"))


def _print_prompt(scored: ScoredRun, holder: Step | Episode) -> None:
    messages = scored.messages(holder)
    for message in messages:
        _block(f"prompt, {message['role']}", message["content"])
    if not messages:
        _indented(Text("no prompt recorded: run `raggym eval` with --record-prompts", "dim"))


def _print_end(scored: ScoredRun, task: Task, episode: Episode, prompt: bool) -> None:
    from raggym_env.evaluation.scores import searches_of

    say("")
    if episode.error is not None:
        show_hanging(Text("failed", "bold yellow"), for_rich(episode.error))
        return
    scores = scored.by_question[task.id]
    right = _is_right(scored, task)
    verdict = Text("✓ right" if right else "✗ wrong", "bold green" if right else "bold red")
    show_hanging(verdict, for_rich(episode.answer or f"no answer ({episode.stop})", "bold"))
    tokens = episode.usage.prompt_tokens + episode.usage.completion_tokens
    figures = [f"{name} {value:.3f}" for name, value in scores.items()]
    figures += [f"{searches_of(episode)} searches", f"{episode.seconds:.2f} s"] + (
        [f"{tokens:,} tokens"] if tokens else []
    )
    _indented(Text("   ".join(figures), "dim"))
    if episode.output:
        if prompt:
            _print_prompt(scored, episode)
        _block("output that is no action", episode.output)


def _action_text(action: Action) -> str:
    from raggym_env.core import Search

    return action.query if isinstance(action, Search) else action.text


def _indented(text: Text) -> None:
    render(Padding(text, (0, 0, 0, 2)))


def _block(title: str, text: str) -> None:
    """Print text of a model as it was written, line by line, behind a bar."""
    _indented(Text(f"{title}:", "dim"))
    for line in for_terminal(text, lines=True).split("\n"):
        render(Padding(Text("│ ", "dim") + Text(line), (0, 0, 0, 4)))
