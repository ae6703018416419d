"""The prompts of a card: Jinja templates over a state, rendered to chat messages.

`raggym_env.text.templates` says which part of Jinja they may use. A template sees these variables; every text in them
is data made safe by `text.untrusted.as_data`:

    question        the question and its lettered options, in a `<question>` section
    question_line   the question on one line, its options behind it as a dictionary, `Who? {'A': 'Ant', 'B': 'Bee'}`:
                    the form of the RAG-Gym authors' own prompts
    history         the past searches, oldest first, each in a `<passages>` or `<note>` section; "" if none
    searches_left   an integer, 0 or more
    can_search      whether the agent may reply with a search; also in the system and retry prompts
    turns           the same history as a list of `query`, `passages` (each `title`, `text`), `note` (or None) and
                    `note_list` (the note as a list of one text, `['A note.']`, with escaped line breaks; or None).
                    The passages of the oldest searches are left out first, as in `history`
    query           in the note prompts only: the query whose passages are summarised
    problem         in the retry prompt only: why the last reply could not be used
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from jinja2 import TemplateError
from pydantic import BaseModel, Field, ValidationError

from raggym_env.core import Passage, Question, State, Turn, option_letter
from raggym_env.errors import OptionError, PolicyError, check_option
from raggym_env.protocols import Messages
from raggym_env.text.sections import (
    history_sections,
    question_section,
    shown_again,
    template_environment,
    with_snippets,
)
from raggym_env.text.untrusted import ACTION_CHARS, NOTE_CHARS, QUESTION_CHARS, SEARCH_CHARS, as_data, clipped

__all__ = ["Example", "PassageText", "PromptLimits", "Prompts"]

# `retry` has a default, and the notes' prompts are needed by agents with summaries only.
_NAMES = ("system", "user", "retry", "note_system", "note_user")
_RETRY = "Your reply could not be used: {{ problem }}. Reply again, and end with one action in the form asked for."


PassageText = Literal["start", "snippets"]


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """Limits on the length of the history in a prompt, each at least 1; else an `OptionError` is raised."""

    passage_chars: int = 600
    """Maximum number of characters of each passage's text."""
    history_chars: int = 12_000
    """Maximum number of characters of all past searches together. The passages or notes of the oldest searches are
    left out first, their queries stay; the newest search is always shown."""
    passages: PassageText = "start"
    """What is shown of a passage: its "start", or "snippets", its sentences that matter for the question. Those of all
    passages compete for the `history_chars`, and a passage that was found before is named, not repeated."""

    def __post_init__(self) -> None:
        for name in ("passage_chars", "history_chars"):
            check_option(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        forms = get_args(PassageText)
        check_option("passages", self.passages, self.passages in forms, f"one of {forms}")

    def lengths(self) -> dict[str, Any]:
        """Return the limits that are numbers of characters."""
        return {"passage_chars": self.passage_chars, "history_chars": self.history_chars}


@dataclass(frozen=True, slots=True)
class Example:
    """A worked example: a state, which the card's `user` template renders, and a model's reply."""

    state: State
    notes: tuple[str, ...] | None
    """One per past search; None where the example has passages."""
    reply: str

    @classmethod
    def from_card(cls, content: Mapping[str, Any]) -> Example:
        """Read an example of a card: `question`, `reply` and, optionally, `options`, `searches_left` and `history`.

        A search of the history has a `query` and `passages` (`[title, text]`) or a `note`.

        Raises:
            OptionError: A key is missing, unknown or of the wrong type.
        """
        try:
            example = _ExampleCard.model_validate(content)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"])) or "it"
            raise OptionError(f"an example cannot be read ({key}: {problem['msg']}): {content!r:.200}") from error
        history = tuple(
            # Prompts never show the ids of passages.
            Turn(turn.query, tuple(Passage("", *passage) for passage in turn.passages))
            for turn in example.history
        )
        state = State(Question("", example.question, example.options), history, example.searches_left)
        has_notes = any(turn.note is not None for turn in example.history)
        notes = tuple(turn.note or "" for turn in example.history) if has_notes else None
        return cls(state, notes, example.reply.strip())


class _TurnCard(BaseModel):
    model_config = {"extra": "forbid"}
    query: str
    passages: tuple[tuple[str, str], ...] = ()
    note: str | None = None


class _ExampleCard(BaseModel):
    model_config = {"extra": "forbid"}
    question: str
    reply: str
    options: tuple[str, ...] = ()
    searches_left: Annotated[int, Field(ge=0, strict=True)] = 1
    history: tuple[_TurnCard, ...] = ()


class Prompts:
    """The compiled templates of one card.

    Args:
        templates: `system` and `user`; for notes `note_system` and `note_user`; optionally `retry`.
        examples: Shown as earlier turns of the chat.
        limits: By default those of `PromptLimits`.

    Raises:
        OptionError: A prompt is missing, unknown, not a template, or uses an undefined variable.
    """

    def __init__(
        self, templates: Mapping[str, str], examples: Sequence[Example] = (), limits: PromptLimits | None = None
    ) -> None:
        self._limits = limits or PromptLimits()
        self._lengths = {"passage_chars": self._limits.passage_chars, "history_chars": self._limits.history_chars}
        if unknown := templates.keys() - set(_NAMES):
            raise OptionError(f"there is no prompt {sorted(unknown)}; a card has {list(_NAMES)}")
        if missing := {"system", "user"} - templates.keys():
            raise OptionError(f"the prompt {sorted(missing)} is missing from the card's options.prompts")
        environment = template_environment()
        self._templates = {}
        for name, text in {"retry": _RETRY, **templates}.items():
            try:
                self._templates[name] = environment.from_string(text)
            except TemplateError as error:
                raise OptionError(f"the prompt {name} is not a Jinja template of a card: {error}") from error
        self._examples: list[Mapping[str, str]] = []
        self._check()  # before the examples, which are rendered by the same templates
        for example in examples:
            user = self._user(example.state, example.notes, can_search=True)
            self._examples += [{"role": "user", "content": user}, {"role": "assistant", "content": example.reply}]

    def messages(self, state: State, notes: Sequence[str] | None, *, can_search: bool) -> Messages:
        """Return the chat that requests the next action. `notes`: one per past search; None shows passages."""
        system = self._render("system", can_search=can_search)
        user = self._user(state, notes, can_search=can_search)
        # The system prompt and the examples come first and are the same in every state, so that a model's prefix
        # cache holds them.
        return [{"role": "system", "content": system}, *self._examples, {"role": "user", "content": user}]

    def again(self, messages: Messages, reply: str, problem: str, *, can_search: bool) -> Messages:
        """Return the chat continued by the model's reply and a message that says what is wrong with it."""
        # The problem may quote the reply.
        complaint = self._render("retry", problem=as_data(problem), can_search=can_search)
        return [*messages, {"role": "assistant", "content": shown_again(reply)}, {"role": "user", "content": complaint}]

    def note_messages(self, question: Question, turn: Turn) -> Messages:
        """Return the chat that requests a note on the passages of one search."""
        history = self._history((turn,), None)
        query = clipped(as_data(turn.query), ACTION_CHARS)
        values = {
            "question": question_section(question),
            "question_line": _question_line(question),
            "history": history,
            "turns": _turns((turn,), None, self._limits),
            "query": query,
        }
        system, user = self._render("note_system", **values), self._render("note_user", **values)
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]

    @property
    def summarises(self) -> bool:
        """True if there are prompts for notes."""
        return {"note_system", "note_user"} <= self._templates.keys()

    def _user(self, state: State, notes: Sequence[str] | None, *, can_search: bool) -> str:
        history = state.history
        if self._limits.passages == "snippets" and notes is None:
            history = with_snippets(state.question.text, history, **self._limits.lengths())
        return self._render(
            "user",
            question=question_section(state.question),
            question_line=_question_line(state.question),
            history=self._history(history, notes),
            searches_left=state.searches_left,
            can_search=can_search,
            turns=_turns(history, notes, self._limits),
        )

    def _history(self, history: Sequence[Turn], notes: Sequence[str] | None) -> str:
        return history_sections(history, notes, **self._limits.lengths())

    def _render(self, name: str, **values: object) -> str:
        try:
            return self._templates[name].render(**values).strip()
        except TemplateError as error:  # it may use undefined names or wrong types
            raise PolicyError(f"The prompt {name} cannot be rendered: {error}") from error

    def _check(self) -> None:
        """Render every template once, so that a misspelled variable is reported before a run."""
        turn = Turn("query", (Passage("", "Title", "Text"),))
        try:
            # Both branches of the usual conditions: with and without a search left, a history and options.
            for state in (State(Question("", "Q?"), (), 1), State(Question("", "Q?", ("a", "b")), (turn,))):
                self.messages(state, ["note"] * len(state.history), can_search=state.searches_left > 0)
            self._render("retry", problem="problem", can_search=True)
            if self.summarises:
                self.note_messages(Question("", "Q?"), turn)
        except PolicyError as error:
            raise OptionError(str(error)) from error


def _turns(history: Sequence[Turn], notes: Sequence[str] | None, limits: PromptLimits) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    room = limits.history_chars
    for index in reversed(range(len(history))):
        passages, size = _passages(history[index], limits.passage_chars)
        if turns and size > room:
            room, passages = 0, []
        room -= size
        note = None if notes is None else notes[index]
        lines = [] if note is None else [as_data(line) for line in note.splitlines()]
        turns.append(
            {
                "query": clipped(as_data(history[index].query), ACTION_CHARS),
                "passages": passages,
                "note": None if note is None else clipped(as_data(note), NOTE_CHARS),
                # `repr` escapes line breaks, so that it is one line all the same.
                "note_list": None if note is None else repr([clipped("\n".join(lines), NOTE_CHARS)]),
            }
        )
    return turns[::-1]


def _passages(turn: Turn, length: int) -> tuple[list[dict[str, str]], int]:
    """Return the passages of a search, best first, as many as a prompt shows of one, and their size in characters."""
    passages: list[dict[str, str]] = []
    size = 0
    for passage in turn.passages:
        title, text = clipped(as_data(passage.title), ACTION_CHARS), clipped(as_data(passage.text), length)
        if passages and size + len(title) + len(text) > SEARCH_CHARS:
            break
        size += len(title) + len(text)
        passages.append({"title": title, "text": text})
    return passages, size


def _question_line(question: Question) -> str:
    text = clipped(as_data(question.text), QUESTION_CHARS)
    options = {
        option_letter(index): clipped(as_data(option), ACTION_CHARS) for index, option in enumerate(question.options)
    }
    return f"{text} {options}" if options else text
