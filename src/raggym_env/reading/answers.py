"""The answers that a state's passages suggest, whatever the kind of question."""

from __future__ import annotations

from functools import lru_cache

from raggym_env.core import Passage, State
from raggym_env.reading.compare import choose, judge
from raggym_env.reading.options import rank
from raggym_env.reading.question import analyse
from raggym_env.reading.reader import Candidate, Reading

__all__ = ["answers", "answers_from", "reading_of"]


def reading_of(state: State) -> Reading:
    """The state's passages, read for its question. The last ones are kept: policy and critic read the same state."""
    return _reading(state.question.text, state.passages)


@lru_cache(maxsize=64)
def _reading(question: str, passages: tuple[Passage, ...]) -> Reading:
    return Reading(analyse(question), passages)


def answers(state: State) -> list[Candidate]:
    """Possible answers, best first; at least one, however little was found."""
    if state.question.options:
        return rank(state.question, state.passages)
    return answers_from(reading_of(state))


def answers_from(reading: Reading) -> list[Candidate]:
    """Possible answers to a question without options, best first; at least one."""
    if reading.answered is None:
        if reading.asked.kind == "verdict":
            reading.answered = judge(reading)
        elif reading.asked.kind == "choice":
            reading.answered = choose(reading)
        else:
            reading.answered = reading.answers() or [Candidate(_fallback(reading), 0.0)]
    return reading.answered


def _fallback(reading: Reading) -> str:
    if reading.passages:
        first = reading.passages[0]
        return first.title.strip() or first.text[:40].strip() or "unknown"
    return reading.asked.names[-1] if reading.asked.names else "unknown"
