"""The sentences of retrieved passages that matter for a question, within a number of characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raggym_env.core import Passage
from raggym_env.reading.question import parse_question
from raggym_env.reading.reader import Reading
from raggym_env.reading.text import terms

__all__ = ["snippets"]

# Added to the strength of a passage's first sentence, which says what its title is. Measured on training questions of
# HotpotQA, where 0.1 to 0.2 give the same.
_FIRST = 0.1
# A part of a sentence is shown only if it is at least this long: a shorter one says nothing.
_LEAST = 40
_GAP = " … "


def snippets(
    question: str, queries: Sequence[str], passages: Sequence[Passage], *, passage_chars: int, room: int
) -> list[str]:
    """Return for each passage its sentences that matter most, in their order; "" if none of them does.

    All sentences of all passages compete by their strength (see `Reading.strength`): the rare terms of the question
    and of the queries that they or a sentence that links to them have. A gap between two sentences is marked by an
    ellipsis.

    Args:
        question: The question's text.
        queries: The past queries, whose terms count like those of the question.
        passages: All passages, each once.
        passage_chars: Most characters of one passage, at least 1.
        room: Most characters of all passages; 0 or less leaves all empty.
    """
    parsed = parse_question(question)
    parsed = replace(parsed, terms=parsed.terms.union(*map(terms, queries)))
    reading = Reading(parsed, passages)
    # Of equally strong sentences the first of the best passage: Python's sort is stable.
    ranked = sorted(
        ((number, sentence) for number, page in enumerate(reading.pages) for sentence in page.sentences),
        key=lambda pair: -(reading.strength(pair[1]) + _FIRST * (pair[1].number == 0)),
    )
    chosen: list[dict[int, str]] = [{} for _ in passages]
    left = [passage_chars] * len(passages)
    for number, sentence in ranked:
        mark = len(_GAP) if sentence.number else 0
        length = min(left[number], room) - mark
        if len(sentence.text) > length and length < _LEAST:
            continue
        text = sentence.text
        if len(text) > length:
            head, _, _ = text[: length - 1].rpartition(" ")
            text = f"{head or text[: length - 1]}…"
        chosen[number][sentence.number] = text
        left[number] -= mark + len(text)
        room -= mark + len(text)
    return [
        "".join(
            f"{' ' if number == 0 or number - 1 in texts else _GAP}{text}" for number, text in sorted(texts.items())
        ).strip()
        for texts in chosen
    ]
