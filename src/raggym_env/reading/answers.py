"""The answers that a state's passages suggest, whatever the kind of question."""

from __future__ import annotations

from raggym_env.core import State
from raggym_env.policies.lexical.compare import choose, judge
from raggym_env.policies.lexical.options import rank
from raggym_env.policies.lexical.question import analyse
from raggym_env.policies.lexical.reader import Candidate, Reading

__all__ = ["answers", "answers_from", "reading_of"]


def reading_of(state: State) -> Reading:
    """The state's passages, read for its question."""
    return Reading(analyse(state.question.text), state.passages)


def answers(state: State) -> list[Candidate]:
    """Possible answers, best first; at least one, however little was found."""
    if state.question.options:
        return rank(state.question, state.passages)
    return answers_from(reading_of(state))


def answers_from(reading: Reading) -> list[Candidate]:
    """Possible answers to a question without options, best first; at least one."""
    if reading.asked.kind == "verdict":
        return judge(reading)
    if reading.asked.kind == "choice":
        return choose(reading)
    return reading.answers() or [Candidate(_fallback(reading), 0.0)]


def _fallback(reading: Reading) -> str:
    if reading.passages:
        first = reading.passages[0]
        return first.title.strip() or first.text[:40].strip() or "unknown"
    return reading.asked.names[-1] if reading.asked.names else "unknown"
