"""Questions and past searches as the data sections of a prompt, and the environment that compiles its templates."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from raggym_env.core import Passage, Question, Turn, option_letter
from raggym_env.reading.snippets import snippets
from raggym_env.text.templates import CardTemplates
from raggym_env.text.untrusted import ACTION_CHARS, NOTE_CHARS, QUESTION_CHARS, as_data, clipped, passage_lines

__all__ = ["history_sections", "question_section", "shown_again", "template_environment", "with_snippets"]

_NO_TEXT, _REPEATED = "…", "shown above"


def template_environment() -> CardTemplates:
    """Return the environment that compiles the templates of cards; see `raggym_env.text.templates`."""
    return CardTemplates()


def question_section(question: Question) -> str:
    """Return the question and its lettered options in a `<question>` section."""
    options = [
        f"{option_letter(index)}. {clipped(as_data(text), ACTION_CHARS)}" for index, text in enumerate(question.options)
    ]
    return "\n".join(("<question>", clipped(as_data(question.text), QUESTION_CHARS), *options, "</question>"))


def history_sections(
    history: Sequence[Turn],
    notes: Sequence[str] | None = None,
    *,
    passage_chars: int,
    history_chars: int,
    numbered: bool = True,
) -> str:
    """Return one section per search, oldest first; "" for an empty history.

    Args:
        history: The past searches, oldest first.
        notes: One text per search that replaces its passages; None shows the passages.
        passage_chars: Maximum number of characters of each passage's text.
        history_chars: Maximum number of characters of all sections. Of the oldest searches that do not fit, only the
            query is shown; the newest is always shown.
        numbered: Whether passages are numbered.
    """
    room = history_chars
    sections: list[str] = []
    # Newest first, since the newest searches get the room.
    for index in reversed(range(len(history))):
        turn = history[index]
        # In an attribute a quotation mark would end the value.
        query = clipped(as_data(turn.query), 300).replace('"', "'")
        if notes is None:
            lines = passage_lines(turn.passages, passage_chars, numbered=numbered)
            section = "\n".join((f'<passages query="{query}">', *(lines or ["nothing"]), "</passages>"))
        else:
            section = f'<note query="{query}">\n{clipped(as_data(notes[index]), NOTE_CHARS) or "nothing"}\n</note>'
        if sections and len(section) > room:
            # Older searches are left out too, even shorter ones: a gap would be hard to follow.
            room, section = 0, f'<passages query="{query}">left out</passages>'
        room -= len(section)
        sections.append(section)
    return "\n".join(reversed(sections))


def with_snippets(
    question: str, history: Sequence[Turn], *, passage_chars: int, history_chars: int
) -> tuple[Turn, ...]:
    """Return the history with the sentences of its passages that matter for the question, in place of whole texts.

    `history_sections` of the result, with the same limits, has at most `history_chars` characters, or as few as the
    queries and titles need. A passage that an earlier search found too is named, not repeated.
    """
    first = dict.fromkeys(_safe(passage) for turn in history for passage in turn.passages)
    bare = _with_texts(history, dict.fromkeys(first, _NO_TEXT))
    room = history_chars - len(history_sections(bare, passage_chars=passage_chars, history_chars=sys.maxsize))
    queries = [as_data(turn.query) for turn in history]
    texts = snippets(as_data(question), queries, list(first), passage_chars=passage_chars, room=room)
    return _with_texts(history, {passage: text or _NO_TEXT for passage, text in zip(first, texts, strict=True)})


def _safe(passage: Passage) -> Passage:
    # Made safe before it is cut: what is safe stays safe, but sentences of an unsafe text may grow.
    return Passage("", as_data(passage.title), as_data(passage.text))


def _with_texts(history: Sequence[Turn], texts: Mapping[Passage, str]) -> tuple[Turn, ...]:
    """Return the history with a text for each passage, where it is shown first."""
    left = dict(texts)
    return tuple(
        Turn(turn.query, tuple(Passage("", p.title, left.pop(p, _REPEATED)) for p in map(_safe, turn.passages)))
        for turn in history
    )


def shown_again(reply: str) -> str:
    """Return a model's reply made safe to be shown to the model again, at most 2,000 characters of it."""
    # A reply is untrusted too: it may repeat a passage, with control tokens of the chat. It is escaped line by line,
    # since the line breaks of its reasoning are worth keeping.
    return "\n".join(as_data(line) for line in clipped(reply, 2_000).splitlines())
