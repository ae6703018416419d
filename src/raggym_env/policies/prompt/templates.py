"""The prompts of a card: Jinja templates over a state, rendered to chat messages.

A template sees these variables; every text in them is data made safe by `text.as_data`:

    question        the question and its lettered options, in a `<question>` section
    history         the past searches, oldest first, each in a `<passages>` or `<note>` section; "" if none
    searches_left   an integer, 0 or more
    can_search      whether the agent may answer this prompt with a search; also in the system and retry prompts
    turns           the same history as a list of `query`, `passages` (each `title`, `text`) and `note` (or None)
    query           in the note prompts only: the query whose passages are summarised
    problem         in the retry prompt only: why the last reply could not be read
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jinja2 import TemplateError

from raggym_env.core import Passage, Question, State, Turn
from raggym_env.errors import OptionError, PolicyError
from raggym_env.protocols import Messages
from raggym_env.text.sections import history_sections, question_section, shown_again, template_environment
from raggym_env.text.untrusted import as_data, clipped

__all__ = ["Example", "Prompts", "Shown"]

_NAMES = ("system", "user", "retry", "note_system", "note_user")
_RETRY = "Your reply could not be used: {{ problem }}. Reply again, and end with one action in the form asked for."


@dataclass(frozen=True, slots=True)
class Shown:
    """How much of a state a prompt shows."""

    passage_chars: int = 600
    """Characters of each passage's text."""
    history_chars: int = 12_000
    """Characters of all past searches together. The passages or notes of the oldest searches are left out first,
    their queries stay; the newest search is always shown."""


@dataclass(frozen=True, slots=True)
class Example:
    """One shown step: a state, rendered by the card's own `user` template, and the reply to it."""

    state: State
    notes: tuple[str, ...] | None
    """One per past search; None where the example shows passages."""
    reply: str

    @classmethod
    def from_card(cls, content: Mapping[str, Any]) -> Example:
        """Read `question`, `reply` and, where wanted, `options`, `searches_left` and `history`.

        A search of the history has a `query` and `passages` (`[title, text]`) or a `note`.

        Raises:
            ValueError: Something else is there, or something is missing.
        """
        known = {"question", "reply", "options", "searches_left", "history"}
        if unknown := content.keys() - known:
            raise OptionError(f"an example has no {sorted(unknown)}; it has {sorted(known)}")
        try:
            turns = content.get("history", ())
            history = tuple(
                Turn(turn["query"], tuple(Passage("", *passage) for passage in turn.get("passages", ())))
                for turn in turns
            )
            question = Question("", content["question"], tuple(content.get("options", ())))
            state = State(question, history, content.get("searches_left", 1))
            noted = any("note" in turn for turn in turns)
            notes = tuple(turn.get("note", "") for turn in turns) if noted else None
            return cls(state, notes, content["reply"].strip())
        except (KeyError, TypeError, AttributeError) as error:
            raise OptionError(f"an example cannot be read ({error!r}): {dict(content)!r:.200}") from error


class Prompts:
    """The compiled templates of one card.

    Args:
        templates: `system` and `user`; for notes `note_system` and `note_user`; optionally `retry`.
        examples: Steps shown as earlier turns of the chat, before the state asked about.
        shown: How much of a state is shown.

    Raises:
        ValueError: A prompt is missing, unknown or no template, or uses a variable that there is not.
    """

    def __init__(
        self, templates: Mapping[str, str], examples: Sequence[Example] = (), shown: Shown | None = None
    ) -> None:
        self._shown = shown or Shown()
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
                raise OptionError(f"the prompt {name} is no Jinja template: {error}") from error
        self._examples: list[Mapping[str, str]] = []
        self._check()
        for example in examples:
            self._examples += [
                {"role": "user", "content": self._user(example.state, example.notes, can_search=True)},
                {"role": "assistant", "content": example.reply},
            ]

    def messages(self, state: State, notes: Sequence[str] | None, *, can_search: bool) -> Messages:
        """The chat that asks for the next action. `notes` has one per past search; None shows the passages."""
        return [
            *self._opening(can_search),
            {"role": "user", "content": self._user(state, notes, can_search=can_search)},
        ]

    def again(self, messages: Messages, reply: str, problem: str, *, can_search: bool) -> Messages:
        """The chat that shows the model its reply and what is wrong with it."""
        said = {"role": "assistant", "content": shown_again(reply)}
        asked = self._render("retry", problem=as_data(problem), can_search=can_search)
        return [*messages, said, {"role": "user", "content": asked}]

    def note_messages(self, question: Question, turn: Turn) -> Messages:
        """The chat that asks for a note on what one search found."""
        values = {
            "question": question_section(question),
            "history": self._history((turn,), None),
            "query": as_data(turn.query),
        }
        return [
            {"role": "system", "content": self._render("note_system", **values)},
            {"role": "user", "content": self._render("note_user", **values)},
        ]

    @property
    def summarises(self) -> bool:
        """Whether there are prompts for notes."""
        return {"note_system", "note_user"} <= self._templates.keys()

    def _opening(self, can_search: bool) -> list[Mapping[str, str]]:
        return [{"role": "system", "content": self._render("system", can_search=can_search)}, *self._examples]

    def _user(self, state: State, notes: Sequence[str] | None, *, can_search: bool) -> str:
        return self._render(
            "user",
            question=question_section(state.question),
            history=self._history(state.history, notes),
            searches_left=state.searches_left,
            can_search=can_search,
            turns=_turns(state.history, notes, self._shown.passage_chars),
        )

    def _history(self, history: Sequence[Turn], notes: Sequence[str] | None) -> str:
        return history_sections(history, notes, **asdict(self._shown))

    def _render(self, name: str, **values: object) -> str:
        try:
            return self._templates[name].render(**values).strip()
        except (TemplateError, TypeError, ArithmeticError, LookupError) as error:
            raise PolicyError(f"The prompt {name} cannot be rendered: {error}") from error

    def _check(self) -> None:
        """Render everything once, so that a misspelt variable is found before a run."""
        turn = Turn("query", (Passage("", "Title", "Text"),))
        try:
            for state in (State(Question("", "Q?"), (), 1), State(Question("", "Q?", ("a", "b")), (turn,))):
                self.messages(state, ["note"] * len(state.history), can_search=state.searches_left > 0)
            self._render("retry", problem="problem", can_search=True)
            if self.summarises:
                self.note_messages(Question("", "Q?"), turn)
        except PolicyError as error:
            raise OptionError(str(error)) from error


def _turns(history: Sequence[Turn], notes: Sequence[str] | None, length: int) -> list[dict[str, Any]]:
    return [
        {
            "query": as_data(turn.query),
            "passages": [
                {"title": as_data(passage.title), "text": clipped(as_data(passage.text), length)}
                for passage in turn.passages
            ],
            "note": None if notes is None else as_data(notes[index]),
        }
        for index, turn in enumerate(history)
    ]
