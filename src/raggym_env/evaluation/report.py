"""The leaderboard as one self-contained HTML page, with the trajectories of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raggym_env.core import Answer, Search, Task
from raggym_env.evaluation.leaderboard import COLUMNS, Board, Leaderboard, Row, local_tasks
from raggym_env.mdp.metrics import score
from raggym_env.mdp.records import Episode
from raggym_env.runs.run import Run

__all__ = ["html_report"]

Json = dict[str, Any]


def html_report(leaderboard: Leaderboard, *, episodes: int = 100) -> str:
    """Return the page as HTML. It loads nothing from elsewhere, and Jinja escapes every recorded text, since model
    output and passages are untrusted.

    Args:
        leaderboard: The boards to show.
        episodes: Number of trajectories shown per run, those of the first questions; 0 for none.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # StrictUndefined: a misspelt field must fail in tests, not leave an empty cell.
    environment = Environment(
        loader=PackageLoader("raggym_env.evaluation", ""), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("report.html")
    return template.render(boards=[_board(board, episodes) for board in leaderboard.boards])


def _board(board: Board, episodes: int) -> Json:
    metrics = board.metrics
    rows = [_row(board, row, place, episodes) for place, row in enumerate(board.rows, 1)]
    return {
        "environment": board.environment,
        "split": board.split,
        "questions": board.questions,
        "metric": COLUMNS[board.metric],
        "has_tokens": board.has_tokens,
        "metrics": [COLUMNS[name] for name in metrics],
        "rows": rows,
    }


def _row(board: Board, row: Row, place: int, episodes: int) -> Json:
    figures = [row.figure(name) for name in board.metrics]
    main = row.figure(board.metric)
    scores = row.scores
    pairs = _episodes(row) if episodes else []
    return {
        "place": place if scores is not None and scores.ranked else "",
        "policy": row.policy,
        "source": row.source,
        "cited": row.cited is not None,
        "main": main[0] if main else None,
        "figures": figures,
        "searches": "" if scores is None or scores.searches is None else f"{scores.searches:.2f}",
        "tokens": f"{scores.tokens:,}" if scores else "",
        "cost": f"{scores.cost:.4f}" if scores and scores.cost is not None else "",
        "scored": "" if scores is None else f"{scores.scored}/{scores.questions}",
        "recorded": len(pairs),
        "episodes": [_episode(episode, task, board.metric) for episode, task in pairs[:episodes]],
    }


def _episodes(row: Row) -> list[tuple[Episode, Task]]:
    """The last episode of each question of a run, in the order of the questions."""
    # Predictions files and published results have no episodes.
    if row.scores is None or not Path(row.source).is_dir():
        return []
    run = Run.read(row.source)
    # A question that failed and was run again has several records; the last one counts.
    latest = {episode.id: episode for episode in run.iter_episodes()}
    tasks = run.select(local_tasks(run.card, run.config["split"]).tasks)
    return [(latest[task.id], task) for task in tasks if task.id in latest]


def _episode(episode: Episode, task: Task, metric: str) -> Json:
    value = None if episode.error is not None else score(metric, episode.answer, task)
    steps = [
        {
            "search": step.action.query if isinstance(step.action, Search) else None,
            "passages": step.passages,
            "answer": step.action.text if isinstance(step.action, Answer) else None,
        }
        for step in episode.steps
    ]
    return {
        "question": episode.question,
        "steps": steps,
        "error": episode.error,
        "stop": episode.stop,
        "answer": episode.answer or "none",
        "gold": " / ".join(task.answers),
        "mark": "failed" if value is None else f"{value:.2f}",
        "verdict": "failed" if value is None else "right" if value == 1.0 else "wrong",
    }
