"""A model's reply as a search or an answer, read strictly.

The reply's final section is what follows its last `</think>`. In it, a *block* is a JSON object or a pair of tags
that begins a line of its own:

    {"answer": "Oslo"}                              <answer>Oslo</answer>
    {"search": "Ada Berg", "draft": "Oslo"}         <draft>Oslo</draft>
                                                    <search>Ada Berg</search>

The last block counts. A line may begin with a label ("Answer:") or a code fence. A block in the middle of a
sentence is a quotation and does not count; nor does any block before one that cannot be read. Nothing is ever
completed, and nothing but the reply is looked at. The cost is linear in the reply's length.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from raggym_env.policies.prompt.lenient import LONGEST, Number, Refused, Value, read_object
from raggym_env.text.untrusted import one_line

__all__ = ["Failure", "Parsed", "Reason", "parse"]


class Reason(enum.StrEnum):
    """Why a reply is no action."""

    EMPTY = "empty"
    """There is no text in it."""
    UNFINISHED = "unfinished"
    """It ends inside its reasoning, a tag or an object."""
    NO_ACTION = "no_action"
    """It has no block, or its last object says neither "search" nor "answer"."""
    BROKEN = "broken"
    """Its last block cannot be read."""
    AMBIGUOUS = "ambiguous"
    """Its last block can be read in two ways: a search and an answer, or one inside another."""
    BLANK = "blank"
    """What it answers or searches for has no letter, digit or symbol."""
    NOT_TEXT = "not_text"
    """What it answers or searches for is no text: a list, an object, true."""
    TOO_LONG = "too_long"
    """What it answers or searches for is longer than `LONGEST_TEXT` characters."""
    TANGLED = "tangled"
    """It has more blocks than anybody means."""
    NO_DRAFT = "no_draft"
    """A search without the draft answer that this agent always gives."""
    NOT_ALLOWED = "not_allowed"
    """A search by an agent that does not search by itself."""
    NO_SEARCHES_LEFT = "no_searches_left"
    """A search without a draft answer when no search is left."""
    NO_REPLY = "no_reply"
    """The model failed; its reply was never seen."""
    OUTAGE = "outage"
    """The model could not be reached; another time it may be."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a reply is no action: the kind, and a sentence for people and for the model."""

    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a reply says to do. Exactly one of `answer` and `search` is a text."""

    answer: str | None = None
    search: str | None = None
    draft: str | None = None
    """The answer as far as it is known; only with `search`."""


LONGEST_TEXT = 2_000
"""Characters of the longest answer or query that is taken for one."""
_MOST_BLOCKS, _MOST_BROKEN = 64, 16
_ACTIONS = ("answer", "search")
_THINK = re.compile(r"<(/?)think>", re.IGNORECASE)
_TAG = re.compile(r"<(/?)(answer|search|draft)>", re.IGNORECASE)
# What may stand on a line before a block: a code fence, emphasis or a bullet, and a label.
_START = re.compile(
    r"^[ \t*`\-]{0,8}(?:json)?[ \t]{0,8}"
    r"(?:(?:final )?(?:answer|search|action|output|reply|json)[ \t*]{0,4}:[ \t*`]{0,8})?"
    r"(?:\{|<(answer|search|draft)>)",
    re.IGNORECASE | re.MULTILINE,
)
_REST_OF_LINE = re.compile(r"[ \t\r*`.,;]*+(?:\n|\Z)")
# Ahead of the last block these would mean that it was a part of something longer.
_LEFT_OPEN = re.compile(r"^[ \t]{0,8}[}\]]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Block:
    end: int
    content: Parsed | Failure
    aside: str | None = None
    """The text of a draft tag, which is no action by itself."""


def parse(reply: str) -> Parsed | Failure:
    """Read a reply. See the module for what counts.

    >>> parse('I know it.\\n{"answer": "Oslo"}')
    Parsed(answer='Oslo', search=None, draft=None)
    >>> print(parse("It is Oslo."))
    no_action: the reply has no JSON object and no tag that says "search" or "answer"
    """
    section = _final_section(reply)
    if isinstance(section, Failure):
        return section
    last: Parsed | Failure | None = None
    draft, end = None, 0
    for block in _blocks(section):
        end = block.end
        draft = block.aside or draft
        last = last if block.aside is not None else block.content
    if last is None:
        return _nothing(section)
    if isinstance(last, Failure):
        return last
    if _LEFT_OPEN.search(section, end) or _TAG.search(section, end):
        return Failure(Reason.BROKEN, "the last JSON object or tag of the reply is part of something unreadable")
    if last.search is not None and last.draft is None:
        return Parsed(search=last.search, draft=draft)
    return last


def _final_section(reply: str) -> str | Failure:
    if not reply.strip():
        return Failure(Reason.EMPTY, "the reply is empty")
    start, thinking = 0, False
    for tag in _THINK.finditer(reply):
        start, thinking = tag.end(), not tag[1]
    if thinking:
        return Failure(Reason.UNFINISHED, "the reply ends before its reasoning does")
    return reply[start:]


def _nothing(section: str) -> Failure:
    if _TAG.search(section):
        return Failure(Reason.BROKEN, "a tag does not stand on a line of its own, or is not closed")
    return Failure(Reason.NO_ACTION, 'the reply has no JSON object and no tag that says "search" or "answer"')


def _blocks(section: str) -> Iterator[_Block]:
    """The blocks in order; one that cannot be read is a block with a failure."""
    at = broken = 0
    for number, start in enumerate(_START.finditer(section)):
        if number >= _MOST_BLOCKS or broken >= _MOST_BROKEN:
            yield _Block(start.end(), Failure(Reason.TANGLED, "the reply has too many JSON objects or tags"))
            return
        if start.end() <= at:
            continue
        block = (
            _tag_block(section, start[1].lower(), start.end()) if start[1] else _json_block(section, start.end() - 1)
        )
        broken += isinstance(block.content, Failure)
        at = block.end
        yield block


def _json_block(section: str, start: int) -> _Block:
    try:
        found, length = read_object(section[start : start + LONGEST])
    except Refused as error:
        return _Block(start + 1, Failure(Reason.BROKEN, f"the JSON object cannot be read: {error}"))
    end = start + length
    if not _REST_OF_LINE.match(section, end):
        return _Block(end, Failure(Reason.BROKEN, "the JSON object is followed by text on its line"))
    return _Block(end, _from_object(found))


def _tag_block(section: str, name: str, start: int) -> _Block:
    closing = _TAG.search(section, start)
    if closing is None or not closing[1] or closing[2].lower() != name:
        return _Block(start, Failure(Reason.UNFINISHED, f"the tag {name} is not closed, or holds another tag"))
    stop, end = closing.span()
    if not _REST_OF_LINE.match(section, end):
        return _Block(end, Failure(Reason.BROKEN, f"the tag {name} is followed by text on its line"))
    text = _text(name, section[start:stop])
    if isinstance(text, Failure):
        return _Block(end, text)
    if text.startswith("{"):
        return _Block(end, Failure(Reason.AMBIGUOUS, f"the tag {name} holds a JSON object"))
    return _Block(end, _said(name, text), aside=text if name == "draft" else None)


def _said(name: str, text: str) -> Parsed:
    return Parsed(search=text) if name == "search" else Parsed(answer=text)


def _from_object(found: Mapping[str, Value]) -> Parsed | Failure:
    said = [name for name in _ACTIONS if found.get(name) is not None]
    if not said:
        return Failure(Reason.NO_ACTION, 'the JSON object says neither "search" nor "answer"')
    if len(said) > 1:
        return Failure(Reason.AMBIGUOUS, 'the JSON object says both "search" and "answer"')
    text = _text(said[0], found[said[0]])
    if isinstance(text, Failure):
        return text
    if said[0] == "answer" or found.get("draft") is None:
        return _said(said[0], text)
    draft = _text("draft", found["draft"])
    return draft if isinstance(draft, Failure) else Parsed(search=text, draft=draft)


def _text(name: str, value: Value) -> str | Failure:
    """The text of an answer, a query or a draft, on one line."""
    if isinstance(value, Number):
        return value.text
    if not isinstance(value, str):
        return Failure(Reason.NOT_TEXT, f"{name} must be a text, not {_kind(value)}")
    if len(value) > LONGEST_TEXT:
        return Failure(Reason.TOO_LONG, f"{name} is longer than {LONGEST_TEXT} characters")
    if _TAG.search(value):
        return Failure(Reason.AMBIGUOUS, f"{name} holds a tag")
    text = one_line(value)
    if not text.strip(" .…_-<>[]()\"'"):
        return Failure(Reason.BLANK, f"{name} is blank")
    return text


def _kind(value: Value) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
    return "true or false"
