"""What was asked and found, as the data sections of a prompt, and the templates that they go into."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from raggym_env.core import Question, Turn, option_letter
from raggym_env.text.untrusted import as_data, clipped

__all__ = ["history_sections", "question_section", "shown_again", "template_environment"]


def template_environment() -> ImmutableSandboxedEnvironment:
    """What compiles the templates of cards and options: sandboxed, and strict about variables that there are not."""
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )


def question_section(question: Question) -> str:
    """The question and its lettered options."""
    options = [f"{option_letter(index)}. {as_data(text)}" for index, text in enumerate(question.options)]
    return "\n".join(("<question>", as_data(question.text), *options, "</question>"))


def history_sections(
    history: Sequence[Turn],
    notes: Sequence[str] | None = None,
    *,
    passage_chars: int,
    history_chars: int,
    numbered: bool = True,
) -> str:
    """A section per search, oldest first; "" if there is none.

    Args:
        history: The searches.
        notes: What is shown of each search instead of its passages.
        passage_chars: Characters of each passage's text.
        history_chars: Characters of all sections. Of the oldest searches that do not fit, only the query is shown;
            the newest is always shown whole.
        numbered: Whether passages have numbers.
    """
    room = history_chars
    sections: list[str] = []
    for index in reversed(range(len(history))):
        turn = history[index]
        section = _passages(turn, passage_chars, numbered) if notes is None else _note(turn, notes[index])
        if sections and len(section) > room:
            room, section = 0, f'<passages query="{_attribute(turn.query)}">left out</passages>'
        room -= len(section)
        sections.append(section)
    return "\n".join(reversed(sections))


def shown_again(reply: str) -> str:
    """A model's reply, to be shown to it again. It may repeat a passage, control tokens of the chat included."""
    return "\n".join(as_data(line) for line in clipped(reply, 2_000).splitlines())


def _note(turn: Turn, note: str) -> str:
    return f'<note query="{_attribute(turn.query)}">\n{as_data(note) or "nothing"}\n</note>'


def _passages(turn: Turn, length: int, numbered: bool) -> str:
    lines = [
        f"{f'[{number}]' if numbered else '-'} {as_data(passage.title)}: {clipped(as_data(passage.text), length)}"
        for number, passage in enumerate(turn.passages, 1)
    ]
    return "\n".join((f'<passages query="{_attribute(turn.query)}">', *(lines or ["nothing"]), "</passages>"))


def _attribute(text: str) -> str:
    return clipped(as_data(text), 300).replace('"', "'")
