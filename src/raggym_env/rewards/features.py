"""Features of a candidate action in a state: the input of the `mini` reward.

They are computed from the question, the history and the action alone: no gold answer, no supporting fact, no look at
what a search would retrieve. All values are finite and in [-1, 1]. Words are compared by their stems. *Coverage* is a
share of the question's weight, in which a word counts the more the fewer retrieved sentences have it.
"""

from __future__ import annotations

import itertools
import math
import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, Answer, Search, State
from raggym_env.reading.answers import answers, best_answers, reading_of
from raggym_env.reading.matches import FITS, ORGANIZATION
from raggym_env.reading.mentions import Mention, mention_of
from raggym_env.reading.text import COUNTRIES, MONTHS, Tokens, composed, key, names_in, split_words

__all__ = ["FEATURES", "feature_rows", "features"]


# The fields of the following classes are the columns, in this order. Weights files record the names, and
# `load_weights` refuses a file whose names or order differ, so a change here means training the weights again.
# Attributes are set one by one, without a constructor: keyword arguments and dictionaries take five times as long.
@dataclass(slots=True, init=False)
class _EpisodeFeatures:
    """Progress of the episode; 0 for answers."""

    # An answer is worth no more for the searches before it. Otherwise an episode could gain by being drawn out.
    searches_done: float  # share of the episode's searches that is spent
    none_left: float  # 1.0 if no search is left
    last_was_new: float  # share of the last search's passages that no search before it retrieved
    last_was_title: float  # 1.0 if the last query is the title of a retrieved page


@dataclass(slots=True, init=False)
class _StateFeatures:
    """The question and the retrieved passages, the same for all candidates."""

    first: float  # 1.0 before the first search
    covered_by_one: float  # the highest coverage by one retrieved page
    names_known: float  # share of the names in the question that are titles of retrieved pages
    names_seen: float  # share of the names in the question that a retrieved page mentions
    asks_choice: float  # 1.0 if the answer is one of two names in the question
    asks_verdict: float  # 1.0 if the answer is yes or no
    asks_agent: float  # 1.0 if the question reaches one name through another ("the director of ...")
    bridged: float  # 1.0 if a retrieved page gives such a name
    bridge_known: float  # 1.0 if such a name is the title of a retrieved page
    best_answer: float  # score of the reader's best answer, over 4
    answer_margin: float  # lead of that answer over the second, relative to its score


@dataclass(slots=True, init=False)
class _SearchFeatures:
    search: float  # 1.0
    query_words: float  # number of words, over 20
    query_repeats: float  # highest Jaccard similarity to a past query
    query_again: float  # 1.0 if the same query was made before: it cannot retrieve anything new
    query_is_question: float  # share of the question's words that are in the query
    query_in_question: float  # share of the query's words that are in the question
    query_in_found: float  # share of its words that are in retrieved pages
    query_unheard: float  # share of its words that are in neither
    query_asks: float  # share of its words that are the question's relation (what it asks about its names)
    query_is_name: float  # 1.0 if it is a name in the question
    query_has_name: float  # share of the question's names that are in it
    query_new_name: float  # share of those that are no titles of retrieved pages
    query_is_title: float  # 1.0 if it is the title of a retrieved page
    query_title_share: float  # highest Jaccard similarity to the title of a retrieved page
    query_has_bridge: float  # 1.0 if it contains a name that the question reaches through another
    query_capital: float  # share of its words that are capitalized


@dataclass(slots=True, init=False)
class _MentionFeatures:
    """The best mention of the text in the retrieved pages. Columns start with "query_" or "answer_"."""

    mentions: float  # log of 1 + the number of pages that mention it, over 4
    best: float  # support and nearness of the best mention combined
    support: float  # strength of its sentence as evidence
    near: float  # its nearness to the words of the question's relation
    chain: float  # 1.0 if a chain of mentions leads from the question to its page
    early: float  # 1.0 if its sentence is the first of the page
    rank: float  # reciprocal rank, among all retrieved pages, of the first that mentions it


@dataclass(slots=True, init=False)
class _QueryMentionFeatures:
    """More about the query, or the name in it, with the best mention."""

    query_last: float  # 1.0 if the last search retrieved a page that mentions it, and none before did
    query_page: float  # coverage by the page of the best mention
    query_page_named: float  # 1.0 if the question contains the title of that page
    query_page_known: float  # 1.0 if the name is the title of a retrieved page
    query_nation: float  # 1.0 if the query is a country or a nationality
    query_bare: float  # 1.0 if it is a name and nothing else


@dataclass(slots=True, init=False)
class _AnswerFeatures:
    answer: float  # 1.0
    answer_words: float  # number of words, over 10
    answer_read: float  # the reader's score of the answer, relative to its best answer's
    answer_is_read: float  # 1.0 if it is that best answer
    answer_weighed: float  # the reader's score of the answer, over 4
    answer_fits: float  # fit to the type of answer that the question wants
    answer_in_question: float  # 1.0 if the question contains it
    answer_is_choice: float  # 1.0 if it is one of the two names that the question compares
    answer_is_yes: float  # 1.0 if it is "yes"
    answer_is_verdict: float  # 1.0 if it is "yes" or "no"
    answer_is_title: float  # 1.0 if it is the title of a retrieved page
    answer_headed: float  # 1.0 if the noun after "which" is in it or in the first sentence of its page
    answer_capital: float  # share of its words that are capitalized


@dataclass(slots=True, init=False)
class _AnswerMentionFeatures:
    answer_second: float  # support and nearness of the best mention on another page
    answer_place: float  # 1.0 if the mention follows a locative preposition (in, at, near)


_MENTION = _MentionFeatures.__slots__
_GROUPS: tuple[tuple[str, ...], ...] = (
    _EpisodeFeatures.__slots__,
    _StateFeatures.__slots__,
    (*_SearchFeatures.__slots__, *(f"query_{name}" for name in _MENTION), *_QueryMentionFeatures.__slots__),
    (*_AnswerFeatures.__slots__, *(f"answer_{name}" for name in _MENTION), *_AnswerMentionFeatures.__slots__),
)
FEATURES: tuple[str, ...] = tuple(itertools.chain.from_iterable(_GROUPS))
"""Names of the features, in the order of the columns."""
_ENDS = itertools.accumulate(map(len, _GROUPS))
_EPISODE, _STATE, _SEARCH, _ANSWER = (slice(end - len(group), end) for group, end in zip(_GROUPS, _ENDS, strict=True))

_ZEROS = (0.0,) * len(FEATURES)


def _values(group: Any) -> Callable[[Any], tuple[float, ...]]:
    """Return a function from an object of the class to its values, which raises AttributeError if one is not set."""
    return attrgetter(*group.__slots__)


_episode_values, _state_values = _values(_EpisodeFeatures), _values(_StateFeatures)
_search_values, _query_mention_values = _values(_SearchFeatures), _values(_QueryMentionFeatures)
_answer_values, _answer_mention_values = _values(_AnswerFeatures), _values(_AnswerMentionFeatures)
_mention_values = _values(_MentionFeatures)

_NO_NAMES: frozenset[str] = frozenset()
_LONGEST = 2_000  # characters of an action's text that are read
_LOCATIVE = frozenset(("in", "at", "near", "from", "to", "into", "around"))
_NATIONS = frozenset((*map(str.lower, COUNTRIES), *map(str.lower, COUNTRIES.values())))
_YEAR = re.compile(r"(?:1[0-9]|20)\d\d")
_MONTH = re.compile(rf"\b(?:{'|'.join(MONTHS).lower()})\b")


class _Text(NamedTuple):
    """The text of an action, parsed."""

    text: str
    key: str
    """Its words in lower case between single spaces, one at each end."""
    terms: frozenset[str]
    kind: str
    """As `Span.kind`, or "verdict"."""
    capital: float
    """Share of its words that are capitalized."""
    words: int
    """Number of words."""
    names: tuple[tuple[str, str], ...]
    """Text and key of each name that is only part of it."""


def _parse(text: str) -> _Text:
    return _parse_short(composed(text[:_LONGEST].strip()))


# Cached, as the candidates of later states of an episode are mostly the same.
@lru_cache(maxsize=16_384)
def _parse_short(text: str) -> _Text:
    tokens = Tokens(split_words(text))
    capitals = sum([word[0].isupper() for word in tokens.words])
    share = capitals / len(tokens.words) if tokens.words else 0.0
    names = [(tokens.text(*name), tokens.key(*name)) for name in names_in(tokens)]
    # Tokens cannot tell a final parenthesis, which `key` leaves out.
    whole = f" {key(text)} " if text.endswith(")") else tokens.key()
    parts = tuple([name for name in names if name[0] != text])
    return _Text(text, whole, frozenset(filter(None, tokens.stems())), _kind(text), share, len(tokens.words), parts)


def _kind(text: str) -> str:
    lower = text.lower()
    if lower in ("yes", "no"):
        return "verdict"
    if lower in _NATIONS:
        return "nation"
    if len(lower) < 25 and any(map(str.isdigit, lower)):
        return "date" if _MONTH.search(lower) else "year" if _YEAR.fullmatch(lower) else "number"
    return "entity" if text[:1].isupper() else "definition"


class _StateView:
    """A state, read once for all its candidates. Keys are between spaces, as `Page.name` is."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.reading = reading = reading_of(state)
        self.question = reading.question
        self.titles, self.names, self.choices = reading.titles, reading.names, reading.choices
        self.bridges = [f" {key(name)} " for name in reading.bridged]
        queries = [_parse(turn.query) for turn in state.history]
        self.past_keys, self.past_terms = [query.key for query in queries], [query.terms for query in queries]
        self.title_terms = [page.title_terms for page in reading.pages]
        # Passages are listed once, oldest search first: from this index on they are new with the last search.
        self.before_last = len({passage for turn in state.history[:-1] for passage in turn.passages})
        self.ranked = best_answers(state, reading)
        """The reader's two best answers, or the only one."""
        self.best_key = f" {key(self.ranked[0].text)} "
        self._mentions: dict[str, Mention] = {}

    def episode_features(self) -> tuple[float, ...]:
        state, history = self.state, self.state.history
        budget = len(history) + state.searches_left
        retrieved = len(history[-1].passages) if history else 0
        values = _EpisodeFeatures()
        values.searches_done = len(history) / budget if budget else 1.0
        values.none_left = float(state.searches_left == 0)
        values.last_was_new = (len(self.reading.pages) - self.before_last) / retrieved if retrieved else 0.0
        values.last_was_title = float(bool(self.past_keys) and self.past_keys[-1] in self.titles)
        return _episode_values(values)

    def state_features(self) -> tuple[float, ...]:
        reading = self.reading
        best, second = self.ranked[0].score, self.ranked[1].score if len(self.ranked) > 1 else 0.0
        values = _StateFeatures()
        values.first = float(not self.state.history)
        values.covered_by_one = max(self.coverage.values(), default=0.0)
        values.names_known = _share(sum([name in self.titles for name in self.names]), self.names)
        mentioned = _NO_NAMES.union(*[match.names for match in reading.matches])
        values.names_seen = _share(sum([name in mentioned for name in self.names]), self.names)
        values.asks_choice = float(self.question.kind == "choice")
        values.asks_verdict = float(self.question.kind == "verdict")
        values.asks_agent = float(bool(self.question.agents))
        values.bridged = float(bool(self.bridges))
        values.bridge_known = float(any(name in self.titles for name in self.bridges))
        values.best_answer = min(best / 4, 1.0)
        values.answer_margin = (best - second) / best if best else 0.0
        return _state_values(values)

    @cached_property
    def coverage(self) -> dict[frozenset[str], float]:
        """The share of the question's weight that each page covers, by the page's terms."""
        return {match.page.terms: self.reading.covered(match.covered) for match in self.reading.matches}

    def in_pages(self, terms: frozenset[str]) -> frozenset[str]:
        """Return the terms that are in retrieved pages."""
        missing = set(terms)
        for page in self.reading.pages:
            missing -= page.terms
        return terms - missing

    @cached_property
    def scores(self) -> dict[str, float]:
        """The score of each of the reader's answers, by key."""
        return {f" {key(text)} ": score for text, score in reversed(answers(self.state, self.reading))}

    def mention(self, text: str, name: str) -> Mention:
        """Return the best mention of a text with a key; cached, as candidates often have names in common."""
        mention = self._mentions.get(text)
        if mention is None:
            mention = self._mentions[text] = mention_of(self.reading, text, name)
        return mention

    def mention_features(self, mention: Mention) -> tuple[float, ...]:
        sentence = mention.sentence
        values = _MentionFeatures()
        values.mentions = min(math.log1p(mention.pages) / 4, 1.0)
        values.best = mention.best
        values.support = mention.support
        values.near = mention.near
        values.chain = float(sentence is not None and sentence.title in self.reading.chain)
        values.early = float(sentence is not None and sentence.number == 0)
        values.rank = 1 / (1 + mention.first) if mention.page else 0.0
        return _mention_values(values)


def _share(part: float, whole: Sequence[object] | frozenset[str]) -> float:
    return part / len(whole) if whole else 0.0


def _similarity(words: frozenset[str], others: Iterable[frozenset[str]]) -> float:
    """Return the highest Jaccard index of a set of words with one of the others; 0.0 if there are none."""
    shared = [(len(words & other), len(words) + len(other)) for other in others if not words.isdisjoint(other)]
    return max([common / (total - common) for common, total in shared], default=0.0)


def _search_row(view: _StateView, action: Search) -> tuple[float, ...]:
    """Return the values of the columns `_SEARCH`."""
    query, question = _parse(action.query), view.question
    mention = view.mention(query.text, query.key)
    for name, name_key in query.names:
        other = view.mention(name, name_key)
        mention = other if other.best > mention.best else mention
    names = [name for name in view.names if name in query.key]
    in_question, in_pages = query.terms & question.terms, view.in_pages(query.terms)
    search = _SearchFeatures()
    search.search = 1.0
    search.query_words = min(query.words / 20, 1.0)
    search.query_repeats = _similarity(query.terms, view.past_terms)
    search.query_again = float(query.key in view.past_keys)
    search.query_is_question = _share(len(in_question), question.terms)
    search.query_in_question = _share(len(in_question), query.terms)
    search.query_in_found = _share(len(in_pages), query.terms)
    search.query_unheard = _share(len(query.terms - in_pages - in_question), query.terms)
    search.query_asks = _share(len(query.terms & question.relation), query.terms)
    search.query_is_name = float(query.key in view.names)
    search.query_has_name = _share(len(names), view.names)
    search.query_new_name = _share(sum([name not in view.titles for name in names]), view.names)
    search.query_is_title = float(query.key in view.titles)
    search.query_title_share = _similarity(query.terms, view.title_terms)
    search.query_has_bridge = float(any(name in query.key for name in view.bridges))
    search.query_capital = query.capital
    page = mention.page
    best_name = _QueryMentionFeatures()
    best_name.query_last = float(page is not None and mention.first >= view.before_last)
    best_name.query_page = view.coverage[page.terms] if page else 0.0
    best_name.query_page_named = float(page is not None and page.name in question.key)
    best_name.query_page_known = float(mention.key in view.titles)
    best_name.query_nation = float(query.kind == "nation")
    best_name.query_bare = float(query.kind == "entity" and not query.names and query.capital > 0.5)
    return _search_values(search) + view.mention_features(mention) + _query_mention_values(best_name)


def _answer_row(view: _StateView, action: Answer) -> tuple[float, ...]:
    """Return the values of the columns `_ANSWER`."""
    question, options = view.question, view.state.question.options
    # The letter of an option stands for its text.
    letter = action.text.strip().upper()
    index = string.ascii_uppercase.find(letter) if len(letter) == 1 else -1
    answer = _parse(options[index] if 0 <= index < len(options) else action.text)
    mention = view.mention(answer.text, answer.key)
    page = view.titles.get(answer.key)
    score, best = view.scores.get(answer.key, 0.0), view.ranked[0]
    is_best = answer.key == view.best_key
    if question.kind in ("verdict", "choice"):
        fit = float((question.kind == "verdict") == (answer.kind == "verdict"))
    else:
        fit = FITS[question.kind].get(answer.kind, 0.0)
        if question.kind == "person" and ORGANIZATION.search(answer.text):
            fit *= 0.5
    opening = page.page.sentences[0].terms if page and page.page.sentences else ()
    before = mention.sentence.text[: max(mention.start, 0)] if mention.sentence else ""
    values = _AnswerFeatures()
    values.answer = 1.0
    values.answer_words = min(answer.words / 10, 1.0)
    values.answer_read = min(score / best.score, 1.0) if best.score else float(is_best)
    values.answer_is_read = float(is_best)
    values.answer_weighed = min(score / 4, 1.0)
    values.answer_fits = fit
    values.answer_in_question = float(answer.key in question.key)
    values.answer_is_choice = float(answer.key in view.choices)
    values.answer_is_yes = float(answer.key == " yes ")
    values.answer_is_verdict = float(answer.kind == "verdict")
    values.answer_is_title = float(page is not None)
    values.answer_headed = float(bool(question.head) and (question.head in answer.terms or question.head in opening))
    values.answer_capital = answer.capital
    occurrence = _AnswerMentionFeatures()
    occurrence.answer_second = mention.second
    occurrence.answer_place = float(before.rstrip().rsplit(" ", 1)[-1].lower() in _LOCATIVE)
    return _answer_values(values) + view.mention_features(mention) + _answer_mention_values(occurrence)


def features(state: State, actions: Sequence[Action]) -> NDArray[np.float32]:
    """Return the features of the candidate actions of a state.

    Args:
        state: A running state.
        actions: `n` actions; 0 or more.

    Returns:
        float32 array of shape `(n, len(FEATURES))`, with values in [-1, 1]. A row depends on the state and on its
        own action alone.
    """
    return np.array(feature_rows(state, actions), np.float32).reshape(len(actions), len(FEATURES))


def feature_rows(state: State, actions: Sequence[Action]) -> list[tuple[float, ...]]:
    """Return what `features` returns, not yet rounded: a batch of states is fastest put in one array."""
    if not actions:
        return []
    view = _StateView(state)
    of_state = view.state_features()
    # Columns that do not apply to an action stay 0.
    before_search, before_answer = view.episode_features() + of_state, _ZEROS[_EPISODE] + of_state + _ZEROS[_SEARCH]
    return [
        before_search + _search_row(view, action) + _ZEROS[_ANSWER]
        if isinstance(action, Search)
        else before_answer + _answer_row(view, action)
        for action in actions
    ]
