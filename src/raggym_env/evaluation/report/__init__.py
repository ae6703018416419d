"""One self-contained HTML page about runs: leaderboard, paired differences, plots, and every episode."""

from raggym_env.evaluation.report.page import report_page, write_report

__all__ = ["report_page", "write_report"]
