"""Reads found passages for a question: how good each sentence is as evidence, which spans may answer it, and which
names are worth a search of their own. Knows the question and the found text, nothing else.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from raggym_env.core import Passage
from raggym_env.reading.question import Asked
from raggym_env.reading.text import Sentence, Span, key, page_of, read

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


ORGANISATION = re.compile(
    r"\b(?:University|College|School|Orchestra|Band|Company|Records|Department|Center|Centre|Club|League|Award|Awards|"
    r"Series|Museum|County|River|City|Theatre|Theater|Church|Festival|Association|Party|Army|Press|Prize|Studios|"
    r"Entertainment|Pictures|Television|Network|Cup|Championship|War|Street|Park|Island|Islands|Act|Group|Inc)\b"
)


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
        self._title_terms = {page.title: page.title_terms for page in self.pages}
        self._rarity = self._rarities()
        self.total = math.fsum(self._rarity.values()) or 1.0
        mentions = self._mentions()
        self._links = self._best_links(mentions)
        self.chain = self._reachable(mentions)
        """Titles that the names in the question lead to, by way of who mentions whom."""
        self.bridged = self.bridges()
        self._reached = {page.title for name in self.bridged if (page := self.passage_of(name))}
        self._strengths: dict[Sentence, float] = {}
        self._relations: dict[Sentence, list[tuple[int, float]]] = {}

    def _rarities(self) -> dict[str, float]:
        counts: Counter[str] = Counter()
        for page in self.pages:
            for term in self.asked.terms & page.terms:
                titled = term in page.title_terms
                counts[term] += sum(titled or term in sentence.terms for sentence in page.sentences)
        return {term: math.log(1 + len(self.sentences) / count) for term, count in counts.items() if count}

    def _weight(self, held: Iterable[str]) -> float:
        # fsum, here and below: sets have no order, and a plain sum would depend on it in its last bits.
        return math.fsum(self._rarity.get(term, 0.0) for term in held)

    def _matched(self, sentence: Sentence) -> set[str]:
        return {t for t in self._rarity if t in sentence.terms or t in self._title_terms[sentence.title]}

    def _mentions(self) -> list[tuple[str, Sentence]]:
        """Found titles with the sentences of other pages that mention them."""
        titles = [(name, passage.title) for name, passage in self.titles.items() if len(name) > 4]
        return [
            (title, sentence)
            for name, title in titles
            for page in self.pages
            if title != page.title and name in page.key
            for sentence in page.sentences
            if name in sentence.key
        ]

    def _best_links(self, mentions: Sequence[tuple[str, Sentence]]) -> dict[str, set[str]]:
        """For each title, the question terms of the best sentence elsewhere that mentions it."""
        links: dict[str, set[str]] = {}
        for title, sentence in mentions:
            matched = self._matched(sentence)
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
        best, found = 0.25, None
        for sentence in read(page)[:3]:
            for span in sentence.spans:
                if span.kind == "entity" and span.key not in key(page.title) and len(span.key) > 3:
                    near = self.nearness(sentence, span, self.asked.agents)
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
        return self._weight(self._matched(sentence) | self._links.get(sentence.title, set())) / self.total

    def strength(self, sentence: Sentence) -> float:
        """A sentence's evidence, less where nothing leads from the question to its page."""
        known = self._strengths.get(sentence)
        if known is None:
            known = self.evidence(sentence) * (1.0 if sentence.title in self.chain else _STRAY)
            self._strengths[sentence] = known
        return known

    def covered(self, held: Iterable[str]) -> float:
        """Share in [0, 1] of the question's weight that some terms make up."""
        return self._weight(held) / self.total

    def nearness(self, sentence: Sentence, span: Span, wanted: Iterable[str] | None = None) -> float:
        """How close in [0, 1] a span stands to what the question asks: the weighted mean over matched terms."""
        start, end = span.start, span.start + len(span.text)
        near, weight = [], []
        for at, rarity in self._asked_in(sentence) if wanted is None else self._placed(sentence, wanted):
            if not start <= at < end:
                distance = start - at if at < start else at - end
                near.append(rarity / (1 + abs(distance) / _NEAR))
                weight.append(rarity)
        return math.fsum(near) / math.fsum(weight) if weight else 0.0

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
            for text, score in self._candidates(sentence, self.strength(sentence)):
                name = key(text)
                best, kept = scores.get(name, (0.0, text))
                # A span found again is a little likelier.
                scores[name] = (max(best, score) + _AGAIN * min(best, score), text if score > best else kept)
        ranked = sorted(scores.values(), key=lambda pair: (-pair[0], pair[1]))
        return [Candidate(text, score) for score, text in ranked if score > 0]

    def _candidates(self, sentence: Sentence, strength: float) -> Iterable[tuple[str, float]]:
        fits = FITS[self.asked.kind]
        for span in sentence.spans:
            fit = fits.get(span.kind, 0.0)
            if fit and not self._in_question(span.key):
                yield span.text, self._score(sentence, span, strength, fit)
        title = key(sentence.title)
        if self.asked.kind in ("person", "entity", "place") and not self._in_question(title):
            yield (
                _bare(sentence.title),
                strength
                * (
                    _TITLE * (self._human(sentence.title) if self.asked.kind == "person" else 1)
                    + _TITLE_HEAD * self._is_headed(sentence)
                    - _TITLE_LATER * bool(sentence.number)
                ),
            )

    def _score(self, sentence: Sentence, span: Span, strength: float, fit: float) -> float:
        score = strength * (_BASE + fit + _CLOSE * self.nearness(sentence, span))
        if self.asked.role:
            score *= _ROLE if span.role == self.asked.role else _NO_ROLE
        if sentence.title in self._reached:
            score *= _REACHED
        if self.asked.kind == "place":
            score *= 1.0 if span.before in _PLACE_WORDS else _NO_PLACE
        if self.asked.kind == "person":
            score *= self._human(span.text)
        if self.asked.head and self.asked.head in span.key:
            score *= _HEADED
        if f" {span.key} " == f" {key(sentence.title)} ":
            score *= _OWN_TITLE
        return score

    def _human(self, name: str) -> float:
        """How a name looks as that of a person: by its words, and by its page if that was found."""
        if ORGANISATION.search(name):
            return _NOT_HUMAN
        page = self.titles.get(f" {key(name)} ")
        if page is None:
            return 1.0 if 2 <= len(name.split()) <= 4 else 0.8
        return 1.0 if any(span.role == "birth" for s in read(page)[:2] for span in s.spans) else _NOT_HUMAN

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
            for span in sentence.spans:
                if span.kind == "entity" and self.is_new(span.key, searched):
                    score = strength * (0.4 + 0.6 * self.nearness(sentence, span))
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


def _bare(title: str) -> str:
    head = title.split(" (")[0].strip()
    return head or title
