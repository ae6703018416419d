"""Retrieved passages read for one question, by rules: evidence, possible answers, and names worth a search."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence, Set
from functools import cached_property
from typing import NamedTuple

from raggym_env.core import Passage
from raggym_env.reading.pages import Page, Sentence, page_of, sentences_of
from raggym_env.reading.question import ParsedQuestion
from raggym_env.reading.spans import Span, role_of, word_before
from raggym_env.reading.text import composed, key, longest_term, whole_words

__all__ = ["FITS", "ORGANIZATION", "Candidate", "Reading"]

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
_PLACE_WORDS = frozenset(("in", "at", "near", "from", "to", "into", "around", "of"))

# Weights, tuned on training questions of HotpotQA, 2WikiMultihopQA and Synth. A span scores the strength of its
# sentence times (_BASE + fit to the answer type + _NEARNESS * nearness), times the factors that apply.
_BASE = 0.9
_NEARNESS = 0.6
_HALF_DISTANCE = 70.0  # characters at which nearness falls to a half
_ROLE, _NO_ROLE = 1.5, 0.55  # the question is about a birth or death, and the span is (not) its date or place
_UNLINKED = 0.5  # no chain of mentions joins the page to a name in the question, but some page is joined
_LINKED = 0.36  # least score, as a query, of a name on a page that is joined to the question
_BRIDGED = 2.0  # the span is on the page that the question reaches through another
_NO_PLACE = 0.5  # the question wants a place, and no "in", "at" or "near" precedes the span
_HEADED = 1.5  # the span contains the noun after "which"
_OWN_TITLE = 0.9  # the span is the title of its own page
_NOT_HUMAN = 0.8  # the question wants a person, and the name looks like none
_REPEAT = 0.12  # share of its score that each further occurrence of a span adds
_TITLE, _TITLE_HEAD, _TITLE_LATER = (
    1.1,
    0.3,
    0.4,
)  # a page's title as answer; bonus if headed; penalty for later sentences

_ORGANIZATIONS = """
University College School Orchestra Band Company Records Department Center Centre Club League Award Awards Series Museum
County River City Theatre Theater Church Festival Association Party Army Press Prize Studios Entertainment Pictures
Television Network Cup Championship War Street Park Island Islands Act Group Inc
"""
ORGANIZATION = re.compile(whole_words(_ORGANIZATIONS.split()))
"""Matches words in names of organizations, places and events, which are no persons."""


class Candidate(NamedTuple):
    """A possible answer or query. A higher score is better; 0 is worthless."""

    text: str
    score: float


class Reading:
    """The retrieved passages, read for one question. Everything that takes time is computed once, when first used."""

    def __init__(self, question: ParsedQuestion, passages: Sequence[Passage]) -> None:
        self.question = question
        self.passages = passages = [*map(_composed, passages)]
        self.pages = [page_of(passage) for passage in passages]
        self.sentences = [sentence for page in self.pages for sentence in page.sentences]
        # Reversed, so that of several pages with one title the first is kept.
        self.titles = {
            page.name: passage for page, passage in zip(reversed(self.pages), reversed(passages), strict=True)
        }
        """Key of the title, between spaces -> passage."""
        self.cached_answers: list[Candidate] | None = None
        """The result of `answers_from`, once it was called."""
        self._matched, self._rarity = _match(question.terms, self.pages)
        self._total = math.fsum(self._rarity.values()) or 1.0
        self._strengths: dict[Sentence, float] = {}
        self._numbers: dict[str, list[int]] = {}
        self._relations: dict[Sentence, list[tuple[int, float]]] = {}

    def _weight(self, terms: Iterable[str]) -> float:
        # fsum, here and below: a set's order differs between processes, and a plain sum's last bits depend on it.
        rarity = self._rarity
        return math.fsum([rarity[term] for term in terms])

    @cached_property
    def _mentions(self) -> list[tuple[str, Sentence]]:
        """Titles of retrieved pages, each with the sentences of other pages that mention it."""
        return [
            (title, sentence)
            # A title of one or two letters would be mentioned everywhere.
            for name, title in [(name, passage.title) for name, passage in self.titles.items() if len(name) > 4]
            for number in self.pages_with(name)
            if self.pages[number].title != title
            for sentence in self.pages[number].sentences
            if name in sentence.key
        ]

    @cached_property
    def _links(self) -> dict[str, Set[str]]:
        """For each title, the question's terms in the best sentence of another page that mentions it."""
        links: dict[str, Set[str]] = {}
        for title, sentence in self._mentions:
            matched = self._matched[sentence]
            if self._weight(matched) > self._weight(links.get(title, ())):
                links[title] = matched
        return links

    @cached_property
    def chain(self) -> set[str]:
        """Titles in the question, titles that their pages mention, and so on; all titles if the question has none."""
        question = self.question.key
        reached = {passage.title for name, passage in self.titles.items() if name in question and len(name) > 4}
        frontier = reached
        while frontier:
            frontier = {title for title, sentence in self._mentions if sentence.title in frontier} - reached
            reached = reached | frontier
        return reached or {passage.title for passage in self.passages}

    def bridge(self, name: str) -> str | None:
        """Return the name that a name's page gives for what the question asks ("the director of ..."), or None."""
        page = self.passage_of(name)
        if page is None or not self.question.agents:
            return None
        # Below this nearness a name and the agent's noun have nothing to do with each other.
        best, bridge, title = 0.25, None, key(page.title)
        for sentence in sentences_of(page)[:3]:
            agents = self._positions(sentence, self.question.agents)
            for span in sentence.names if agents else ():
                if span.kind == "entity" and span.key not in title and len(span.key) > 3:
                    near = _nearness(agents, span.start, len(span.text))
                    if near > best:
                        best, bridge = near, span.text
        return bridge

    @cached_property
    def bridged(self) -> list[str]:
        """Names that the question reaches through the names in it, nearest first, over at most three pages."""
        reached: list[str] = []
        frontier = list(self.question.choices or self.question.names)
        for _ in range(3):
            frontier = [name for start in frontier if (name := self.bridge(start)) and name not in reached]
            reached += frontier
        return list(dict.fromkeys(reached))

    @cached_property
    def _bridged_titles(self) -> set[str]:
        return {page.title for name in self.bridged if (page := self.passage_of(name))}

    def evidence(self, sentence: Sentence) -> float:
        """Return the share in [0, 1] of the question's weight that a sentence and the one that links to it cover."""
        matched, linked = self._matched[sentence], self._links.get(sentence.title)
        return self._weight(matched | linked if linked else matched) / self._total

    def strength(self, sentence: Sentence) -> float:
        """Return a sentence's evidence, halved if no chain of mentions leads from the question to its page."""
        strength = self._strengths.get(sentence)
        if strength is None:
            strength = self.evidence(sentence) * (1.0 if sentence.title in self.chain else _UNLINKED)
            self._strengths[sentence] = strength
        return strength

    def covered(self, terms: frozenset[str]) -> float:
        """Return the share in [0, 1] of the question's weight that is in some terms."""
        return math.fsum([rarity for term, rarity in self._rarity.items() if term in terms]) / self._total

    def nearness(self, sentence: Sentence, start: int, length: int) -> float:
        """Return how near in [0, 1] a part of a sentence is to what the question asks about its names; 0 without it."""
        return _nearness(self._relation_positions(sentence), start, length)

    def _relation_positions(self, sentence: Sentence) -> list[tuple[int, float]]:
        positions = self._relations.get(sentence)
        if positions is None:
            positions = self._relations[sentence] = self._positions(sentence, self.question.relation)
        return positions

    def _positions(self, sentence: Sentence, terms: Iterable[str]) -> list[tuple[int, float]]:
        """Return the offset and the rarity of each of the terms that a sentence has."""
        offsets, rarity = sentence.terms, self._rarity
        return [(offsets[term], rarity.get(term, 1.0)) for term in terms if term in offsets]

    def answers(self) -> list[Candidate]:
        """Return possible answers, best first, each once."""
        scores: dict[str, tuple[float, str]] = {}
        for page in self.pages:
            for name, text, score in self._candidates(page):
                best, best_text = scores.get(name, (0.0, text))
                # A span that occurs again is a little likelier, spelled as in its best occurrence.
                if score > best:
                    best, score, best_text = score, best, text
                scores[name] = best + _REPEAT * score, best_text
        ranked = sorted((-score, text) for score, text in scores.values() if score > 0)
        return [Candidate(text, -score) for score, text in ranked]

    def _candidates(self, page: Page) -> list[tuple[str, str, float]]:
        """Return keys, texts and scores of the answers that each sentence suggests: its spans, and the page's title."""
        question, title = self.question, key(page.title)
        kind, fits, bridged = question.kind, FITS[question.kind], page.title in self._bridged_titles
        has_factors = bool(question.role or question.head) or kind in ("place", "person")
        is_answer = kind in ("person", "entity", "place") and not self._in_question(title)
        human = self._humanness(page.title, title) if is_answer and kind == "person" else 1
        text = page.title.split(" (")[0].strip() or page.title
        candidates = []
        for sentence in page.sentences:
            strength = self.strength(sentence)
            if not strength:
                continue
            spans = sentence.dates if kind in _DATED else sentence.names if kind in _NAMED else sentence.spans
            positions = self._relation_positions(sentence) if spans else ()
            for span in spans:
                if span.kind in fits and not self._in_question(span.key):
                    near = _nearness(positions, span.start, len(span.text)) if positions else 0.0
                    score = strength * (_BASE + fits[span.kind] + _NEARNESS * near)
                    if has_factors:
                        score = self._with_factors(score, sentence, span)
                    if bridged:
                        score *= _BRIDGED
                    candidates.append((span.key, span.text, score * _OWN_TITLE if span.key == title else score))
            if is_answer:
                # The first sentence of a page says what its title is: "Jaws is a film ..." for "which film".
                headed = _TITLE_HEAD * (
                    bool(question.head) and sentence.number == 0 and question.head in sentence.terms
                )
                score = strength * (_TITLE * human + headed - _TITLE_LATER * bool(sentence.number))
                candidates.append((key(text), text, score))
        return candidates

    def _with_factors(self, score: float, sentence: Sentence, span: Span) -> float:
        """Return a score times the factors for and against a span that depend on the question."""
        question = self.question
        if question.role:
            score *= _ROLE if role_of(sentence.text, span) == question.role else _NO_ROLE
        if question.kind == "place":
            score *= 1.0 if word_before(sentence.text, span.start) in _PLACE_WORDS else _NO_PLACE
        if question.kind == "person":
            score *= self._humanness(span.text, span.key)
        return score * _HEADED if question.head and question.head in span.key else score

    def _humanness(self, name: str, name_key: str) -> float:
        """Return 1.0 if a name looks like a person's, by its words and by its page if that was retrieved, else 0.8."""
        if ORGANIZATION.search(name):
            return _NOT_HUMAN
        page = self.titles.get(f" {name_key} ")
        if page is None:
            return 1.0 if 2 <= len(name.split()) <= 4 else _NOT_HUMAN
        # A biography starts with the date or place of birth.
        first_sentences = sentences_of(page)[:2]
        born = any(role_of(s.text, span) == "birth" for s in first_sentences for span in s.dates + s.names)
        return 1.0 if born else _NOT_HUMAN

    def _in_question(self, name: str) -> bool:
        return f" {name} " in self.question.key or not name

    def leads(self, queries: Sequence[str]) -> list[Candidate]:
        """Return names worth a search, best first: those in good sentences that `is_new`, given the past queries."""
        scores: dict[str, tuple[float, str]] = {}
        for sentence in self.sentences:
            strength = self.strength(sentence)
            for span in sentence.names:
                if span.kind == "entity" and self.is_new(span.key, queries):
                    score = strength * (0.4 + 0.6 * self.nearness(sentence, span.start, len(span.text)))
                    if sentence.title in self.chain:
                        score = max(score, _LINKED)
                    scores[span.key] = max(scores.get(span.key, (0.0, "")), (score, span.text))
        ranked = sorted(scores.values(), key=lambda pair: (-pair[0], pair[1]))
        return [Candidate(name, score) for score, name in ranked]

    def is_new(self, name: str, queries: Iterable[str]) -> bool:
        """True if a name, given by its key, is neither in the question nor a retrieved title nor in a past query."""
        padded = f" {name} "
        if self._in_question(name) or padded in self.titles:
            return False
        return not any(padded in f" {key(query)} " for query in queries)

    def pages_with(self, name: str) -> list[int]:
        """Return the numbers of the pages whose title or text has a name, given by its key between spaces."""
        numbers = self._numbers.get(name)
        if numbers is None:
            # A lookup of the longest word rules out most pages faster than a search in their text.
            term = longest_term(name)
            pages = [(n, page) for n, page in enumerate(self.pages) if not term or term in page.terms]
            numbers = self._numbers[name] = [n for n, page in pages if name in page.key or name == page.name]
        return numbers

    def knows(self, name: str) -> bool:
        """True if a retrieved page is about a name, or about a longer name in the question that contains it."""
        padded = f" {key(name)} "
        longer = (title for title in self.titles if padded in title and title in self.question.key)
        return self.passage_of(name) is not None or any(longer)

    def passage_of(self, name: str) -> Passage | None:
        """Return the retrieved passage about a name, or None."""
        padded = f" {key(name)} "
        if padded in self.titles:
            return self.titles[padded]
        # Otherwise the longest title of those that the name starts with or that start with the name.
        near = [title for title in self.titles if title.startswith(padded) or padded.startswith(title)]
        return self.titles[max(near, key=lambda title: (len(title), title))] if near else None


def _composed(passage: Passage) -> Passage:
    title, text = composed(passage.title), composed(passage.text)
    # Most are composed already, and stay the same object.
    return passage if title is passage.title and text is passage.text else Passage(passage.id, title, text)


def _match(terms: frozenset[str], pages: Sequence[Page]) -> tuple[dict[Sentence, Set[str]], dict[str, float]]:
    """Return the terms that each sentence or its page's title has, and the rarity of each term that occurs."""
    # Rarity is an inverse document frequency over sentences: the fewer have a term, the more it weighs.
    matched: dict[Sentence, Set[str]] = {}
    counts: dict[str, int] = dict.fromkeys(terms, 0)
    for page in pages:
        in_title = terms & page.title_terms
        elsewhere = (terms & page.terms) - in_title
        for term in in_title:
            counts[term] += len(page.sentences)
        for sentence in page.sentences:
            in_text = [term for term in elsewhere if term in sentence.terms]
            for term in in_text:
                counts[term] += 1
            matched[sentence] = in_title.union(in_text) if in_text else in_title
    total = sum(len(page.sentences) for page in pages)
    return matched, {term: math.log(1 + total / count) for term, count in counts.items() if count}


def _nearness(positions: Sequence[tuple[int, float]], start: int, length: int) -> float:
    """Return the mean nearness, weighted by rarity, of the terms outside of a part of a sentence to that part."""
    # Nearness to one term is 1 / (1 + distance in characters / _HALF_DISTANCE).
    near, weights, end = [], [], start + length
    for at, rarity in positions:
        if not start <= at < end:
            distance = start - at if at < start else at - end
            near.append(rarity / (1 + distance / _HALF_DISTANCE))
            weights.append(rarity)
    return math.fsum(near) / math.fsum(weights) if weights else 0.0
