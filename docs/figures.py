"""Make `scores.json` and `sizes.json`, the figures of the environment pages, from run folders and from the data here.

python benchmarks/leaderboard.py --out RUNS      # every shipped policy that needs no language model: CPU minutes
python docs/figures.py RUNS/*
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from raggym_env.data import catalogue
from raggym_env.evaluation import build_leaderboard

DOCS = Path(__file__).parent


def main(runs: list[str]) -> None:
    boards = build_leaderboard(runs).to_json()
    for board in boards:
        for row in board["rows"]:
            row["source"] = Path(row["source"]).name  # the rest of the path belongs to this machine
    write("scores.json", boards)
    statuses = [status for card in catalogue.shipped_cards() for status in catalogue.statuses(card)]
    names = ("card", "split", "questions", "passages")
    write("sizes.json", [{name: getattr(status, name) for name in names} for status in statuses if status.passages])


def write(name: str, content: Any) -> None:
    (DOCS / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
