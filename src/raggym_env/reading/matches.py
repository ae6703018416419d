"""Passages matched with one question: all that a reading needs of a passage and that no other passage changes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache

from raggym_env.core import Passage
from raggym_env.reading.pages import Sentence, page_of
from raggym_env.reading.question import ParsedQuestion
from raggym_env.reading.spans import Span, role_of, word_before
from raggym_env.reading.text import composed, key, longest_term, whole_words

__all__ = ["FITS", "HALF_DISTANCE", "NOT_HUMAN", "ORGANIZATION", "Matches", "PageMatch", "matches_of"]

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


Distances = tuple[tuple[str, float], ...]
"""The terms of the question's relation in a sentence outside of a span, each with what divides its rarity in the
nearness."""
SpanMatch = tuple[str, str, float, Distances, float, tuple[float, str] | None, tuple[float, ...]]
"""A span that may be the answer: key, text, and what its score is made of. That is

- what its fit to the type of answer counts, to which nearness adds;
- the distances;
- a factor for the span's role and place;
- as `human_of`, or None if the question does not want a person;
- the last factors.

A plain tuple: unlike any object with names it costs the garbage collector nothing, and there are very many.
"""


class SentenceMatch:
    """A sentence matched with a question."""

    __slots__ = ("_leads", "_page", "group", "headed", "later", "sentence", "spans")

    def __init__(self, page: PageMatch, sentence: Sentence, group: int) -> None:
        question = page.question
        self._page = page
        self.group = group
        """Index in the page's `matched` of the terms of the question that the sentence or the title has."""
        self.spans: tuple[SpanMatch, ...] | None = None
        """What `find_spans` returned, once it was called."""
        self._leads: tuple[tuple[str, str, Distances], ...] | None = None
        self.sentence = sentence
        terms = sentence.terms
        # The first sentence of a page says what its title is: "Jaws is a film ..." for "which film".
        first = sentence.number == 0
        self.headed = _TITLE_HEAD * (bool(question.head) and first and question.head in terms)
        """Bonus of the page's title as the answer."""
        self.later = _TITLE_LATER * (not first)
        """Penalty of the page's title as the answer."""

    def find_spans(self) -> tuple[SpanMatch, ...]:
        """Return the spans that fit the type of the answer and are not in the question."""
        question, sentence = self._page.question, self.sentence
        kind = question.kind
        spans = sentence.dates if kind in _DATED else sentence.names if kind in _NAMED else sentence.spans
        fits, in_question = FITS[kind], self._page.matches.in_question
        spans = [span for span in spans if span.kind in fits and not in_question(span.key)]
        relation = self._relation() if spans else []
        self.spans = tuple([self._match(span, fits[span.kind], relation) for span in spans])
        return self.spans

    def _match(self, span: Span, fit: float, relation: list[tuple[str, int]]) -> SpanMatch:
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
        return span.key, span.text, _BASE + fit, _distances(span, relation), role, human, tuple(factors)

    def find_leads(self) -> tuple[tuple[str, str, Distances], ...]:
        """Return key, text and distances of each name in the sentence that is not in the question."""
        if self._leads is None:
            in_question, names = self._page.matches.in_question, self.sentence.names
            names = [span for span in names if span.kind == "entity" and not in_question(span.key)]
            relation = self._relation() if names else []
            self._leads = tuple([(span.key, span.text, _distances(span, relation)) for span in names])
        return self._leads

    def _relation(self) -> list[tuple[str, int]]:
        """Return the terms of the question's relation that the sentence has, with their offsets."""
        terms = self.sentence.terms
        return [(term, terms[term]) for term in self._page.question.relation if term in terms]


def _distances(span: Span, relation: list[tuple[str, int]]) -> Distances:
    start, end = span.start, span.start + len(span.text)
    return tuple(
        [
            (term, 1 + (start - at if at < start else at - end) / HALF_DISTANCE)
            for term, at in relation
            if not start <= at < end
        ]
    )


class PageMatch:
    """A page matched with a question."""

    def __init__(self, matches: Matches, passage: Passage) -> None:
        self.matches, self.question = matches, matches.question
        self.passage = passage
        self.page = page = page_of(passage)
        self.title, self.title_key = page.title, page.name[1:-1]
        # A title of one or two letters would be mentioned everywhere.
        self.is_long = len(page.name) > 4
        self.is_in_question = self.is_long and page.name in self.question.key
        self.longest_term = longest_term(page.name)
        self._match_terms()
        self.names = frozenset([name for name, term in matches.longest_terms if page.has(name, term)])
        """Names in the question that the page mentions."""
        self.mentions: dict[str, tuple[frozenset[str], ...]] = {}
        """Name of another page that was matched -> the question's terms in the sentences that mention it."""
        wanted = self.question.kind in _TITLED and not matches.in_question(self.title_key)
        self.answer = (page.title.split(" (")[0].strip() or page.title) if wanted else ""
        """The page's title as an answer; "" if the question does not want a title, or has it."""
        self.answer_key = key(self.answer)
        self.human = human_of(page.title, self.title_key) if self.question.kind == "person" else None
        """Whether the title looks like a person's name; None if the question does not want a person."""

    def _match_terms(self) -> None:
        page, terms, same = self.page, self.question.terms, self.matches.same
        in_title = same(terms & page.title_terms)
        self.covered = same(terms & page.terms)
        """Terms of the question that the page or its title has."""
        elsewhere = self.covered - in_title
        counts = dict.fromkeys(in_title, len(page.sentences)) if page.sentences else {}
        groups: dict[frozenset[str], int] = {}
        self.parts = []
        for sentence in page.sentences:
            in_text = [term for term in elsewhere if term in sentence.terms]
            for term in in_text:
                counts[term] = counts.get(term, 0) + 1
            matched = same(in_title.union(in_text)) if in_text else in_title
            self.parts.append(SentenceMatch(self, sentence, groups.setdefault(matched, len(groups))))
        self.matched = tuple(groups)
        """The terms of the question that a sentence or the title has, each set of terms once."""
        self.counts = tuple(counts.items())
        """Term of the question -> number of sentences that have it, or whose page's title has it."""

    def add_mentions(self, other: PageMatch) -> None:
        """Remember where the page mentions the title of another."""
        name, term = other.page.name, other.longest_term
        if other.is_long and (not term or term in self.page.terms) and name not in self.mentions:
            parts = self.parts if self.page.has(name, term) else ()
            if groups := dict.fromkeys([part.group for part in parts if name in part.sentence.key]):
                self.mentions[name] = tuple([self.matched[group] for group in groups])

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
            (
                positions,
                [s for s in sentence.names if s.kind == "entity" and s.key not in self.title_key and len(s.key) > 3],
            )
            for positions, sentence in agents
            if positions
        ]


@lru_cache(maxsize=16_384)
def human_of(name: str, name_key: str) -> tuple[float, str]:
    """Return how much a name looks like a person's, as a factor, and the name of a page that would say more, or ""."""
    if ORGANIZATION.search(name):
        return NOT_HUMAN, ""
    return 1.0 if 2 <= len(name.split()) <= 4 else NOT_HUMAN, f" {name_key} "


# Matches of a question with more passages than this are forgotten; an episode retrieves some dozens.
_MOST_PASSAGES = 2_000


class Matches:
    """The passages that were matched with a question."""

    def __init__(self, question: ParsedQuestion) -> None:
        self.question = question
        self.names = [f" {key(name)} " for name in dict.fromkeys((*question.choices, *question.names))]
        """Keys of the names in the question, between spaces."""
        self.choices = [f" {key(name)} " for name in question.choices]
        self.longest_terms = [(name, longest_term(name)) for name in self.names]
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
                title, text = composed(passage.title), composed(passage.text)
                # Most are composed already, and stay the same object.
                same = title is passage.title and text is passage.text
                match = PageMatch(self, passage if same else Passage(passage.id, title, text))
                for other in pages.values():
                    match.add_mentions(other)
                    other.add_mentions(match)
                pages[passage] = match
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
