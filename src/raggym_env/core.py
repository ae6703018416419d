"""The vocabulary: questions, passages, states, actions and tasks. Imports nothing heavy.

A state holds what an agent may see. A task adds to its question what only environments and rewards may see: the gold
answers and the supporting facts. Everything here is immutable, so states can be kept, hashed, forked and searched
from at no cost.
"""

from __future__ import annotations

import enum
import hashlib
import html
import random
import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypedDict

from raggym_env.errors import InvalidAction

__all__ = [
    "Action",
    "Answer",
    "Evidence",
    "Fact",
    "Obs",
    "Passage",
    "Question",
    "Search",
    "State",
    "StopReason",
    "Task",
    "Turn",
    "Usage",
    "as_action",
    "option_letter",
    "state_rng",
    "title_key",
]

_SPACE = re.compile(r"\s+")


class Passage(NamedTuple):
    """One retrievable text. Untrusted: nothing in it is ever parsed as an action or an answer.

    A tuple, as `Turn` is: immutable and cheap, so that states and observations share it without copying.
    """

    id: str
    title: str
    text: str


class Turn(NamedTuple):
    """One finished search: the query and the passages it retrieved, best first."""

    query: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question. Its options, if it has any, are texts in order; the first is option "A"."""

    id: str
    text: str
    options: tuple[str, ...] = ()

    @property
    def option_answers(self) -> tuple[str, ...]:
        """An answer that names each option: its text, or its letter if the text would be read as a letter itself."""
        return tuple(
            option_letter(index) if text.strip(" .:()[]") in {*string.ascii_letters} else text
            for index, text in enumerate(self.options)
        )


class StopReason(enum.StrEnum):
    """Why an episode ended."""

    ANSWER = "answer"
    """The agent answered: `terminated`."""
    SEARCH_BUDGET = "search_budget"
    """A search was asked for with none left: `truncated`. It was not run; its draft, if any, is graded."""
    NO_ACTION = "no_action"
    """The policy's output was not an action, so there is no answer to grade. In rollouts only: environments raise."""


@dataclass(frozen=True, slots=True)
class Search:
    """Query the search engine. The draft, if any, is graded as the answer if this search exceeds the budget."""

    query: str
    draft: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the question and end the episode. For a question with options: a letter or the option's text.

    A letter is always read as the letter, even if it is the text of another option.
    """

    text: str


Action = Search | Answer


class Obs(TypedDict):
    """One observation of `RAGEnv`: the state as Gymnasium data. Contains no gold answer and no task metadata."""

    question: str
    options: tuple[str, ...]
    history: tuple[Turn, ...]
    searches_left: Any  # numpy.int64, as Discrete requires; NumPy is not imported here


@dataclass(frozen=True, slots=True)
class State:
    """The part of an episode that an agent may see: the question, the past searches and the searches left."""

    question: Question
    history: tuple[Turn, ...] = ()
    """Past searches, oldest first."""
    searches_left: int = 0
    answer: str | None = None
    """The graded answer, set once the episode has ended. None if it ended without one."""
    stop: StopReason | None = None
    """Why the episode ended, or None while it runs."""
    episode: int = 0
    """Tells several episodes on one question apart. A transition keeps it; an observation does not show it."""
    draft: str | None = None
    """The last draft of a past search, where it may end up as the answer (`Dynamics.answer_with_last_draft`); else
    None. An observation does not show it."""

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All passages retrieved so far, oldest search first, each once."""
        # A dict keeps insertion order, a set would not; and a passage found twice must not be shown twice.
        return tuple(dict.fromkeys(passage for turn in self.history for passage in turn.passages))

    @classmethod
    def from_obs(cls, obs: Obs | Mapping[str, Any]) -> State:
        """Return the state of an observation. Its question has no id, since an observation does not name the task."""
        # Passages are tuples already where the observation comes from `observe`, lists where it went through JSON.
        history = tuple(
            Turn(query, tuple(Passage(*passage) for passage in passages)) for query, passages in obs["history"]
        )
        return cls(Question("", obs["question"], tuple(obs["options"])), history, int(obs["searches_left"]))


class Fact(NamedTuple):
    """A supporting fact: the title of a gold passage and, in some data sets, the index of a sentence in it."""

    title: str
    sentence: int | None = None


class Evidence(NamedTuple):
    """One link of a gold reasoning chain (2WikiMultihopQA `evidences`)."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True, slots=True)
class Task:
    """A question with its gold answers and facts. Never part of a state, an observation or a prompt."""

    question: Question
    answers: tuple[str, ...]
    """Acceptable answers, the official one first, then its aliases. For options: the correct option's text."""
    correct: int | None = None
    """Index of the correct option, for questions with options."""
    supporting: tuple[Fact, ...] = ()
    evidences: tuple[Evidence, ...] = ()
    type: str = ""
    """The data set's own label of the question, e.g. "bridge" or "comparison"; empty if it has none."""
    # Left out of the hash: a mapping has none. Two tasks with equal ids are the same task anyway.
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def id(self) -> str:
        return self.question.id

    @property
    def gold_titles(self) -> tuple[str, ...]:
        """Titles of the supporting passages, each once, in the data set's order."""
        return tuple(dict.fromkeys(fact.title for fact in self.supporting))


def option_letter(index: int) -> str:
    """Return the letter of the option at `index`: 0 is "A"."""
    return string.ascii_uppercase[index]


def title_key(title: str) -> str:
    """Return a title in a form that is the same for a data set and its corpus, which differ in case and escapes.

    They may also differ in white space and Unicode form: "é" equals "e" with a combining accent.
    """
    return _SPACE.sub(" ", unicodedata.normalize("NFC", html.unescape(title))).strip().casefold()


def as_action(action: Any) -> Action:
    """Return the action that was passed to `step`: `Search`, `Answer`, or an element of the action space.

    The elements are `(0, query)` and `(1, answer)`. A blank query or answer is refused: it is a mistake that should be
    seen, not graded.

    Raises:
        InvalidAction: It is anything else.
    """
    # An element of the action space may have been through NumPy or JSON: its kind is then an integer of another type.
    if isinstance(action, (tuple, list)) and len(action) == 2 and isinstance(action[1], str):  # faster
        kind, text = action
        action = Search(text) if kind == 0 else Answer(text) if kind == 1 else action
    # Not `match`, and no function for the texts: they take twice as long, and this runs at every step.
    if isinstance(action, Search):
        query, draft = action.query, action.draft
        if isinstance(query, str) and query.strip() and (draft is None or (isinstance(draft, str) and draft.strip())):
            return action
    elif isinstance(action, Answer) and isinstance(action.text, str) and action.text.strip():
        return action
    raise InvalidAction(
        f"Not an action: {action!r:.200}. Pass Search(query), Answer(text), (0, query) or (1, answer), "
        "with texts that are not blank."
    )


def state_rng(seed: int, state: State, *extra: object) -> random.Random:
    """Return a random generator that depends on the seed and the state, not on the order in which states are visited.

    Sampling is therefore independent of batching, resuming and the number of workers. The question enters by its text,
    so an observation and the state it came from give the same draws.

    Args:
        seed: The policy's seed.
        state: The state in which something is drawn.
        extra: Anything else that must change the draws; used as text.
    """
    # A hash of its own: Python's `hash` of strings differs between processes.
    digest = hashlib.blake2b(repr(seed).encode(), digest_size=16)
    for part in (state.question.text, *state.question.options, *(turn.query for turn in state.history), *extra):
        # A separator, so that the pair ("ab", "c") differs from ("a", "bc").
        digest.update(b"\x00" + str(part).encode("utf-8", "surrogatepass"))
    for turn in state.history:
        for passage in turn.passages:
            # By id alone: texts are long, and a retriever that finds another passage finds another id.
            digest.update(b"\x01" + passage.id.encode("utf-8", "surrogatepass"))
    return random.Random(int.from_bytes(digest.digest(), "big"))


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of a proposal or of many. Usages add up; all counts are totals."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """The part of `prompt_tokens` that was not computed again."""
    completion_tokens: int = 0
    seconds: float = 0.0
    """Wall time in seconds."""

    def __add__(self, other: Usage) -> Usage:
        return replace(
            self,
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            seconds=self.seconds + other.seconds,
        )
