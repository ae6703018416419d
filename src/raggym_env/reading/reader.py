"""Reads found passages for a question: how good each sentence is as evidence, which spans may answer it, and which
names are worth a search of their own. Knows the question and the found text, nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

from raggym_env.core import Passage
from raggym_env.reading.pages import Sentence, page_of, read
from raggym_env.reading.question import Asked
from raggym_env.reading.spans import Span, role_of, word_before
from raggym_env.reading.text import key, longest_term, whole_words

__all__ = ["FITS", "ORGANISATION", "Candidate", "Reading"]

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
"""Answer type -> how well each kind of span fits it; what is not listed does not fit."""
# Answer types that only dates, and only names, fit.
_DATED, _NAMED = ("date", "year"), ("person", "place", "nation")
_PLACE_WORDS = frozenset(("in", "at", "near", "from", "to", "into", "around", "of"))

# Weights, set on training rows of HotpotQA, 2WikiMultihopQA and Synth. A span scores the evidence of its sentence
# times (_BASE + fit to the type + _CLOSE * nearness), times what else speaks for or against it.
_BASE = 0.9
_CLOSE = 0.6
_NEAR = 70.0  # characters at which nearness falls to a half
_ROLE, _NO_ROLE = 1.5, 0.55  # a date or place that is, or is not, of the birth or death asked about
_STRAY = 0.5  # evidence on a page that no chain of mentions joins to a name in the question, where some page is so
_ANCHORED = 0.36  # least score, as a query, of a name on a page that is joined to the question
_REACHED = 2.0  # it stands on the page that the question reaches through another
_NO_PLACE = 0.5  # a place without "in", "at", "near" before it
_HEADED = 1.5  # it contains the noun after "which"
_OWN_TITLE = 0.9
_NOT_HUMAN = 0.8
_AGAIN = 0.12  # share of its score that a span found once more adds
_TITLE, _TITLE_HEAD, _TITLE_LATER = 1.1, 0.3, 0.4  # a page's title as answer; headed so; for a later sentence


_ORGANISATIONS = """
University College School Orchestra Band Company Records Department Center Centre Club League Award Awards Series Museum
County River City Theatre Theater Church Festival Association Party Army Press Prize Studios Entertainment Pictures
Television Network Cup Championship War Street Park Island Islands Act Group Inc
"""
ORGANISATION = re.compile(whole_words(_ORGANISATIONS.split()))


class Candidate(NamedTuple):
    """A possible answer or query; a higher score is better, and 0 is worthless."""

    text: str
    score: float


class Reading:
    """The found passages, read for one question."""

    def __init__(self, asked: Asked, passages: Sequence[Passage]) -> None:
        self.asked = asked
        self.passages = passages
        self.answered: list[Candidate] | None = None
        """The possible answers, once somebody has asked for them."""
        self.pages = [page_of(passage) for passage in passages]
        self.titles = {
            page.name: passage for page, passage in zip(reversed(self.pages), reversed(passages), strict=True)
        }
        self.sentences = [sentence for page in self.pages for sentence in page.sentences]
        self._having: dict[str, list[int]] = {}
        self._matched: dict[Sentence, Set[str]] = {}
        self._rarity = self._rarities()
        self.total = math.fsum(self._rarity.values()) or 1.0
        mentions = self._mentions()
        self._links = self._best_links(mentions)
        self.chain = self._reachable(mentions)
        """Titles that the names in the question lead to, by way of who mentions whom."""
        self.bridged = self.bridges()
        self._reached = {page.title for name in self.bridged if (page := self.passage_of(name))}
        self._weighs = bool(asked.role or asked.head) or asked.kind in ("place", "person")
        self._strengths: dict[Sentence, float] = {}
        self._relations: dict[Sentence, list[tuple[int, float]]] = {}

    def _rarities(self) -> dict[str, float]:
        """How much each term of the question weighs; on the way, which of them each sentence or its title has."""
        counts: dict[str, int] = dict.fromkeys(self.asked.terms, 0)
        for page in self.pages:
            shared = self.asked.terms & page.terms
            titled = shared & page.title_terms
            for term in titled:
                counts[term] += len(page.sentences)
            for sentence in page.sentences:
                told = [term for term in shared if term in sentence.terms and term not in titled]
                for term in told:
                    counts[term] += 1
                self._matched[sentence] = titled.union(told) if told else titled
        return {term: math.log(1 + len(self.sentences) / count) for term, count in counts.items() if count}

    def _weight(self, held: Iterable[str]) -> float:
        # fsum, here and below: sets have no order, and a plain sum would depend on it in its last bits.
        return math.fsum([self._rarity[term] for term in held])

    def _mentions(self) -> list[tuple[str, Sentence]]:
        """Found titles with the sentences of other pages that mention them."""
        return [
            (title, sentence)
            for name, title in [(name, passage.title) for name, passage in self.titles.items() if len(name) > 4]
            for number in self.pages_with(name)
            if self.pages[number].title != title
            for sentence in self.pages[number].sentences
            if name in sentence.key
        ]

    def _best_links(self, mentions: Sequence[tuple[str, Sentence]]) -> dict[str, Set[str]]:
        """For each title, the question terms of the best sentence elsewhere that mentions it."""
        links: dict[str, Set[str]] = {}
        for title, sentence in mentions:
            matched = self._matched[sentence]
            if self._weight(matched) > self._weight(links.get(title, ())):
                links[title] = matched
        return links

    def _reachable(self, mentions: Sequence[tuple[str, Sentence]]) -> set[str]:
        """Titles in the question, those mentioned on their pages, and so on; all titles if it has none."""
        reached = {passage.title for name, passage in self.titles.items() if name in self.asked.key and len(name) > 4}
        frontier = reached
        while frontier:
            frontier = {title for title, sentence in mentions if sentence.title in frontier} - reached
            reached = reached | frontier
        return reached or {passage.title for passage in self.passages}

    def bridge(self, name: str) -> str | None:
        """The name that a name's page gives for what the question asks of it ("the director of ..."), or None."""
        page = self.passage_of(name)
        if page is None or not self.asked.agents:
            return None
        best, found, title = 0.25, None, key(page.title)
        for sentence in read(page)[:3]:
            agents = self._placed(sentence, self.asked.agents)
            for span in sentence.names if agents else ():
                if span.kind == "entity" and span.key not in title and len(span.key) > 3:
                    near = _nearness(agents, span.start, len(span.text))
                    if near > best:
                        best, found = near, span.text
        return found

    def bridges(self) -> list[str]:
        """Names that the question reaches through those in it, nearest first, over at most three pages."""
        reached: list[str] = []
        frontier = list(self.asked.choices or self.asked.names)
        for _ in range(3):
            frontier = [name for each in frontier if (name := self.bridge(each)) and name not in reached]
            reached += frontier
        return list(dict.fromkeys(reached))

    def evidence(self, sentence: Sentence) -> float:
        """Share in [0, 1] of the question's weight that a sentence and the one that leads to it cover."""
        matched, linked = self._matched[sentence], self._links.get(sentence.title)
        return self._weight(matched | linked if linked else matched) / self.total

    def strength(self, sentence: Sentence) -> float:
        """A sentence's evidence, less where nothing leads from the question to its page."""
        known = self._strengths.get(sentence)
        if known is None:
            known = self.evidence(sentence) * (1.0 if sentence.title in self.chain else _STRAY)
            self._strengths[sentence] = known
        return known

    def covered(self, held: frozenset[str]) -> float:
        """Share in [0, 1] of the question's weight that some terms make up."""
        return self._weight(term for term in self._rarity if term in held) / self.total

    def nearness(self, sentence: Sentence, start: int, length: int) -> float:
        """How close in [0, 1] a piece of a sentence stands to what the question asks: the mean over matched terms."""
        return _nearness(self._asked_in(sentence), start, length)

    def _asked_in(self, sentence: Sentence) -> list[tuple[int, float]]:
        known = self._relations.get(sentence)
        if known is None:
            known = self._relations[sentence] = self._placed(sentence, self.asked.relation)
        return known

    def _placed(self, sentence: Sentence, wanted: Iterable[str]) -> list[tuple[int, float]]:
        """Where a sentence has some terms, and how rare each is."""
        held = sentence.terms
        return [(held[term], self._rarity.get(term, 1.0)) for term in wanted if term in held]

    def answers(self) -> list[Candidate]:
        """Possible answers, best first, each once."""
        scores: dict[str, tuple[float, str]] = {}
        for sentence in self.sentences:
            if strength := self.strength(sentence):
                for name, text, score in self._candidates(sentence, strength):
                    best, kept = scores.get(name, (0.0, text))
                    # A span found again is a little likelier.
                    high, low, kept = (score, best, text) if score > best else (best, score, kept)
                    scores[name] = high + _AGAIN * low, kept
        ranked = sorted((-score, text) for score, text in scores.values() if score > 0)
        return [Candidate(text, -score) for score, text in ranked]

    def _candidates(self, sentence: Sentence, strength: float) -> list[tuple[str, str, float]]:
        """Keys, texts and scores of what a sentence suggests."""
        kind, fits, title = self.asked.kind, FITS[self.asked.kind], key(sentence.title)
        placed, reached = self._asked_in(sentence), sentence.title in self._reached
        found = []
        for span in sentence.dates if kind in _DATED else sentence.names if kind in _NAMED else sentence.spans:
            if span.kind in fits and not self._in_question(span.key):
                near = _nearness(placed, span.start, len(span.text)) if placed else 0.0
                score = strength * (_BASE + fits[span.kind] + _CLOSE * near)
                if self._weighs:
                    score = self._weighed(sentence, span, score)
                if reached:
                    score *= _REACHED
                found.append((span.key, span.text, score * _OWN_TITLE if span.key == title else score))
        if kind in ("person", "entity", "place") and not self._in_question(title):
            human = self._human(sentence.title, title) if kind == "person" else 1
            headed = _TITLE_HEAD * self._is_headed(sentence)
            text = _bare(sentence.title)
            found.append((key(text), text, strength * (_TITLE * human + headed - _TITLE_LATER * bool(sentence.number))))
        return found

    def _weighed(self, sentence: Sentence, span: Span, score: float) -> float:
        """A score, times what speaks for or against a span by the type of the question."""
        asked = self.asked
        if asked.role:
            score *= _ROLE if role_of(sentence.text, span) == asked.role else _NO_ROLE
        if asked.kind == "place":
            score *= 1.0 if word_before(sentence.text, span.start) in _PLACE_WORDS else _NO_PLACE
        if asked.kind == "person":
            score *= self._human(span.text, span.key)
        return score * _HEADED if asked.head and asked.head in span.key else score

    def _human(self, name: str, name_key: str) -> float:
        """How a name looks as that of a person: by its words, and by its page if that was found."""
        if ORGANISATION.search(name):
            return _NOT_HUMAN
        page = self.titles.get(f" {name_key} ")
        if page is None:
            return 1.0 if 2 <= len(name.split()) <= 4 else 0.8
        return (
            1.0
            if any(role_of(s.text, span) == "birth" for s in read(page)[:2] for span in s.dates + s.names)
            else _NOT_HUMAN
        )

    def _is_headed(self, sentence: Sentence) -> bool:
        """Whether a title's first sentence says that it is what the question asks for ("which film")."""
        return bool(self.asked.head) and sentence.number == 0 and self.asked.head in sentence.terms

    def _in_question(self, name: str) -> bool:
        return f" {name} " in self.asked.key or not name

    def leads(self, searched: Sequence[str]) -> list[Candidate]:
        """Names in good sentences that are not in the question, no found title, not searched for; best first."""
        scores: dict[str, tuple[float, str]] = {}
        for sentence in self.sentences:
            strength = self.strength(sentence)
            for span in sentence.names:
                if span.kind == "entity" and self.is_new(span.key, searched):
                    score = strength * (0.4 + 0.6 * self.nearness(sentence, span.start, len(span.text)))
                    if sentence.title in self.chain:
                        score = max(score, _ANCHORED)
                    scores[span.key] = max(scores.get(span.key, (0.0, "")), (score, span.text))
        ranked = sorted(scores.values(), key=lambda pair: (-pair[0], pair[1]))
        return [Candidate(name, score) for score, name in ranked]

    def is_new(self, name: str, searched: Iterable[str]) -> bool:
        """Whether a name, given by its key, is not in the question, no found title and in no past query."""
        padded = f" {name} "
        known = self._in_question(name) or padded in self.titles
        return not known and not any(padded in f" {key(query)} " for query in searched)

    def pages_with(self, name: str) -> list[int]:
        """Numbers of the pages whose text or title has a name, given by its key between spaces."""
        known = self._having.get(name)
        if known is None:
            # A page without the longest word of a name need not be searched for it.
            term = longest_term(name)
            pages = [(n, page) for n, page in enumerate(self.pages) if not term or term in page.terms]
            known = self._having[name] = [n for n, page in pages if name in page.key or name == page.name]
        return known

    def knows(self, name: str) -> bool:
        """Whether a found page is about a name, or about a longer name in the question that contains it."""
        padded = f" {key(name)} "
        longer = (title for title in self.titles if padded in title and title in self.asked.key)
        return self.passage_of(name) is not None or any(longer)

    def passage_of(self, name: str) -> Passage | None:
        """The found passage about a name: its title is the name, or else begins with it or is in it; or None."""
        wanted = f" {key(name)} "
        if wanted in self.titles:
            return self.titles[wanted]
        near = [title for title in self.titles if title.startswith(wanted) or wanted.startswith(title)]
        return self.titles[max(near, key=lambda title: (len(title), title))] if near else None


def _nearness(placed: Sequence[tuple[int, float]], start: int, length: int) -> float:
    """The weighted mean nearness, to a piece of a sentence, of the terms placed outside of it."""
    near, weight, end = [], [], start + length
    for at, rarity in placed:
        if not start <= at < end:
            distance = start - at if at < start else at - end
            near.append(rarity / (1 + distance / _NEAR))
            weight.append(rarity)
    return math.fsum(near) / math.fsum(weight) if weight else 0.0


def _bare(title: str) -> str:
    head = title.split(" (")[0].strip()
    return head or title
