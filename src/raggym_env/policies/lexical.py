"""The classical multi-hop baseline: searches name by name and answers by lexical overlap. No language model."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from raggym_env.core import Answer, Search, State, state_rng
from raggym_env.errors import OptionError
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.reading.answers import answers, answers_from, reading_of
from raggym_env.reading.options import option_queries
from raggym_env.reading.reader import Candidate, Reading
from raggym_env.reading.text import COUNTRIES, key, terms, words

__all__ = ["LexicalPolicy"]

_MOST = 12
"""Searches, and answers, that are considered at all."""


class LexicalPolicy(BasePolicy):
    """Plans searches and extracts answers from the question and the found text alone.

    It first searches for the question as it stands, then for the names in it that no found title matches, then for
    names in the sentences that match the question best (the bridge of a two-hop question). It answers with the
    span that fits the type of the question and stands nearest to its words, or by comparing what it found of two
    names. Every search carries the best answer so far as its draft.

    The first proposal is the policy's own choice. With `n > 1` the second is the best of the other kind, if there
    is one, so that a critic can choose between searching and answering; the others are sampled without
    replacement. Proposals are distinct. `Proposal.score` is the policy's preference: for a search about 0 to 1,
    for an answer relative to the best one, which has 1.

    Args:
        seed: Seed of the sampling. The same state draws the same, in whatever order states come.
        searches: Searches after which it answers, however many are left.
        enough: Score in [0, 1] below which another search is not worth it.
        temperature: Of the sampling; 0 takes the others in order.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, *, seed: int = 0, searches: int = 6, enough: float = 0.35, temperature: float = 0.5) -> None:
        if searches < 0:
            raise OptionError(f"searches must be 0 or more, got {searches}.")
        if temperature < 0:
            raise OptionError(f"temperature must be 0 or more, got {temperature}.")
        self.seed = seed
        self.searches = searches
        self.enough = enough
        self.temperature = temperature

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        return [self._proposals(state, n) for state in states]

    def _proposals(self, state: State, n: int) -> list[Proposal]:
        found, queries = _ideas(state)
        stops = [Proposal(Answer(text), score=score) for text, score in _relative(found[:_MOST])]
        goes = [Proposal(Search(text, draft=found[0].text), score=score) for text, score in queries[:_MOST]]
        chosen, others = (goes, stops) if self._goes_on(state, queries) else (stops, goes)
        rest = [*others[:1], *self._sampled(state, [*chosen[1:], *others[1:]])] if n > 1 else []
        return [chosen[0], *rest][:n]

    def _goes_on(self, state: State, queries: Sequence[Candidate]) -> bool:
        return bool(queries) and len(state.history) < self.searches and queries[0].score >= self.enough

    def _sampled(self, state: State, proposals: list[Proposal]) -> list[Proposal]:
        """All proposals in an order sampled without replacement, by Gumbel noise on their scores."""
        rng = state_rng(self.seed, state, "lexical")
        keyed = [((proposal.score or 0.0) + self.temperature * _gumbel(rng), proposal) for proposal in proposals]
        return [proposal for _, proposal in sorted(keyed, key=lambda pair: -pair[0])]


def _gumbel(rng: random.Random) -> float:
    return -math.log(-math.log(rng.uniform(1e-12, 1 - 1e-12)))


def _relative(found: Sequence[Candidate]) -> list[Candidate]:
    top = found[0].score or 1.0
    return [Candidate(text, score / top) for text, score in found]


def _ideas(state: State) -> tuple[list[Candidate], list[Candidate]]:
    """Possible answers, at least one, and possible queries, none if no search is left; each best first."""
    if state.question.options:
        found, queries = answers(state), option_queries(state.question)
    else:
        reading = reading_of(state)
        found, queries = answers_from(reading), _queries(reading, state)
    done = {key(turn.query) for turn in state.history}
    return found, _new(queries, done) if state.searches_left > 0 else []


def _new(queries: Iterable[Candidate], done: set[str]) -> list[Candidate]:
    """The queries not made yet, each once, best first."""
    kept: dict[str, Candidate] = {}
    for query in sorted(queries, key=lambda query: (-query.score, query.text)):
        if query.text.strip() and key(query.text) not in done:
            kept.setdefault(key(query.text), query)
    return list(kept.values())


def _queries(reading: Reading, state: State) -> list[Candidate]:
    asked = reading.question
    if not state.history:
        return [Candidate(asked.text, 1.0), *(Candidate(name, 0.8) for name in asked.names)]
    found = [*_named(reading), *_leads(reading, state)]
    rest = " ".join(word for word in words(asked.text) if asked.relation & terms(word).keys())
    return found + [Candidate(f"{name} {rest}".strip(), 0.9 * score) for name, score in found]


def _named(reading: Reading) -> list[Candidate]:
    """Names that the question gives and no found page is about."""
    names = reading.question.choices or reading.question.names
    return [Candidate(name, 0.9) for name in names if name not in COUNTRIES and not reading.knows(name)]


def _leads(reading: Reading, state: State) -> list[Candidate]:
    """Names that the found pages give: those the question asks through first, then the others."""
    searched = [turn.query for turn in state.history]
    through = [Candidate(name, 0.8) for name in reading.bridged if reading.is_new(key(name), searched)]
    return through + reading.leads(searched)[:_MOST]
