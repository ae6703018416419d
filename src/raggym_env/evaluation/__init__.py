"""Evaluation: run a policy, score what it did, rank it, and show it on a page."""

from raggym_env.evaluation.evaluate import evaluate
from raggym_env.evaluation.leaderboard import Leaderboard, build_leaderboard
from raggym_env.evaluation.report import html_report
from raggym_env.evaluation.scores import Estimate, Prediction, Scores, bootstrap, score_record, score_records
from raggym_env.runs.ray.pool import Workers
from raggym_env.runs.run import Run

__all__ = [
    "Estimate",
    "Leaderboard",
    "Prediction",
    "Run",
    "Scores",
    "Workers",
    "bootstrap",
    "build_leaderboard",
    "evaluate",
    "html_report",
    "score_record",
    "score_records",
]
