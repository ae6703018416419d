"""Best mention of a string in the retrieved passages."""

from __future__ import annotations

from typing import NamedTuple

from raggym_env.reading.pages import Page, Sentence
from raggym_env.reading.reader import Reading

__all__ = ["Mention", "mention_of"]


class Mention(NamedTuple):
    """The best occurrence of a string in the retrieved passages, and the number of pages that have one."""

    key: str = ""
    """The string's key between spaces."""
    pages: int = 0
    """Number of pages that mention the string."""
    first: int = 0
    """Index of the first page that mentions it."""
    page: Page | None = None
    """The page of the best sentence."""
    sentence: Sentence | None = None
    """The best sentence; None if no page that mentions the string is evidence."""
    start: int = -1
    """Character offset of the string in the sentence, -1 if it is spelled differently there."""
    best: float = 0.0
    """Support times `0.6 + 0.4 * near`, in [0, 1]: what the occurrences are ranked by."""
    support: float = 0.0
    """Strength of the sentence as evidence, in [0, 1]."""
    near: float = 0.0
    """Nearness of the string to the terms of the question's relation, in [0, 1]."""
    second: float = 0.0
    """The best value of another page."""


_NO_MENTION = Mention()


class _Best(NamedTuple):
    """The best occurrence in one page, with fields as in `Mention`."""

    joint: float = 0.0
    support: float = 0.0
    near: float = 0.0
    start: int = -1
    sentence: Sentence | None = None


_NONE = _Best()


def mention_of(reading: Reading, text: str, name: str) -> Mention:
    """Return the best mention of a string, whose key between spaces is `name`; `Mention()` if there is none."""
    # A string without a word would be in every page.
    numbers = reading.pages_with(name) if name.strip() else []
    best, page, second = _NONE, None, 0.0
    for number in numbers:
        candidate = _best_in(reading, number, text, name)
        second = max(second, min(candidate.joint, best.joint))
        if page is None or candidate.joint > best.joint:
            best, page = candidate, reading.pages[number]
    if page is None:
        return _NO_MENTION
    joint, support, near, start, sentence = best
    return Mention(name, len(numbers), numbers[0], page, sentence, start, joint, support, near, second)


def _best_in(reading: Reading, number: int, text: str, name: str) -> _Best:
    best, match, strengths = _NONE, reading.matches[number], reading.strengths[number]
    for part in match.parts:
        sentence = part.sentence
        # The first sentence of a page is about its title, whether it repeats it or not.
        if name in sentence.key or (sentence.number == 0 and name == match.page.name):
            support = min(strengths[part.group], 1.0)
            if support > best.joint:  # otherwise no nearness would make it the best
                start = sentence.text.find(text)
                near = reading.nearness(sentence, start, len(text)) if start >= 0 else 0.0
                joint = support * (0.6 + 0.4 * near)
                if joint > best.joint:
                    best = _Best(joint, support, near, start, sentence)
    return best
