"""Passages matched with one question: all that a reading needs of a passage and that no other passage changes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import NamedTuple

from raggym_env.core import Passage
from raggym_env.reading.pages import Page, Sentence, page_of
from raggym_env.reading.question import ParsedQuestion
from raggym_env.reading.spans import Span, role_of, word_before
from raggym_env.reading.text import composed, key, longest_term, whole_words

__all__ = ["FITS", "HALF_DISTANCE", "NOT_HUMAN", "ORGANIZATION", "Human", "Matches", "PageMatch", "matches_of"]

FITS: dict[str, dict[str, float]] = {
    "date": {"date": 1.0, "year": 0.6},
    "year": {"year": 1.0, "date": 0.5},
    "number": {"number": 1.0, "year": 0.1},
    "nation": {"nation": 1.0},
    "place": {"entity": 0.8, "nation": 0.2},
    "person": {"entity": 0.9},
    "definition": {"definition": 1.0, "entity": 0.2},
    "entity": {"entity": 0.8, "definition": 0.2, "number": 0.1, "nation": 0.1, "year": 0.1},
}
"""Answer type -> how well each kind of span fits it, in [0, 1]; a kind that is not listed does not fit."""
# Answer types that only dates fit, and that only names fit: for these no other spans are computed.
_DATED, _NAMED = ("date", "year"), ("person", "place", "nation")
_TITLED = ("person", "entity", "place")  # answer types that the title of a page fits
_PLACE_WORDS = frozenset(("in", "at", "near", "from", "to", "into", "around", "of"))

# Weights, tuned on training questions of HotpotQA, 2WikiMultihopQA and Synth; `reader` says how they are combined.
_BASE = 0.9
HALF_DISTANCE = 70.0
"""Characters at which nearness falls to a half."""
_ROLE, _NO_ROLE = 1.5, 0.55  # the question is about a birth or death, and the span is (not) its date or place
_NO_PLACE = 0.5  # the question wants a place, and no "in", "at" or "near" precedes the span
_HEADED = 1.5  # the span contains the noun after "which"
_OWN_TITLE = 0.9  # the span is the title of its own page
NOT_HUMAN = 0.8
"""Factor if the question wants a person, and the name looks like none."""
_TITLE_HEAD, _TITLE_LATER = 0.3, 0.4  # bonus of a page's title if headed; penalty for later sentences

_ORGANIZATIONS = """
University College School Orchestra Band Company Records Department Center Centre Club League Award Awards Series Museum
County River City Theatre Theater Church Festival Association Party Army Press Prize Studios Entertainment Pictures
Television Network Cup Championship War Street Park Island Islands Act Group Inc
"""
ORGANIZATION = re.compile(whole_words(_ORGANIZATIONS.split()))
"""Matches words in names of organizations, places and events, which are no persons."""


class Human(NamedTuple):
    """How much a name looks like a person's: a factor, unless a retrieved page of that name says more."""

    factor: float
    title: str
    """The name of such a page; "" if none counts."""


class SpanMatch(NamedTuple):
    """A span that may be the answer. Its score is that of its place times the factors, first to last."""

    key: str
    text: str
    base: float
    """What fitting the type of answer counts, to which nearness adds."""
    distances: tuple[tuple[int, float], ...]
    """Index of each term of the question's relation in the sentence outside of the span, and what divides its rarity
    in the nearness."""
    role: float
    """Factor for the span's role and place."""
    human: Human | None
    """None if the question does not want a person."""
    factors: tuple[float, ...]
    """The last factors, those that are not 1."""


class SentenceMatch:
    """A sentence matched with a question."""

    __slots__ = ("_page", "_spans", "headed", "later", "matched", "relation", "sentence")

    def __init__(self, page: PageMatch, sentence: Sentence, matched: frozenset[str]) -> None:
        question = page.question
        self._page = page
        self._spans: tuple[SpanMatch, ...] | None = None
        self.sentence = sentence
        self.matched = matched
        """Terms of the question that the sentence or its page's title has."""
        terms = sentence.terms
        self.relation = [(term, terms[term]) for term in question.relation if term in terms]
        """Terms of the question's relation with their offsets in the sentence."""
        # The first sentence of a page says what its title is: "Jaws is a film ..." for "which film".
        first = sentence.number == 0
        self.headed = _TITLE_HEAD * (bool(question.head) and first and question.head in terms)
        """Bonus of the page's title as the answer."""
        self.later = _TITLE_LATER * (not first)
        """Penalty of the page's title as the answer."""

    @property
    def spans(self) -> tuple[SpanMatch, ...]:
        """The spans that fit the type of the answer and are not in the question."""
        if self._spans is None:
            kind, sentence = self._page.question.kind, self.sentence
            spans = sentence.dates if kind in _DATED else sentence.names if kind in _NAMED else sentence.spans
            fits, in_question = FITS[kind], self._page.matches.in_question
            self._spans = tuple([self._match(s) for s in spans if s.kind in fits and not in_question(s.key)])
        return self._spans

    def _match(self, span: Span) -> SpanMatch:
        question, text, start = self._page.question, self.sentence.text, span.start
        role, factors = 1.0, []
        if question.role:
            role *= _ROLE if role_of(text, span) == question.role else _NO_ROLE
        if question.kind == "place" and word_before(text, start) not in _PLACE_WORDS:
            role *= _NO_PLACE  # a power of two, so that the order of the factors changes no bit
        if question.head and question.head in span.key:
            factors.append(_HEADED)
        if span.key == self._page.title_key:
            factors.append(_OWN_TITLE)
        human = human_of(span.text, span.key) if question.kind == "person" else None
        base = _BASE + FITS[question.kind][span.kind]
        end = start + len(span.text)
        distances = [
            (index, 1 + (start - at if at < start else at - end) / HALF_DISTANCE)
            for index, (_, at) in enumerate(self.relation)
            if not start <= at < end
        ]
        return SpanMatch(span.key, span.text, base, tuple(distances), role, human, tuple(factors))


class PageMatch:
    """A page matched with a question."""

    def __init__(self, matches: Matches, passage: Passage) -> None:
        self.matches, self.question = matches, matches.question
        self.passage = passage
        self.page = page = page_of(passage)
        terms, same = self.question.terms, matches.same
        in_title = same(terms & page.title_terms)
        self.covered = covered = same(terms & page.terms)
        """Terms of the question that the page or its title has."""
        elsewhere = covered - in_title
        self.counts = dict.fromkeys(in_title, len(page.sentences))
        """Term of the question -> number of sentences that have it, or whose page's title has it."""
        self.parts: list[SentenceMatch] = []
        self.matched: dict[Sentence, frozenset[str]] = {}
        """The terms of the question that each sentence or the title has."""
        for sentence in page.sentences:
            in_text = [term for term in elsewhere if term in sentence.terms]
            for term in in_text:
                self.counts[term] = self.counts.get(term, 0) + 1
            matched = same(in_title.union(in_text)) if in_text else in_title
            self.matched[sentence] = matched
            self.parts.append(SentenceMatch(self, sentence, matched))
        self.title_key = page.name[1:-1]
        # A title of one or two letters would be mentioned everywhere.
        self.is_long = len(page.name) > 4
        self.longest_term = longest_term(page.name)
        self.is_in_question = self.is_long and page.name in self.question.key
        self.names = frozenset([name for name in matches.names if page.has(name)])
        """Names in the question that the page mentions."""
        self._mentions: dict[str, list[Sentence]] = {}

    def mentions(self, name: str) -> list[Sentence]:
        """Return the sentences that mention a name, given by its key between spaces."""
        sentences = self._mentions.get(name)
        if sentences is None:
            page = self.page
            sentences = [sentence for sentence in page.sentences if name in sentence.key] if page.has(name) else []
            self._mentions[name] = sentences
        return sentences

    @cached_property
    def answer(self) -> str:
        """The page's title as an answer; "" if the question does not want a title, or has it."""
        if self.question.kind not in _TITLED or self.matches.in_question(self.title_key):
            return ""
        return self.page.title.split(" (")[0].strip() or self.page.title

    @cached_property
    def answer_key(self) -> str:
        return key(self.answer)

    @cached_property
    def human(self) -> Human | None:
        """Whether the title looks like a person's name; None if the question does not want a person."""
        return human_of(self.page.title, self.title_key) if self.question.kind == "person" else None

    @cached_property
    def is_biography(self) -> bool:
        """True if the page starts with the date or place of a birth."""
        opening = self.page.sentences[:2]
        return any(role_of(s.text, span) == "birth" for s in opening for span in s.dates + s.names)

    @cached_property
    def agents(self) -> list[tuple[list[tuple[str, int]], list[Span]]]:
        """The agents that the question asks for, and the names, in each of the first sentences that have both."""
        agents = [
            ([(term, s.terms[term]) for term in self.question.agents if term in s.terms], s)
            for s in self.page.sentences[:3]
        ]
        return [
            (positions, [s for s in sentence.names if s.kind == "entity" and s.key not in self.title_key and len(s.key) > 3])
            for positions, sentence in agents
            if positions
        ]


@lru_cache(maxsize=16_384)
def human_of(name: str, name_key: str) -> Human:
    """Return whether a name looks like a person's: by its words, if there is no page of that name."""
    if ORGANIZATION.search(name):
        return Human(NOT_HUMAN, "")
    return Human(1.0 if 2 <= len(name.split()) <= 4 else NOT_HUMAN, f" {name_key} ")


# Matches of a question with more passages than this are forgotten; an episode retrieves some dozens.
_MOST_PASSAGES = 2_000


class Matches:
    """The passages that were matched with a question."""

    def __init__(self, question: ParsedQuestion) -> None:
        self.question = question
        self.names = [f" {key(name)} " for name in dict.fromkeys((*question.choices, *question.names))]
        """Keys of the names in the question, between spaces."""
        self._pages: dict[Passage, PageMatch] = {}
        self._sets: dict[frozenset[str], frozenset[str]] = {}

    def of(self, passages: Iterable[Passage]) -> list[PageMatch]:
        """Return the matches of passages, in order."""
        pages = self._pages
        if len(pages) > _MOST_PASSAGES:
            pages = self._pages = {}
        matches = []
        for passage in passages:
            match = pages.get(passage)
            if match is None:
                match = pages[passage] = PageMatch(self, _composed(passage))
            matches.append(match)
        return matches

    def same(self, terms: frozenset[str]) -> frozenset[str]:
        """Return one object for all equal sets: looked up in a dictionary, it is compared with nothing."""
        return self._sets.setdefault(terms, terms)

    def in_question(self, name: str) -> bool:
        """True if the question has a name, given by its key, or if that is empty."""
        return f" {name} " in self.question.key or not name


@lru_cache(maxsize=256)
def matches_of(question: ParsedQuestion) -> Matches:
    """Return the matches of a question; cached, as it is read in many states."""
    return Matches(question)


def _composed(passage: Passage) -> Passage:
    title, text = composed(passage.title), composed(passage.text)
    # Most are composed already, and stay the same object.
    return passage if title is passage.title and text is passage.text else Passage(passage.id, title, text)
