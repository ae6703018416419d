"""The classical multi-hop baseline: searches name by name and answers by lexical overlap. No language model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raggym_env.core import Answer, Search, State, state_rng
from raggym_env.errors import check_option
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.reading.answers import answers, answers_from, reading_of
from raggym_env.reading.options import option_queries
from raggym_env.reading.reader import Candidate, Reading
from raggym_env.reading.text import COUNTRIES, key, terms, words

__all__ = ["LexicalPolicy"]

_MOST = 12  # most searches, and most answers, that are proposed for a state


class LexicalPolicy(BasePolicy):
    """Plans searches and extracts answers from the question and the passages alone.

    It first searches for the question as it stands, then for the names in it that no retrieved title matches, then
    for names in the sentences that match the question best (the bridge of a two-hop question). It answers with the
    span that fits the type of the question and stands nearest to its words, or by comparing what the passages say
    of two names. Every search carries the best answer so far as its draft.

    The first proposal is the policy's own choice. With `n > 1` the second is the best of the other kind, if there
    is one, so that a critic can choose between searching and answering; the others are sampled without
    replacement. Proposals are distinct. `Proposal.score` is the policy's preference: for a search about 0 to 1,
    for an answer relative to the best one, which has 1.

    Args:
        seed: Seed of the samples, which depend on it and on the state, not on the order of the states.
        searches: Searches after which it answers, however many are left.
        enough: Score in [0, 1] that a search needs to be preferred to answering.
        temperature: Sampling temperature; 0 takes the other proposals in order of their scores.

    Raises:
        OptionError: An option is out of range.
    """

    def __init__(self, *, seed: int = 0, searches: int = 6, enough: float = 0.35, temperature: float = 0.5) -> None:
        check_option("searches", searches, searches >= 0, "0 or more")
        check_option("temperature", temperature, temperature >= 0, "0 or more")
        self.seed = seed
        self.searches = searches
        self.enough = enough
        self.temperature = temperature

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return at most `n` distinct proposals per state."""
        return [self._proposals(state, n) for state in states]

    def _proposals(self, state: State, n: int) -> list[Proposal]:
        spans, queries = _ideas(state)
        draft, top = spans[0].text, spans[0].score or 1.0
        responses = [Proposal(Answer(text), score=score / top) for text, score in spans[:_MOST]]
        searches = [Proposal(Search(text, draft=draft), score=score) for text, score in queries[:_MOST]]
        prefer_search = bool(queries) and len(state.history) < self.searches and queries[0].score >= self.enough
        preferred, others = (searches, responses) if prefer_search else (responses, searches)
        if n == 1:
            return preferred[:1]
        # Gumbel-top-k: scores with Gumbel noise, in order, are a sample without replacement from the softmax of the
        # scores (arXiv:1903.06059).
        rng = state_rng(self.seed, state, "lexical")
        keyed = []
        for proposal in (*preferred[1:], *others[1:]):
            gumbel = -math.log(-math.log(rng.uniform(1e-12, 1 - 1e-12)))
            keyed.append(((proposal.score or 0.0) + self.temperature * gumbel, proposal))
        sampled = [proposal for _, proposal in sorted(keyed, key=lambda pair: -pair[0])]
        return [preferred[0], *others[:1], *sampled][:n]


def _ideas(state: State) -> tuple[list[Candidate], list[Candidate]]:
    """Return possible answers, at least one, and possible queries, none if no search is left; each best first."""
    if state.question.options:
        spans, queries = answers(state), option_queries(state.question)
    else:
        reading = reading_of(state)
        spans, queries = answers_from(reading), _queries(reading, state)
    if state.searches_left < 1:
        return spans, []
    # A past query would retrieve the same passages again. Of equal queries the best counts; the text breaks ties, so
    # that the order does not depend on how the queries were made.
    searched = {key(turn.query) for turn in state.history}
    unsearched: dict[str, Candidate] = {}
    for query in sorted(queries, key=lambda query: (-query.score, query.text)):
        if query.text.strip() and key(query.text) not in searched:
            unsearched.setdefault(key(query.text), query)
    return spans, list(unsearched.values())


def _queries(reading: Reading, state: State) -> list[Candidate]:
    question = reading.question
    if not state.history:
        return [Candidate(question.text, 1.0), *(Candidate(name, 0.8) for name in question.names)]
    # Names in the question that no retrieved page is about. Demonyms ("Norwegian") look like names but are not.
    names = question.choices or question.names
    leads = [Candidate(name, 0.9) for name in names if name not in COUNTRIES and not reading.knows(name)]
    # Names in the pages: first those through which the question asks ("the director of Dawn"), then the others.
    searched = [turn.query for turn in state.history]
    leads += [Candidate(name, 0.8) for name in reading.bridged if reading.is_new(key(name), searched)]
    leads += reading.leads(searched, _MOST)
    # Each name also together with the relation that the question asks for ("Ada Berg born").
    relation = " ".join(word for word in words(question.text) if question.relation & terms(word).keys())
    return leads + [Candidate(f"{name} {relation}".strip(), 0.9 * score) for name, score in leads]
