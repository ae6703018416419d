"""What can be said of a candidate action by looking at it and at what was found: the input of the `mini` reward.

Everything here is computed from the question, the history and the action: no gold answer, no supporting fact, no
look at what a search would find. All values are finite and lie in [-1, 1]. Words are compared by their stems. What
is *covered* is a share of the question's weight, in which a word weighs the more the fewer found sentences have it.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, Answer, Search, State
from raggym_env.reading.answers import answers, reading_of
from raggym_env.reading.mentions import Mention, mention_of
from raggym_env.reading.pages import Page
from raggym_env.reading.question import ParsedQuestion
from raggym_env.reading.reader import FITS, ORGANIZATION
from raggym_env.reading.text import COUNTRIES, MONTHS, Tokens, key, names_in, split_words

__all__ = ["FEATURES", "features"]

# How the episode came to be where it is. Of an answer they are 0: it is worth no more for what was done before it,
# so that an episode gains nothing by being drawn out.
_CLOCK = (
    "searches_done",       # share of the episode's searches that are spent
    "none_left",           # whether no search is left
    "last_was_new",        # share of the last search's passages that no search before it had found
    "last_was_title",      # whether the last query is the title of a found passage
)  # fmt: skip
_STATE = (
    "first",               # whether nothing was searched for yet
    "covered_by_one",      # most of the question that a found passage covers
    "names_known",         # share of the names in the question that are the title of a found passage
    "names_seen",          # share of them that a found passage mentions
    "asks_choice",         # the question offers two things to choose from
    "asks_verdict",        # the question wants yes or no
    "asks_agent",          # the question reaches one name through another ("the director of ...")
    "bridged",             # whether such a name was found
    "bridge_known",        # whether it is the title of a found passage
    "best_answer",         # how sure the classical reader is of its best answer
    "answer_margin",       # by how much it prefers that to its second
)  # fmt: skip
_SEARCH = (
    "search",              # whether the action is a search
    "query_words",         # its number of words, over 20
    "query_repeats",       # its likeness (Jaccard) to the most similar past query
    "query_again",         # whether the same query was made before: it cannot find anything new
    "query_is_question",   # share of the question's words in it
    "query_in_question",   # share of its words in the question
    "query_in_found",      # share of its words in found passages
    "query_unheard",       # share of its words in neither
    "query_asks",          # share of its words that are what the question asks about its names
    "query_is_name",       # whether it is a name in the question
    "query_has_name",      # share of the question's names in it
    "query_new_name",      # ... of those that are no title of a found passage
    "query_is_title",      # whether it is the title of a found passage
    "query_title_share",   # its likeness (Jaccard) to the most similar title found
    "query_has_bridge",    # whether it has a name that the question reaches through another
    "query_capital",       # share of its words that begin with a capital
    # Of the query, or of the name in it that is best spoken of:
    "query_mentions",      # log of the number of found passages that have it
    "query_best",          # of the sentence that speaks best of it: support and nearness together
    "query_support",       # how good evidence that sentence is
    "query_near",          # how near it stands there to what the question asks about its names
    "query_chain",         # whether the names in the question lead to that page
    "query_early",         # whether that sentence is the first of its page
    "query_rank",          # how early among all found passages the first one that has it stands
    "query_last",          # whether the last search found a passage that has it, and none before did
    "query_page",          # how much of the question that whole page covers
    "query_page_named",    # whether the question names that page
    "query_page_known",    # whether the name in the query is itself the title of a found passage
    "query_nation",        # whether it is a country or a nationality
    "query_bare",          # whether it is a name and nothing else
)  # fmt: skip
_ANSWER = (
    "answer",              # whether the action is an answer
    "answer_words",        # its number of words, over 10
    "answer_read",         # what the classical reader makes of it, relative to its best answer
    "answer_is_read",      # whether it is that best answer
    "answer_weighed",      # what the reader makes of it, in its own units over 4
    "answer_fits",         # how well it is of the type that the question asks for
    "answer_in_question",  # whether the question contains it
    "answer_is_choice",    # whether it is one of the things to choose from
    "answer_is_yes",
    "answer_is_verdict",   # whether it is yes or no
    "answer_is_title",     # whether it is the title of a found passage
    "answer_headed",       # whether it has the noun after "which", or its page's first sentence has
    "answer_capital",
    "answer_mentions",     # as for queries, here and below
    "answer_best",
    "answer_support",
    "answer_near",
    "answer_chain",
    "answer_early",
    "answer_rank",
    "answer_second",       # the best of another page that has it
    "answer_place",        # whether "in", "at", "near" or the like stands before it there
)  # fmt: skip
FEATURES: tuple[str, ...] = (*_CLOCK, *_STATE, *_SEARCH, *_ANSWER)
"""Names of the features, in the order of the columns."""

_LONGEST = 2_000  # characters of an action's text that are read
_PLACES = frozenset(("in", "at", "near", "from", "to", "into", "around"))
_NATIONS = frozenset((*map(str.lower, COUNTRIES), *map(str.lower, COUNTRIES.values())))
_YEAR = re.compile(r"(?:1[0-9]|20)\d\d")
_MONTH = re.compile(rf"\b(?:{'|'.join(MONTHS).lower()})\b")


class _Text(NamedTuple):
    """The text of an action, read."""

    text: str
    key: str
    """Its words in lower case between single spaces, one at each end."""
    terms: frozenset[str]
    kind: str
    """As `Span.kind`, or "verdict"."""
    capital: float
    words: int
    names: tuple[tuple[str, str], ...]
    """The names in it, as text and key."""


def _read(text: str) -> _Text:
    return _read_short(text[:_LONGEST].strip())


@lru_cache(maxsize=16_384)
def _read_short(text: str) -> _Text:
    tokens = Tokens(split_words(text))
    capitals = sum([word[0].isupper() for word in tokens.words])
    share = capitals / len(tokens.words) if tokens.words else 0.0
    named = [(tokens.text(*name), tokens.key(*name)) for name in names_in(tokens)]
    names = tuple([name for name in named if name[0] != text])
    whole = f" {key(text)} " if text.endswith(")") else tokens.key()
    return _Text(text, whole, frozenset(filter(None, tokens.stems())), _kind(text), share, len(tokens.words), names)


def _kind(text: str) -> str:
    lower = text.lower()
    if lower in ("yes", "no"):
        return "verdict"
    if lower in _NATIONS:
        return "nation"
    if len(lower) < 25 and any(map(str.isdigit, lower)):
        return "date" if _MONTH.search(lower) else "year" if _YEAR.fullmatch(lower) else "number"
    return "entity" if text[:1].isupper() else "definition"


class _View:
    """A state, read once for all its candidates."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.reading = reading = reading_of(state)
        self.asked: ParsedQuestion = reading.question
        self.titles = {page.name: page for page in reversed(reading.pages)}
        self.names = [f" {key(name)} " for name in dict.fromkeys((*self.asked.choices, *self.asked.names))]
        self.bridges = [f" {key(name)} " for name in reading.bridged]
        past = [_read(turn.query) for turn in state.history]
        self.past_keys, self.past_terms = [query.key for query in past], [query.terms for query in past]
        self.title_terms = [page.title_terms for page in reading.pages]
        self.before_last = len({passage for turn in state.history[:-1] for passage in turn.passages})
        self.ranked = answers(state)
        self.clock = self._clock()
        self.row = self._row()
        self._mentions: dict[str, Mention] = {}

    def _clock(self) -> list[float]:
        state, history = self.state, self.state.history
        budget = len(history) + state.searches_left
        last = len(history[-1].passages) if history else 0
        return [
            len(history) / budget if budget else 1.0,
            float(state.searches_left == 0),
            (len(self.reading.pages) - self.before_last) / last if last else 0.0,
            float(bool(self.past_keys) and self.past_keys[-1] in self.titles),
        ]

    def _row(self) -> list[float]:
        reading = self.reading
        best, second = self.ranked[0].score, self.ranked[1].score if len(self.ranked) > 1 else 0.0
        return [
            float(not self.state.history),
            max([reading.covered(page.terms) for page in reading.pages], default=0.0),
            _share(sum([name in self.titles for name in self.names]), self.names),
            _share(sum([bool(reading.pages_with(name)) for name in self.names]), self.names),
            float(self.asked.kind == "choice"),
            float(self.asked.kind == "verdict"),
            float(bool(self.asked.agents)),
            float(bool(self.bridges)),
            float(any(name in self.titles for name in self.bridges)),
            min(best / 4, 1.0),
            (best - second) / best if best else 0.0,
        ]

    @cached_property
    def found(self) -> frozenset[str]:
        """All terms of the found passages."""
        return frozenset().union(*[page.terms for page in self.reading.pages])

    @cached_property
    def scores(self) -> dict[str, float]:
        """What the classical reader makes of each of its answers, by their keys between spaces."""
        return {f" {key(text)} ": score for text, score in reversed(self.ranked)}

    def mention(self, text: str, name: str) -> Mention:
        """How the found passages speak of a text, given with its key: candidates often have names in common."""
        known = self._mentions.get(text)
        if known is None:
            known = self._mentions[text] = mention_of(self.reading, text, name)
        return known

    def mentioned(self, mention: Mention) -> tuple[float, ...]:
        """The columns from "mentions" to "rank"."""
        page, sentence = mention.page, mention.sentence
        return (
            min(math.log1p(mention.pages) / 4, 1.0),
            mention.best,
            mention.support,
            mention.near,
            float(sentence is not None and sentence.title in self.reading.chain),
            float(sentence is not None and sentence.number == 0),
            1 / (1 + mention.first) if page else 0.0,
        )


def _in_place(mention: Mention) -> float:
    """Whether a word that stands before places stands before the text in its best sentence."""
    before = mention.sentence.text[: max(mention.start, 0)] if mention.sentence else ""
    return float(before.rstrip().rsplit(" ", 1)[-1].lower() in _PLACES)


def _share(part: float, whole: Sequence[object] | frozenset[str]) -> float:
    return part / len(whole) if whole else 0.0


def _likeness(words: frozenset[str], others: Iterable[frozenset[str]]) -> float:
    """To the most similar of some sets of words, by Jaccard's index."""
    return max(
        [len(words & other) / len(words | other) for other in others if not words.isdisjoint(other)], default=0.0
    )


def _of_search(view: _View, action: Search) -> list[float]:
    query, asked = _read(action.query), view.asked
    mention = view.mention(query.text, query.key)
    for name, name_key in query.names:
        mention = max(mention, view.mention(name, name_key), key=lambda found: found.best)
    named = [name for name in view.names if name in query.key]
    in_question, in_found = query.terms & asked.terms, query.terms & view.found
    return [
        1.0,
        min(query.words / 20, 1.0),
        _likeness(query.terms, view.past_terms),
        float(query.key in view.past_keys),
        _share(len(in_question), asked.terms),
        _share(len(in_question), query.terms),
        _share(len(in_found), query.terms),
        _share(len(query.terms - in_found - in_question), query.terms),
        _share(len(query.terms & asked.relation), query.terms),
        float(query.key in view.names),
        _share(len(named), view.names),
        _share(sum([name not in view.titles for name in named]), view.names),
        float(query.key in view.titles),
        _likeness(query.terms, view.title_terms),
        float(any(name in query.key for name in view.bridges)),
        query.capital,
        *view.mentioned(mention),
        float(mention.page is not None and mention.first >= view.before_last),
        view.reading.covered(mention.page.terms) if mention.page else 0.0,
        float(mention.page is not None and mention.page.name in asked.key),
        float(mention.key in view.titles),
        float(query.kind == "nation"),
        float(query.kind == "entity" and not query.names and query.capital > 0.5),
    ]


def _of_answer(view: _View, action: Answer) -> list[float]:
    answer, asked = _read(_said(view.state.question.options, action.text)), view.asked
    mention = view.mention(answer.text, answer.key)
    page = view.titles.get(answer.key)
    score, top = view.scores.get(answer.key, 0.0), view.ranked[0]
    is_top = answer.key == f" {key(top.text)} "
    return [
        1.0,
        min(answer.words / 10, 1.0),
        min(score / top.score, 1.0) if top.score else float(is_top),
        float(is_top),
        min(score / 4, 1.0),
        _fit(asked, answer),
        float(answer.key in asked.key),
        float(answer.key in [f" {key(choice)} " for choice in asked.choices]),
        float(answer.key == " yes "),
        float(answer.kind == "verdict"),
        float(page is not None),
        float(bool(asked.head) and _headed(asked.head, answer, page)),
        answer.capital,
        *view.mentioned(mention),
        mention.second,
        _in_place(mention),
    ]


def _said(options: tuple[str, ...], text: str) -> str:
    """What an answer says: of an option's letter, the option."""
    letter = text.strip().upper()
    index = string.ascii_uppercase.find(letter) if len(letter) == 1 else -1
    return options[index] if 0 <= index < len(options) else text


def _fit(asked: ParsedQuestion, answer: _Text) -> float:
    if asked.kind in ("verdict", "choice"):
        return float((asked.kind == "verdict") == (answer.kind == "verdict"))
    fit = FITS[asked.kind].get(answer.kind, 0.0)
    return fit * 0.5 if asked.kind == "person" and ORGANIZATION.search(answer.text) else fit


def _headed(head: str, answer: _Text, page: Page | None) -> bool:
    return head in answer.terms or (page is not None and bool(page.sentences) and head in page.sentences[0].terms)


_NO_CLOCK, _NO_SEARCH, _NO_ANSWER = [0.0] * len(_CLOCK), [0.0] * len(_SEARCH), [0.0] * len(_ANSWER)


def features(state: State, actions: Sequence[Action]) -> NDArray[np.float32]:
    """The features of the candidate actions of a state.

    Args:
        state: A running state.
        actions: `n` actions; 0 or more.

    Returns:
        float32 array of shape `(n, len(FEATURES))`, with values in [-1, 1]. A row depends on the state and on its
        own action alone.
    """
    if not actions:
        return np.zeros((0, len(FEATURES)), np.float32)
    view = _View(state)
    rows: Iterable[list[float]] = (
        [*view.clock, *view.row, *_of_search(view, action), *_NO_ANSWER]
        if isinstance(action, Search)
        else [*_NO_CLOCK, *view.row, *_NO_SEARCH, *_of_answer(view, action)]
        for action in actions
    )
    return np.array(list(rows), np.float32)
