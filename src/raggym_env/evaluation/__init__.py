"""Evaluation: run a policy, score what it did, rank it, and show it on a page."""

from raggym_env.evaluation.compare import Comparison, compare
from raggym_env.evaluation.evaluate import evaluate
from raggym_env.evaluation.judged import Judged, judge_answers
from raggym_env.evaluation.leaderboard import Leaderboard, build_leaderboard
from raggym_env.evaluation.report import report_page, write_report
from raggym_env.evaluation.scores import Prediction, Scores, score_record, score_records
from raggym_env.evaluation.statistics import Estimate, bootstrap
from raggym_env.runs.ray.pool import Workers
from raggym_env.runs.run import Run

__all__ = [
    "Comparison",
    "Estimate",
    "Judged",
    "Leaderboard",
    "Prediction",
    "Run",
    "Scores",
    "Workers",
    "bootstrap",
    "build_leaderboard",
    "compare",
    "evaluate",
    "judge_answers",
    "report_page",
    "score_record",
    "score_records",
    "write_report",
]
