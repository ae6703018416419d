"""Possible answers to a state's question, whatever its kind, from the passages in its history."""

from __future__ import annotations

from functools import lru_cache

from raggym_env.core import Passage, State
from raggym_env.reading.compare import choose, judge
from raggym_env.reading.options import rank
from raggym_env.reading.question import parse_question
from raggym_env.reading.reader import Candidate, Reading

__all__ = ["answers", "answers_from", "best_answers", "reading_of"]


def reading_of(state: State) -> Reading:
    """Return the reading of a state's passages for its question."""
    return _reading(state.question.text, state.passages)


# Cached, as a policy and its critic read the same states, one after the other.
@lru_cache(maxsize=64)
def _reading(question: str, passages: tuple[Passage, ...]) -> Reading:
    return Reading(parse_question(question), passages)


def answers(state: State, reading: Reading | None = None) -> list[Candidate]:
    """Return possible answers, best first. There is at least one, even if nothing was retrieved.

    Args:
        state: A state.
        reading: Its reading, if it is at hand.
    """
    if state.question.options:
        return rank(state.question, state.passages)
    return answers_from(reading or reading_of(state))


def best_answers(state: State, reading: Reading) -> list[Candidate]:
    """Return at least the first two of `answers`, in less time, or the only one; `reading` is the state's."""
    if state.question.options or reading.cached_answers is not None or reading.question.kind in ("verdict", "choice"):
        return answers(state, reading)
    return reading.best_answers() or answers_from(reading)


def answers_from(reading: Reading) -> list[Candidate]:
    """Return possible answers to a question without options, best first; at least one."""
    if reading.cached_answers is None:
        if reading.question.kind == "verdict":
            reading.cached_answers = judge(reading)
        elif reading.question.kind == "choice":
            reading.cached_answers = choose(reading)
        else:
            reading.cached_answers = reading.answers() or [Candidate(_last_resort(reading), 0.0)]
    return reading.cached_answers


def _last_resort(reading: Reading) -> str:
    """Return a text that is not blank: the first page's title or start, or else the question's last name."""
    if reading.passages:
        first = reading.passages[0]
        text = first.title.strip() or first.text[:40].strip()
    else:
        text = reading.question.names[-1] if reading.question.names else ""
    # A blank answer is no action.
    return text or "unknown"
