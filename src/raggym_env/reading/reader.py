"""Retrieved passages read for one question, by rules: evidence, possible answers, and names worth a search."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from raggym_env.core import Passage
from raggym_env.reading.matches import HALF_DISTANCE, NOT_HUMAN, PageMatch, matches_of
from raggym_env.reading.pages import Page, Sentence
from raggym_env.reading.question import ParsedQuestion
from raggym_env.reading.text import key, longest_term

__all__ = ["Candidate", "Reading"]

# Weights, tuned as those in `matches`. A span scores the strength of its sentence times (base + fit to the answer type
# + _NEARNESS * nearness), times the factors that apply.
_NEARNESS = 0.6
_UNLINKED = 0.5  # no chain of mentions joins the page to a name in the question, but some page is joined
_LINKED = 0.36  # least score, as a query, of a name on a page that is joined to the question
_BRIDGED = 2.0  # the span is on the page that the question reaches through another
_REPEAT = 0.12  # share of its score that each further occurrence of a span adds
_TITLE = 1.1  # a page's title as answer

_NEVER = (0.0, "")
_NO_TERMS: frozenset[str] = frozenset()


class Candidate(NamedTuple):
    """A possible answer or query. A higher score is better; 0 is worthless."""

    text: str
    score: float


class Reading:
    """The retrieved passages, read for one question. Everything that takes time is computed once, when first used."""

    def __init__(self, question: ParsedQuestion, passages: Sequence[Passage]) -> None:
        self.question = question
        of_question = matches_of(question)
        self.names, self.choices = of_question.names, of_question.choices
        """Keys of the names in the question, and of the two that it compares, between spaces."""
        self.matches = matches = of_question.of(passages)
        self.pages = [match.page for match in matches]
        # Reversed, so that of several pages with one title the first is kept.
        self.titles = {match.page.name: match for match in reversed(matches)}
        """Key of the title, between spaces -> page."""
        self.cached_answers: list[Candidate] | None = None
        """The result of `answers_from`, once it was called."""
        counts: dict[str, int] = {}
        total = 0
        for match in matches:
            total += len(match.parts)
            for term, count in match.counts:
                counts[term] = counts.get(term, 0) + count
        # Rarity is an inverse document frequency over sentences: the fewer have a term, the more it weighs.
        self._rarity = {term: math.log(1 + total / count) for term, count in counts.items()}
        self._relation = {term: self._rarity.get(term, 1.0) for term in question.relation}
        """Rarity of the terms of the question's relation; 1 for those that are in no page."""
        self._weights: dict[frozenset[str], float] = {}
        self._total = math.fsum(self._rarity.values()) or 1.0
        self._numbers: dict[str, list[int]] = {}

    @property
    def sentences(self) -> list[Sentence]:
        """The sentences of all pages."""
        return [sentence for page in self.pages for sentence in page.sentences]

    @property
    def passages(self) -> list[Passage]:
        """The passages, with composed characters."""
        return [match.passage for match in self.matches]

    def _weight(self, terms: frozenset[str]) -> float:
        weight = self._weights.get(terms)
        if weight is None:
            # fsum, here and below: a set's order differs between processes, and a plain sum's last bits depend on it.
            rarity = self._rarity
            weight = self._weights[terms] = math.fsum([rarity[term] for term in terms if term in rarity])
        return weight

    @cached_property
    def _mentions(self) -> list[tuple[str, str, frozenset[str]]]:
        """Titles of retrieved pages, each with the title and the question's terms of another page's sentence that
        mentions it."""
        titles = self.titles
        return [
            (titles[name].title, match.title, matched)
            for match in self.matches
            for name in match.mentions.keys() & titles.keys()
            if titles[name].title != match.title
            for matched in match.mentions[name]
        ]

    @cached_property
    def _links(self) -> dict[str, frozenset[str]]:
        """For each title, the question's terms in the best sentence of another page that mentions it."""
        links: dict[str, frozenset[str]] = {}
        for title, _, matched in self._mentions:
            if self._weight(matched) > self._weight(links.get(title, _NO_TERMS)):
                links[title] = matched
        return links

    @cached_property
    def chain(self) -> set[str]:
        """Titles in the question, titles that their pages mention, and so on; all titles if the question has none."""
        reached = {match.title for match in self.titles.values() if match.is_in_question}
        frontier = reached
        while frontier:
            frontier = {title for title, mentioning, _ in self._mentions if mentioning in frontier} - reached
            reached = reached | frontier
        return reached or {match.title for match in self.matches}

    def bridge(self, name: str) -> str | None:
        """Return the name that a name's page gives for what the question asks ("the director of ..."), or None."""
        match = self.match_of(name) if self.question.agents else None
        # Below this nearness a name and the agent's noun have nothing to do with each other.
        best, bridge = 0.25, None
        for agents, names in match.agents if match else ():
            positions = self._positions(agents)
            for span in names:
                near = _nearness(positions, span.start, len(span.text))
                if near > best:
                    best, bridge = near, span.text
        return bridge

    @cached_property
    def bridged(self) -> list[str]:
        """Names that the question reaches through the names in it, nearest first, over at most three pages."""
        reached: list[str] = []
        frontier = list(self.question.choices or self.question.names) if self.question.agents else []
        for _ in range(3):
            frontier = [name for start in frontier if (name := self.bridge(start)) and name not in reached]
            reached += frontier
        return list(dict.fromkeys(reached))

    @cached_property
    def _shares(self) -> list[list[float]]:
        """For each page the evidence of the sentences that match `PageMatch.matched`."""
        links, weight, whole = self._links, self._weight, self._total
        return [
            [weight(matched | linked if linked else matched) / whole for matched in match.matched]
            for match in self.matches
            for linked in [links.get(match.title)]
        ]

    @cached_property
    def strengths(self) -> list[list[float]]:
        """For each page the strength of the sentences that match `PageMatch.matched`."""
        chain = self.chain
        return [
            shares if match.title in chain else [share * _UNLINKED for share in shares]
            for match, shares in zip(self.matches, self._shares, strict=True)
        ]

    @cached_property
    def _places(self) -> dict[Sentence, tuple[int, int]]:
        matches = enumerate(self.matches)
        return {part.sentence: (number, part.group) for number, match in matches for part in match.parts}

    def evidence(self, sentence: Sentence) -> float:
        """Return the share in [0, 1] of the question's weight that a sentence and the one that links to it cover."""
        number, group = self._places[sentence]
        return self._shares[number][group]

    def strength(self, sentence: Sentence) -> float:
        """Return a sentence's evidence, halved if no chain of mentions leads from the question to its page."""
        number, group = self._places[sentence]
        return self.strengths[number][group]

    def covered(self, terms: frozenset[str]) -> float:
        """Return the share in [0, 1] of the question's weight that is in some of its terms."""
        return self._weight(terms) / self._total

    def nearness(self, sentence: Sentence, start: int, length: int) -> float:
        """Return how near in [0, 1] a part of a sentence is to what the question asks about its names; 0 without it."""
        offsets = sentence.terms
        relation = [(term, offsets[term]) for term in self.question.relation if term in offsets]
        return _nearness(self._positions(relation), start, length) if relation else 0.0

    def _positions(self, terms: Sequence[tuple[str, int]]) -> list[tuple[int, float]]:
        """Return the offset and the rarity of terms, given with their offsets."""
        rarity = self._rarity
        return [(at, rarity.get(term, 1.0)) for term, at in terms]

    def answers(self) -> list[Candidate]:
        """Return possible answers, best first, each once."""
        return [Candidate(text, -score) for score, text in sorted(self._ranked())]

    def best_answers(self) -> list[Candidate]:
        """Return the first two of `answers`, or as many as there are."""
        return [Candidate(text, -score) for score, text in heapq.nsmallest(2, self._ranked())]

    def _ranked(self) -> list[tuple[float, str]]:
        return [(-score, text) for score, text in self._scores.values() if score > 0]

    @cached_property
    def _scores(self) -> dict[str, tuple[float, str]]:
        """The score of each possible answer, and how it is written, by its key."""
        scores: dict[str, tuple[float, str]] = {}
        bridged = {match.title for name in self.bridged if (match := self.match_of(name))}
        for match, strengths in zip(self.matches, self.strengths, strict=True):
            self._add_scores(scores, match, strengths, _BRIDGED if match.title in bridged else 1.0)
        return scores

    def _add_scores(
        self, scores: dict[str, tuple[float, str]], match: PageMatch, strengths: list[float], bridged: float
    ) -> None:
        """Add the scores of the answers that each sentence of a page suggests: its spans, and the page's title."""
        answer, fsum, rarity = match.answer, math.fsum, self._relation
        human = self._human(match.human) if answer and match.human else 1.0
        for part in match.parts:
            strength = strengths[part.group]
            if not strength:
                continue
            spans = part.spans
            for name, text, base, distances, role, looks, factors in part.find_spans() if spans is None else spans:
                if not distances:
                    score = strength * base * role
                else:
                    # fsum, as a set's order differs between processes and a plain sum's last bits depend on it.
                    near = fsum([rarity[t] / far for t, far in distances]) / fsum([rarity[t] for t, _ in distances])
                    score = strength * (base + _NEARNESS * near) * role
                if looks:
                    score *= self._human(looks)
                for factor in factors:
                    score *= factor
                score *= bridged
                # An answer that occurs again is a little likelier, spelled as in its best occurrence.
                best, best_text = scores.get(name, _NEVER)
                if score > best:
                    scores[name] = score + _REPEAT * best, text
                else:
                    scores[name] = best + _REPEAT * score, best_text
            if answer:
                score = strength * (_TITLE * human + part.headed - part.later)
                best, best_text = scores.get(match.answer_key, _NEVER)
                if score > best:
                    scores[match.answer_key] = score + _REPEAT * best, answer
                else:
                    scores[match.answer_key] = best + _REPEAT * score, best_text

    def _human(self, human: tuple[float, str]) -> float:
        """Return 1.0 if a name looks like a person's, by its words and by its page if that was retrieved, else 0.8."""
        factor, title = human
        match = self.titles.get(title)
        if match is None:
            return factor
        # A biography starts with the date or place of birth.
        return 1.0 if match.is_biography else NOT_HUMAN

    def leads(self, queries: Sequence[str], most: int | None = None) -> list[Candidate]:
        """Return names worth a search, best first: those in good sentences that `is_new`, given the past queries.

        Args:
            queries: The past queries.
            most: Number of names, by default all.
        """
        scores: dict[str, tuple[float, str]] = {}
        # "|" is in no key, so no name matches across two queries.
        past = "|".join([f" {key(query)} " for query in queries])
        fsum, rarity, titles = math.fsum, self._relation, self.titles
        for match, strengths in zip(self.matches, self.strengths, strict=True):
            least = _LINKED if match.title in self.chain else 0.0
            for part in match.parts:
                strength = strengths[part.group]
                for name, text, distances in part.find_leads():
                    padded = f" {name} "
                    if padded in titles or padded in past:
                        continue
                    near = 0.0
                    if distances:
                        near = fsum([rarity[t] / far for t, far in distances]) / fsum([rarity[t] for t, _ in distances])
                    score = max(strength * (0.4 + 0.6 * near), least)
                    scores[name] = max(scores.get(name, _NEVER), (score, text))
        ranked = sorted([(-score, text) for score, text in scores.values()])
        return [Candidate(text, -score) for score, text in ranked[:most]]

    def is_new(self, name: str, queries: Iterable[str]) -> bool:
        """True if a name, given by its key, is neither in the question nor a retrieved title nor in a past query."""
        padded = f" {name} "
        if padded in self.question.key or not name or padded in self.titles:
            return False
        return not any(padded in f" {key(query)} " for query in queries)

    def pages_with(self, name: str) -> list[int]:
        """Return the numbers of the pages whose title or text has a name, given by its key between spaces."""
        numbers = self._numbers.get(name)
        if numbers is None:
            term = longest_term(name)
            numbers = self._numbers[name] = [n for n, page in enumerate(self.pages) if page.has(name, term)]
        return numbers

    def knows(self, name: str) -> bool:
        """True if a retrieved page is about a name, or about a longer name in the question that contains it."""
        padded = f" {key(name)} "
        longer = (title for title in self.titles if padded in title and title in self.question.key)
        return self.match_of(name) is not None or any(longer)

    def match_of(self, name: str) -> PageMatch | None:
        """Return the retrieved page about a name, or None."""
        padded = f" {key(name)} "
        if padded in self.titles:
            return self.titles[padded]
        # Otherwise the longest title of those that the name starts with or that start with the name.
        near = [title for title in self.titles if title.startswith(padded) or padded.startswith(title)]
        return self.titles[max(near, key=lambda title: (len(title), title))] if near else None

    def page_of(self, name: str) -> Page | None:
        """Return the retrieved page about a name, or None."""
        match = self.match_of(name)
        return match.page if match else None


def _nearness(positions: Sequence[tuple[int, float]], start: int, length: int) -> float:
    """Return the mean nearness, weighted by rarity, of the terms outside of a part of a sentence to that part."""
    # Nearness to one term is 1 / (1 + distance in characters / HALF_DISTANCE).
    near, weights, end = [], [], start + length
    for at, rarity in positions:
        if not start <= at < end:
            distance = start - at if at < start else at - end
            near.append(rarity / (1 + distance / HALF_DISTANCE))
            weights.append(rarity)
    return math.fsum(near) / math.fsum(weights) if weights else 0.0
