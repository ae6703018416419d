"""Questions with options: which option the found passages speak for, and what to search for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from raggym_env.core import Passage, Question
from raggym_env.reading.reader import Candidate
from raggym_env.reading.text import terms, words

__all__ = ["option_queries", "rank"]


def rank(question: Question, passages: Sequence[Passage]) -> list[Candidate]:
    """The options, best first: those found in a passage that also speaks of the question."""
    asked = terms(question.text).keys()
    held = [terms(f"{passage.title} {passage.text}").keys() for passage in passages]
    counts = Counter(term for found in held for term in found)
    rarity = {term: math.log(1 + len(held) / count) for term, count in counts.items()}
    # Long passages share words with everything; the root is the usual compromise.
    about = [math.fsum(rarity[term] for term in asked & found) / math.sqrt(1 + len(found)) for found in held]

    def support(option: str) -> float:
        own = terms(option).keys()
        told = (len(own & found) / (len(own) or 1) * weight for found, weight in zip(held, about, strict=True))
        return max(told, default=0.0)

    scores = [support(option) for option in question.options]
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return [Candidate(question.options[index], scores[index]) for index in order]


def option_queries(question: Question) -> list[Candidate]:
    """Each option, and as further ideas the question's end: a case history ends with what is asked."""
    tail = " ".join(words(question.text)[-30:])
    alone = [Candidate(option, 1.0 - 0.01 * index) for index, option in enumerate(question.options)]
    together = [Candidate(f"{option} {tail}", 0.3) for option in question.options]
    return [*alone, Candidate(tail, 0.31), *together]
