"""Parses a model's reply strictly into a search or an answer.

The reply's final section is what follows its last `</think>`. In it, a *block* is a JSON object or a pair of tags
that begins a line of its own:

    {"answer": "Oslo"}                              <answer>Oslo</answer>
    {"search": "Ada Berg", "draft": "Oslo"}         <draft>Oslo</draft>
                                                    <search>Ada Berg</search>

The last block counts. A line may begin with a label ("Answer:") or a code fence. A block in the middle of a
sentence is a quotation and does not count; nor does any block before one that cannot be parsed. Nothing is ever
completed, and only the reply is read. The cost is linear in the reply's length.
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
    """Why a reply is not an action."""

    EMPTY = "empty"  # it has no text
    UNFINISHED = "unfinished"  # it ends inside its reasoning, a tag or an object
    NO_ACTION = "no_action"  # it has no block, or its last object has neither "search" nor "answer"
    BROKEN = "broken"  # its last block cannot be parsed
    AMBIGUOUS = "ambiguous"  # its last block has two readings: a search and an answer, or one inside another
    BLANK = "blank"  # the answer or the query has no letter, digit or symbol
    NOT_TEXT = "not_text"  # the answer or the query is not a text but a list, an object or a constant
    TOO_LONG = "too_long"  # the answer or the query is longer than `LONGEST_TEXT` characters
    TANGLED = "tangled"  # it has more blocks than a sensible reply
    NO_DRAFT = "no_draft"  # a search without the draft answer that this agent must give
    NOT_ALLOWED = "not_allowed"  # a search by an agent that does not write queries
    NO_SEARCHES_LEFT = "no_searches_left"  # a search without a draft answer when no search is left
    NO_REPLY = "no_reply"  # the model failed on this prompt and gave no reply
    OUTAGE = "outage"  # the model could not be reached; the same prompt may succeed later


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a reply is not an action: the kind, and a sentence for people and for the model."""

    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """The action of a reply. Exactly one of `answer` and `search` is a text."""

    answer: str | None = None
    search: str | None = None
    draft: str | None = None
    """The answer as far as it is known; only with `search`."""


LONGEST_TEXT = 2_000
"""Most characters of an answer, a query or a draft."""
# A broken object is parsed up to `LONGEST` characters before it is refused, so these bound the cost of a reply.
_MOST_BLOCKS, _MOST_BROKEN = 64, 16
_ACTIONS = ("answer", "search")
# Reasoning models think between these tags; an action that they consider there is not their reply.
_THINK = re.compile(r"<(/?)think>", re.IGNORECASE)
_TAG = re.compile(r"<(/?)(answer|search|draft)>", re.IGNORECASE)
# What a line may begin with before a block: a code fence, emphasis or a bullet, and a label.
_START = re.compile(
    r"^[ \t*`\-]{0,8}(?:json)?[ \t]{0,8}"
    r"(?:(?:final )?(?:answer|search|action|output|reply|json)[ \t*]{0,4}:[ \t*`]{0,8})?"
    r"(?:\{|<(answer|search|draft)>)",
    re.IGNORECASE | re.MULTILINE,
)
# What may follow a block on its line: a closing fence, emphasis, a full stop. Other text makes it a quotation.
_REST_OF_LINE = re.compile(r"[ \t\r*`.,;]*+(?:\n|\Z)")
# After the last block these mean that it was part of something longer.
_LEFT_OPEN = re.compile(r"^[ \t]{0,8}[}\]]", re.MULTILINE)


_Block = tuple[int, Parsed | Failure]
"""A JSON object or a pair of tags: the offset after it in the final section, and its content. A draft tag, which is
no action by itself, is `Parsed` with neither an answer nor a search."""


def parse(reply: str) -> Parsed | Failure:
    """Return the action of a reply, or why it has none. See the module for what counts.

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
    for end, content in _blocks(section):  # noqa: B007  # the end of the last block is needed below
        if isinstance(content, Parsed) and content.answer is None and content.search is None:
            draft = content.draft
        else:
            last = content
    if last is None and _TAG.search(section):
        return Failure(Reason.BROKEN, "a tag does not stand on a line of its own, or is not closed")
    if last is None:
        return Failure(Reason.NO_ACTION, 'the reply has no JSON object and no tag that says "search" or "answer"')
    if isinstance(last, Failure):
        return last
    if _LEFT_OPEN.search(section, end) or _TAG.search(section, end):
        return Failure(Reason.BROKEN, "the last JSON object or tag of the reply is part of something unreadable")
    # A draft may stand in a tag of its own, before or after the search.
    if last.search is not None and last.draft is None:
        return Parsed(search=last.search, draft=draft)
    return last


def _final_section(reply: str) -> str | Failure:
    """Return the part of the reply after its reasoning."""
    if not reply.strip():
        return Failure(Reason.EMPTY, "the reply is empty")
    # The last tag decides: a tokenizer may drop the opening one, and reasoning may quote either.
    start, thinking = 0, False
    for tag in _THINK.finditer(reply):
        start, thinking = tag.end(), not tag[1]
    if thinking:
        return Failure(Reason.UNFINISHED, "the reply ends before its reasoning does")
    return reply[start:]


def _blocks(section: str) -> Iterator[_Block]:
    """Yield the blocks in order; one that cannot be parsed is a block with a failure."""
    at = broken = 0
    for number, start in enumerate(_START.finditer(section)):
        if number >= _MOST_BLOCKS or broken >= _MOST_BROKEN:
            yield start.end(), Failure(Reason.TANGLED, "the reply has too many JSON objects or tags")
            return
        if start.end() <= at:  # inside the block before
            continue
        tag, after = start[1], start.end()
        at, content = _tag_block(section, tag.lower(), after) if tag else _json_block(section, after - 1)
        broken += isinstance(content, Failure)
        yield at, content


def _json_block(section: str, start: int) -> _Block:
    try:
        members, length = read_object(section[start : start + LONGEST])
    except Refused as error:
        return start + 1, Failure(Reason.BROKEN, f"the JSON object cannot be read: {error}")
    end = start + length
    if not _REST_OF_LINE.match(section, end):
        return end, Failure(Reason.BROKEN, "the JSON object is followed by text on its line")
    return end, _from_object(members)


def _tag_block(section: str, name: str, start: int) -> _Block:
    closing = _TAG.search(section, start)
    if closing is None or not closing[1] or closing[2].lower() != name:
        return start, Failure(Reason.UNFINISHED, f"the tag {name} is not closed, or holds another tag")
    stop, end = closing.span()
    if not _REST_OF_LINE.match(section, end):
        return end, Failure(Reason.BROKEN, f"the tag {name} is followed by text on its line")
    text = _text(name, section[start:stop])
    if isinstance(text, Failure):
        return end, text
    # <answer>{"answer": "Oslo"}</answer>: is the answer the text between the tags, or the one in the object?
    if text.startswith("{"):
        return end, Failure(Reason.AMBIGUOUS, f"the tag {name} holds a JSON object")
    return end, Parsed(**{name: text})


def _from_object(members: Mapping[str, Value]) -> Parsed | Failure:
    # null counts as absent: models fill in every key of a form that they were shown.
    actions = [name for name in _ACTIONS if members.get(name) is not None]
    if not actions:
        return Failure(Reason.NO_ACTION, 'the JSON object says neither "search" nor "answer"')
    if len(actions) > 1:
        return Failure(Reason.AMBIGUOUS, 'the JSON object says both "search" and "answer"')
    (name,) = actions
    text = _text(name, members[name])
    if isinstance(text, Failure):
        return text
    if name == "answer" or members.get("draft") is None:
        return Parsed(**{name: text})
    draft = _text("draft", members["draft"])
    return draft if isinstance(draft, Failure) else Parsed(search=text, draft=draft)


def _text(name: str, value: Value) -> str | Failure:
    """Return the text of an answer, a query or a draft, on one line."""
    if isinstance(value, Number):
        return value.text  # as it was written: 1.50 must not become 1.5
    if not isinstance(value, str):
        kind = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "true or false"
        return Failure(Reason.NOT_TEXT, f"{name} must be a text, not {kind}")
    if len(value) > LONGEST_TEXT:
        return Failure(Reason.TOO_LONG, f"{name} is longer than {LONGEST_TEXT} characters")
    if _TAG.search(value):
        return Failure(Reason.AMBIGUOUS, f"{name} holds a tag")
    # Line breaks and invisible characters mean nothing in an answer or a query, and would make equal ones differ.
    text = one_line(value)
    if not text.strip(" .…_-<>[]()\"'"):
        return Failure(Reason.BLANK, f"{name} is blank")
    return text
