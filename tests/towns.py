"""A small data set of questions about towns, with its card, and a policy that answers them."""

from __future__ import annotations

import json
from pathlib import Path

from raggym_env.core import Answer, Search
from raggym_env.protocols import BasePolicy, Proposal

CARD = """
title = "Towns"

[dataset]
format = "jsonl"

[[dataset.splits.test]]
questions = "questions.jsonl"
corpus = "corpus.jsonl"

[[dataset.splits.train]]
questions = "questions.jsonl"
corpus = "corpus.jsonl"
"""


def write_towns(folder: Path, questions: int = 12) -> Path:
    """Write questions on the rivers of towns, with one passage each, and return the path of their card."""
    folder.mkdir(parents=True, exist_ok=True)
    towns = [(f"Town{i}", f"River{i % 7}") for i in range(questions)]
    passages = [
        {"id": str(i), "title": town, "text": f"{town} is a town. It lies on the {river}."}
        for i, (town, river) in enumerate(towns)
    ]
    rows = [
        {
            "id": f"q{i}",
            "question": f"On which river does {town} lie?",
            "golden_answers": [river],
            "supporting_facts": [[town, 1]],
        }
        for i, (town, river) in enumerate(towns)
    ]
    write_jsonl(folder / "corpus.jsonl", passages)
    write_jsonl(folder / "questions.jsonl", rows)
    card = folder / "Towns-v0.toml"
    card.write_text(CARD, encoding="utf-8")
    return card


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class Reader(BasePolicy):
    """Searches for the town and answers with the river of the first passage. Fails on the questions in `fails`."""

    name = fingerprint = "reader"

    def __init__(self, fails=()):
        self.fails = fails

    def propose(self, states, n=1):
        return [[self._proposal(state)] for state in states]

    def _proposal(self, state):
        if state.question.id in self.fails:
            return Proposal(None, failure="the server is down", outage=True)
        if not state.history:
            return Proposal(Search(state.question.text))
        return Proposal(Answer(state.passages[0].text.split(" the ")[1].rstrip(".")))
