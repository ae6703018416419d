"""Passages as pages: cut into sentences, each with its terms and spans."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

from raggym_env.core import Passage
from raggym_env.reading import spans
from raggym_env.reading.spans import Span
from raggym_env.reading.text import Tokens, key, split_words, terms

__all__ = ["Page", "Sentence", "page_of"]

_SENTENCE_END = re.compile(r"([.!?])[\"”)]*\s+(?=[A-Z\"“(0-9])")
# A text that ends so goes on: an initial or an abbreviation, not the end of a sentence.
_UNFINISHED = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|No|Mt|Inc|Ltd|Co|c|ca|b|d))\.$")

# Characters read of a passage, and at most in a sentence: they bound the patterns whose time is more than linear.
_LONGEST_PASSAGE, _LONGEST_SENTENCE = 20_000, 1_000


class Sentence:
    """One sentence of a passage. Its spans are computed when first read, as most sentences never need them."""

    # Slots and not `cached_property`, which needs a `__dict__`: up to 20,000 pages of sentences stay in memory.
    __slots__ = ("_dates", "_names", "_parts", "_spans", "key", "number", "terms", "text", "title")

    def __init__(self, title: str, text: str, number: int) -> None:
        self.title = title
        self.text = text
        self.number = number
        """Position in the passage, from 0."""
        self._parts: list[str] | None = split_words(text)
        tokens = Tokens(self._parts)
        self.terms = tokens.terms()
        """Term -> character offset of its first occurrence in the sentence."""
        self.key = tokens.key()
        """Its words as in `text.key`, between spaces: it contains the key between spaces of each name it mentions."""
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
        """Its names and quotations."""
        if self._names is None:
            # Another thread may have computed the names and dropped the parts in the meantime.
            parts = self._parts or split_words(self.text)
            self._names = spans.names(self.text, parts, self.key.split(), self.dates)
            self._parts = None
        return self._names

    @property
    def spans(self) -> list[Span]:
        """All its spans. Where two overlap, dates take precedence over names, and names over numbers."""
        if self._spans is None:
            disjoint = self.dates + self.names
            disjoint += spans.numbers(self.text, self.terms, disjoint)
            self._spans = disjoint + spans.definitions(self.text)
        return self._spans


class Page(NamedTuple):
    """A passage cut into sentences, with its terms."""

    title: str
    """The title as written."""
    name: str
    """The title's key between spaces."""
    title_terms: frozenset[str]
    sentences: tuple[Sentence, ...]
    key: str
    """The keys of all sentences: a name whose key is not in it is in no sentence."""
    terms: frozenset[str]
    """Terms of the title and all sentences."""

    def has(self, name: str, term: str) -> bool:
        """True if the title or text has a name, given by its key between spaces and the `longest_term` of that."""
        # A lookup of the longest word rules out most pages faster than a search in their text.
        return (not term or term in self.terms) and (name in self.key or name == self.name)


# Cached, as a passage is read again at every later step of the episode that retrieved it.
@lru_cache(maxsize=20_000)
def page_of(passage: Passage) -> Page:
    """Cut a passage into sentences and collect its terms."""
    sentences = tuple([Sentence(passage.title, text, index) for index, text in enumerate(_split(passage.text))])
    title_terms = frozenset(terms(passage.title))
    all_terms = title_terms.union(*[sentence.terms for sentence in sentences])
    # "|" is in no key, so no name matches across two sentences.
    keys = "|".join([sentence.key for sentence in sentences])
    return Page(passage.title, f" {key(passage.title)} ", title_terms, sentences, keys, all_terms)


def _split(text: str) -> list[str]:
    """Split a text at sentence ends, not after initials or abbreviations, into parts of bounded length."""
    sentences: list[str] = []
    pieces = _SENTENCE_END.split(text[:_LONGEST_PASSAGE].strip())
    # The pattern's group keeps the punctuation, which alternates with the text before it.
    for piece in map("".join, zip_longest(pieces[::2], pieces[1::2], fillvalue="")):
        if sentences and len(sentences[-1]) < _LONGEST_SENTENCE and _UNFINISHED.search(sentences[-1][-8:]):
            sentences[-1] = f"{sentences[-1]} {piece}"
        elif piece:
            sentences.append(piece)
    return [
        sentence[at : at + _LONGEST_SENTENCE]
        for sentence in sentences
        for at in range(0, len(sentence), _LONGEST_SENTENCE)
    ]
