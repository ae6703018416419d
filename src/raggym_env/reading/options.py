"""Multiple-choice questions: options ranked by the retrieved passages, and queries for them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from raggym_env.core import Passage, Question
from raggym_env.reading.reader import Candidate
from raggym_env.reading.text import composed, terms, words

__all__ = ["option_queries", "rank"]


def rank(question: Question, passages: Sequence[Passage]) -> list[Candidate]:
    """Return the options, best first: those whose words are in a passage that is also about the question."""
    question_terms = terms(composed(question.text)).keys()
    passage_terms = [terms(composed(f"{passage.title} {passage.text}")).keys() for passage in passages]
    counts = Counter(term for in_passage in passage_terms for term in in_passage)
    rarity = {term: math.log(1 + len(passages) / count) for term, count in counts.items()}
    # Divided by the root of the length, as long passages share words with everything.
    relevance = [
        math.fsum(rarity[term] for term in question_terms & in_passage) / math.sqrt(1 + len(in_passage))
        for in_passage in passage_terms
    ]

    def support(option: str) -> float:
        option_terms = terms(composed(option)).keys()
        shares = (len(option_terms & in_passage) / (len(option_terms) or 1) for in_passage in passage_terms)
        return max((share * weight for share, weight in zip(shares, relevance, strict=True)), default=0.0)

    scores = [support(option) for option in question.options]
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return [Candidate(question.options[index], scores[index]) for index in order]


def option_queries(question: Question) -> list[Candidate]:
    """Return queries for each option, then the end of the question, alone and with each option."""
    # A case history ends with the question proper.
    tail = " ".join(words(question.text)[-30:])
    alone = [Candidate(option, 1.0 - 0.01 * index) for index, option in enumerate(question.options)]
    with_tail = [Candidate(f"{option} {tail}", 0.3) for option in question.options]
    return [*alone, Candidate(tail, 0.31), *with_tail]
