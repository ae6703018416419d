"""Evaluation: run folders, scoring and the leaderboard."""

from raggym_env.evaluation.evaluate import evaluate
from raggym_env.evaluation.leaderboard import Leaderboard, build_leaderboard
from raggym_env.evaluation.report import html_report
from raggym_env.evaluation.scores import Estimate, Scores, bootstrap, score_records
from raggym_env.runs.run import Run

__all__ = [
    "Estimate",
    "Leaderboard",
    "Run",
    "Scores",
    "bootstrap",
    "build_leaderboard",
    "evaluate",
    "html_report",
    "score_records",
]
