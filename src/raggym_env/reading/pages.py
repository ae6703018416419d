"""Passages as the classical policies see them: cut into sentences, with what can be found in each."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

from raggym_env.core import Passage
from raggym_env.reading import spans
from raggym_env.reading.spans import Span
from raggym_env.reading.text import Tokens, cut, key, terms

__all__ = ["Page", "Sentence", "page_of", "read"]

_SENTENCE_END = re.compile(r"([.!?])[\"”)]*\s+(?=[A-Z\"“(0-9])")
_UNFINISHED = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|No|Mt|Inc|Ltd|Co|c|ca|b|d))\.$")

# What is read of a passage, and where a text without sentences is cut, in characters: work stays linear in both.
_LONGEST_PASSAGE, _LONGEST_SENTENCE = 20_000, 1_000


class Sentence:
    """One sentence of a passage, with what can be found in it. Spans are found when first asked for, as few are."""

    __slots__ = ("_dates", "_names", "_parts", "_spans", "key", "number", "terms", "text", "title")

    def __init__(self, title: str, text: str, number: int) -> None:
        self.title = title
        self.text = text
        self.number = number
        """Position in the passage: 0 is the first."""
        self._parts: list[str] | None = cut(text)
        tokens = Tokens(self._parts)
        self.terms = tokens.terms()
        """Term -> character offset of its first occurrence in the sentence."""
        self.key = tokens.key()
        """Its words as `key` gives them, between spaces: a title is mentioned if its own key, so padded, is in it."""
        self._dates: list[Span] | None = None
        self._names: list[Span] | None = None
        self._spans: list[Span] | None = None

    @property
    def dates(self) -> list[Span]:
        """Its dates and years."""
        if self._dates is None:
            self._dates = spans.dates(self.text)
        return self._dates

    @property
    def names(self) -> list[Span]:
        """The names in it."""
        if self._names is None:
            self._names = spans.names(self.text, self._parts or cut(self.text), self.key.split(), self.dates)
            self._parts = None
        return self._names

    @property
    def spans(self) -> list[Span]:
        """All its spans. Where two overlap, a date goes before a name and a name before a number."""
        if self._spans is None:
            found = self.dates + self.names
            found += spans.numbers(self.text, self.terms, found)
            self._spans = found + spans.definitions(self.text)
        return self._spans


class Page(NamedTuple):
    """A passage, read."""

    title: str
    """As written."""
    name: str
    """The title's key between spaces."""
    title_terms: frozenset[str]
    sentences: tuple[Sentence, ...]
    key: str
    """The keys of all sentences: what no part of it contains, no sentence contains."""
    terms: frozenset[str]
    """Of the title and all sentences."""


@lru_cache(maxsize=20_000)
def page_of(passage: Passage) -> Page:
    """A passage, read. Cached: a passage is read at every turn of the episode that found it."""
    sentences = tuple([Sentence(passage.title, text, index) for index, text in enumerate(_split(passage.text))])
    title_terms = frozenset(terms(passage.title))
    held = title_terms.union(*[sentence.terms for sentence in sentences])
    whole = "|".join([sentence.key for sentence in sentences])
    return Page(passage.title, f" {key(passage.title)} ", title_terms, sentences, whole, held)


def read(passage: Passage) -> tuple[Sentence, ...]:
    """The sentences of a passage."""
    return page_of(passage).sentences


def _split(text: str) -> list[str]:
    parts: list[str] = []
    cut = _SENTENCE_END.split(text[:_LONGEST_PASSAGE].strip())
    for part in map("".join, zip_longest(cut[::2], cut[1::2], fillvalue="")):
        if parts and len(parts[-1]) < _LONGEST_SENTENCE and _UNFINISHED.search(parts[-1][-8:]):
            parts[-1] = f"{parts[-1]} {part}"
        elif part:
            parts.append(part)
    return [piece for part in parts for piece in _pieces(part)]


def _pieces(text: str) -> list[str]:
    return [text[at : at + _LONGEST_SENTENCE] for at in range(0, len(text), _LONGEST_SENTENCE)]
