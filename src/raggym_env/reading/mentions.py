"""How found passages speak of a text: on how many pages, and in which sentence as the best evidence."""

from __future__ import annotations

from typing import NamedTuple

from raggym_env.reading.pages import Page, Sentence
from raggym_env.reading.reader import Reading

__all__ = ["Mention", "mention_of"]


class Mention(NamedTuple):
    """A text as the found passages speak of it: the best of its occurrences, and how many pages have one."""

    key: str = ""
    """The text's key between spaces."""
    pages: int = 0
    first: int = 0
    """Number of the first page that has it."""
    page: Page | None = None
    """The page of the best sentence."""
    sentence: Sentence | None = None
    """The best sentence; None if no page that has the text has evidence."""
    start: int = -1
    """Where the text begins in it; -1 if it is spelled otherwise there."""
    best: float = 0.0
    """Support and nearness together, in [0, 1]."""
    support: float = 0.0
    """How good evidence the sentence is."""
    near: float = 0.0
    """How near the text stands there to what the question asks about its names."""
    second: float = 0.0
    """The best of another page."""


_NOWHERE = Mention()


class _Best(NamedTuple):
    """The best sentence of one page, as `Mention` has it of all."""

    joint: float = 0.0
    support: float = 0.0
    near: float = 0.0
    start: int = -1
    sentence: Sentence | None = None


_NONE = _Best()


def mention_of(reading: Reading, text: str, name: str) -> Mention:
    """How the found passages speak of a text, given with its key between spaces."""
    numbers = reading.pages_with(name) if name.strip() else []
    best, page, second = _NONE, None, 0.0
    for number in numbers:
        found = _in_page(reading, reading.pages[number], text, name)
        second = max(second, min(found.joint, best.joint))
        if page is None or found.joint > best.joint:
            best, page = found, reading.pages[number]
    if page is None:
        return _NOWHERE
    joint, support, near, start, sentence = best
    return Mention(name, len(numbers), numbers[0], page, sentence, start, joint, support, near, second)


def _in_page(reading: Reading, page: Page, text: str, name: str) -> _Best:
    best = _NONE
    for sentence in page.sentences:
        if name in sentence.key or (sentence.number == 0 and name == page.name):
            support = min(reading.strength(sentence), 1.0)
            if support > best.joint:
                start = sentence.text.find(text)
                near = reading.nearness(sentence, start, len(text)) if start >= 0 else 0.0
                joint = support * (0.6 + 0.4 * near)
                if joint > best.joint:
                    best = _Best(joint, support, near, start, sentence)
    return best
