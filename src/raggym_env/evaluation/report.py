"""The leaderboard as one self-contained HTML page, with the trajectories of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raggym_env import data
from raggym_env.core import Task
from raggym_env.evaluation.leaderboard import METRICS, Board, Leaderboard, Row
from raggym_env.mdp.metrics import score
from raggym_env.runs.run import Run

__all__ = ["html_report"]

Json = dict[str, Any]


def html_report(leaderboard: Leaderboard, *, episodes: int = 100) -> str:
    """The page. It loads nothing from anywhere, and everything recorded is escaped: model output and passages are
    untrusted.

    Args:
        leaderboard: What to show.
        episodes: Trajectories per run, those of the first questions; 0 for none.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("raggym_env.evaluation", ""), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("report.html")
    return template.render(boards=[_board(board, episodes) for board in leaderboard.boards])


def _board(board: Board, episodes: int) -> Json:
    shown = board.shown
    rows = [_row(board, row, place, episodes) for place, row in enumerate(board.rows, 1)]
    return {
        "environment": board.environment,
        "split": board.split,
        "questions": board.questions,
        "metric": METRICS[board.metric],
        "has_tokens": board.has_tokens,
        "shown": [METRICS[name] for name in shown],
        "rows": rows,
    }


def _row(board: Board, row: Row, place: int, episodes: int) -> Json:
    figures = [row.figure(name) for name in board.shown]
    main = row.figure(board.metric)
    scores = row.scores
    recorded = _recorded(row) if episodes else []
    return {
        "place": place if scores is not None and scores.complete else "",
        "policy": row.policy,
        "source": row.source,
        "cited": row.cited is not None,
        "main": main[0] if main else None,
        "figures": figures,
        "searches": "" if scores is None or scores.searches is None else f"{scores.searches:.2f}",
        "tokens": f"{scores.tokens:,}" if scores else "",
        "cost": f"{scores.cost:.4f}" if scores and scores.cost is not None else "",
        "scored": "" if scores is None else f"{scores.scored}/{scores.questions}",
        "recorded": len(recorded),
        "episodes": [_episode(record, task, board.metric) for record, task in recorded[:episodes]],
    }


def _recorded(row: Row) -> list[tuple[Json, Task]]:
    """The last record of each question of a run, in the order of the questions."""
    if row.scores is None or not Path(row.source).is_dir():
        return []
    run = Run.read(row.source)
    latest = {record["id"]: record for record in run.records()}
    tasks = run.select(data.load_tasks(run.card, run.config["split"]).tasks)
    return [(latest[task.id], task) for task in tasks if task.id in latest]


def _episode(record: Json, task: Task, metric: str) -> Json:
    failed = record["error"] is not None
    value = None if failed else score(metric, record["answer"], task)
    return {
        "question": record["question"],
        "steps": [{"search": None, "passages": (), "answer": None, **step} for step in record["steps"]],
        "error": record["error"],
        "stop": record["stop"],
        "answer": record["answer"] or "none",
        "gold": " / ".join(task.answers),
        "mark": "failed" if value is None else f"{value:.2f}",
        "verdict": "failed" if value is None else "right" if value == 1.0 else "wrong",
    }
