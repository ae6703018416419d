"""Parses a model's reply strictly into a search or an answer.

What `text.replies.reply_text` leaves of a reply, without its reasoning and the control tokens of chat templates, is
searched for *blocks*: a JSON object or a pair of tags that begins a line of its own:

    {"answer": "Oslo"}                              <answer>Oslo</answer>
    {"search": "Ada Berg", "draft": "Oslo"}         <draft>Oslo</draft>
                                                    <search>Ada Berg</search>

The last block counts. A line may begin with a label ("Answer:"), a bullet or a code fence. A block in the middle of a
sentence is a quotation and does not count; nor does any block before one that cannot be parsed, nor one that follows
an invented search result or turn, as `text.replies` says. Of a reply that was cut off at the token limit, a block
counts only if nothing follows it. A key whose value is null or blank is absent. Nothing is ever completed, and only
the reply is read. The cost is linear in the reply's length.

`Keys` are the keys of the object, for models that were trained to write others.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from raggym_env.errors import check_option
from raggym_env.text.lenient import LONGEST, Number, Refused, Value, read_object
from raggym_env.text.replies import LONGEST_REPLY, REST_OF_LINE, end_of_turn, is_end, reply_text
from raggym_env.text.untrusted import one_line, visible

__all__ = ["Failure", "Keys", "Parsed", "Reason", "own_part", "parse"]


class Reason(enum.StrEnum):
    """Why a reply is not an action."""

    EMPTY = "empty"  # it has no text
    UNFINISHED = "unfinished"  # it ends inside its reasoning or a tag, or was cut off behind its last block
    NO_ACTION = "no_action"  # it has no block, or its last object has neither "search" nor "answer"
    BROKEN = "broken"  # its last block cannot be parsed
    AMBIGUOUS = "ambiguous"  # its last block has two readings: a search and an answer, or one inside another
    BLANK = "blank"  # the answer or the query has no letter, digit or symbol
    NOT_TEXT = "not_text"  # the answer or the query is not a text but a list, an object or a constant
    TOO_LONG = "too_long"  # the answer, the query or the reply has too many characters
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


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a reply's JSON object, in lower case, since the case of a key does not count.

    An object with an answer and a search is ambiguous. Where `draft` is the same key as `answer`, it is a search with
    a draft, and a search for "None" is none: such models fill in both keys in every reply.

    Raises:
        OptionError: A key is blank or not in lower case, or that of a search is another one's too.
    """

    answer: str = "answer"
    search: str = "search"
    draft: str = "draft"

    def __post_init__(self) -> None:
        for name in ("answer", "search", "draft"):
            key = getattr(self, name)
            check_option(f"keys.{name}", key, key == key.strip().lower() != "", "in lower case, without outer spaces")
        distinct = self.search not in (self.answer, self.draft)
        check_option("keys.search", self.search, distinct, "another key than that of the answer and the draft")

    @classmethod
    def from_card(cls, content: Mapping[str, str]) -> Keys:
        """Read the keys of a card; those that it leaves out stay the usual ones."""
        names = [field.name for field in fields(cls)]
        check_option("keys", sorted(content), set(content) <= set(names), f"a table of {', '.join(names)}")
        return cls(**content)


DEFAULT_KEYS = Keys()
LONGEST_TEXT = 2_000
"""Most characters of an answer, a query or a draft."""
# A broken object is parsed up to `LONGEST` characters before it is refused, so these bound the cost of a reply.
_MOST_BLOCKS, _MOST_BROKEN = 64, 16
_ACTIONS = ("answer", "search")
_TAG = re.compile(r"<(/?)(answer|search|draft)>", re.IGNORECASE)
# What a line may begin with before a block: a bullet or a number, a code fence or emphasis, and a label.
_START = re.compile(
    r"^(?=[^\n{<]*+[{<])(?:[^\S\n]++|[*`~•\-\x01]){0,16}+(?:\d{1,2}[.)][^\S\n]++)?+(?:[*`~]){0,4}+(?:jsonc?|json5|xml)?[^\S\n]*+"
    r"(?:(?:final )?(?:answer|search|action|output|reply|response|assistant|json)[ \t*]{0,4}:[^\S\n]*+[*`]{0,8}"
    r"[^\S\n]*+)?(?:\{|<(answer|search|draft)>)",
    re.IGNORECASE | re.MULTILINE,
)
# What `reply_text` writes in place of reasoning and of the end of a turn.
_INTERRUPTED = re.compile(r"[\x00\x01]")
# After the last block these mean that it was part of something longer.
_LEFT_OPEN = re.compile(r"^[ \t]{0,8}[}\]]", re.MULTILINE)


class _Block(NamedTuple):
    """A JSON object or a pair of tags in the text of a reply."""

    start: int
    end: int
    content: Parsed | Failure
    """A draft tag, which is no action by itself, is `Parsed` with neither an answer nor a search."""

    @property
    def acts(self) -> bool:
        """Whether it is an action, or would be one if it could be parsed."""
        if isinstance(self.content, Failure):
            return self.content.reason != Reason.NO_ACTION
        return self.content.answer is not None or self.content.search is not None


class _Reading(NamedTuple):
    """What a reply says."""

    outcome: Parsed | Failure
    end: int | None = None
    """The offset in `visible(reply)` where an invented search result or turn begins; None if there is none."""


def parse(reply: str, finish: str | None = None, keys: Keys = DEFAULT_KEYS) -> Parsed | Failure:
    """Return the action of a reply, or why it has none. See the module for what counts.

    Args:
        reply: The text as the model wrote it, its reasoning included.
        finish: As `Completion.finish`: "length" means that the reply was cut off; None that nothing is known.
        keys: The keys of the JSON object.

    >>> parse('I know it.\\n{"answer": "Oslo"}')
    Parsed(answer='Oslo', search=None, draft=None)
    >>> print(parse("It is Oslo."))
    no_action: the reply has no JSON object and no tag that says "search" or "answer"
    """
    return _read(reply, finish, keys).outcome


def own_part(reply: str, keys: Keys = DEFAULT_KEYS) -> str:
    """Return a reply without what follows its action if that poses as a search result or as another turn.

    So what a model is trained on ends with the action that counted. `parse` reads the same action in it.
    """
    end = _read(reply, None, keys).end
    return reply if end is None else visible(reply)[:end].rstrip()


def _read(reply: str, finish: str | None, keys: Keys) -> _Reading:
    if len(reply) > LONGEST_REPLY:
        return _Reading(Failure(Reason.TOO_LONG, f"the reply is longer than {LONGEST_REPLY} characters"))
    text, unfinished = reply_text(reply)
    if not text.strip(" \n\t\x01"):
        return _Reading(Failure(Reason.EMPTY, "the reply is empty"))
    if unfinished:
        return _Reading(Failure(Reason.UNFINISHED, "the reply ends before its reasoning does"))
    last: _Block | None = None
    draft, early_draft, end, turn_end = None, None, 0, None
    settled = True  # whether nothing stands between the last action and the drafts behind it
    for block in _blocks(text, keys):
        if last and last.acts and (turn_end := _turn_end(text, last, block.start)) is not None:
            break
        if isinstance(block.content, Parsed) and not block.acts:
            draft = block.content.draft or draft
            settled = settled and is_end(text, end, block.start)
        elif not (last and isinstance(last.content, Parsed) and getattr(block.content, "reason", None) == Reason.BLANK):
            # A blank tag behind an action is the unused one of a form. A draft in a tag of its own belongs to the next
            # search, or after the last one to that.
            last, early_draft, draft, settled = block, draft, None, True
        end = block.end
    else:
        if last and last.acts:
            turn_end = _turn_end(text, last, len(text))
    text = text[:turn_end]
    outcome = _outcome(text, last, end, draft or early_draft, keys)
    # Where the model went on into another turn, its own one had ended before the limit.
    if finish == "length" and turn_end is None and isinstance(outcome, Parsed) and not (settled and is_end(text, end)):
        # The model might have revised it: nothing tells a tentative action from a final one.
        outcome = Failure(Reason.UNFINISHED, "the reply goes on after its last JSON object or tag")
    return _Reading(outcome, turn_end)


def _outcome(text: str, last: _Block | None, end: int, draft: str | None, keys: Keys) -> Parsed | Failure:
    """Return the outcome of a text, its last block and the draft in a tag; `end` is the offset after all blocks."""
    if last is None and _TAG.search(text):
        return Failure(Reason.BROKEN, "a tag does not stand on a line of its own, or is not closed")
    if last is None:
        names = f'"{keys.search}" or "{keys.answer}"'
        return Failure(Reason.NO_ACTION, f"the reply has no JSON object and no tag that says {names}")
    if isinstance(last.content, Failure):
        return last.content
    if _LEFT_OPEN.search(text, end) or _TAG.search(text, end):
        return Failure(Reason.BROKEN, "the last JSON object or tag of the reply is part of something unreadable")
    if last.content.search is not None and last.content.draft is None:
        return Parsed(search=last.content.search, draft=draft)
    return last.content


def _turn_end(text: str, block: _Block, stop: int) -> int | None:
    search = isinstance(block.content, Parsed) and block.content.search is not None
    return end_of_turn(text, block.end, stop, search=search)


def _blocks(text: str, keys: Keys) -> Iterator[_Block]:
    """Yield the blocks in order; one that cannot be parsed is a block with a failure."""
    at = broken = 0
    for number, match in enumerate(_START.finditer(text)):
        start, after = match.span()
        if number >= _MOST_BLOCKS or broken >= _MOST_BROKEN:
            yield _Block(start, after, Failure(Reason.TANGLED, "the reply has too many JSON objects or tags"))
            return
        if after <= at:  # inside the block before
            continue
        tag = match[1]
        at, content = _tag_block(text, tag.lower(), after) if tag else _json_block(text, after - 1, keys)
        broken += isinstance(content, Failure)
        yield _Block(start, at, content)


def _json_block(text: str, start: int, keys: Keys) -> tuple[int, Parsed | Failure]:
    """Return the offset after a JSON object, and its content."""
    try:
        members, length = read_object(text[start : start + LONGEST])
    except Refused as error:
        return start + 1, Failure(Reason.BROKEN, f"the JSON object cannot be read: {error}")
    end = start + length
    if not REST_OF_LINE.match(text, end):
        return end, Failure(Reason.BROKEN, "the JSON object is followed by text on its line")
    return end, _from_object(members, keys)


def _tag_block(text: str, name: str, start: int) -> tuple[int, Parsed | Failure]:
    """Return the offset after a pair of tags, and its content."""
    closing = _TAG.search(text, start)
    if (
        closing is None
        or not closing[1]
        or closing[2].lower() != name
        or _INTERRUPTED.search(text, start, closing.end())
    ):
        return start, Failure(Reason.UNFINISHED, f"the tag {name} is not closed, or holds another tag")
    stop, end = closing.span()
    if not REST_OF_LINE.match(text, end):
        return end, Failure(Reason.BROKEN, f"the tag {name} is followed by text on its line")
    value = _text(name, text[start:stop])
    if isinstance(value, Failure):
        blank_draft = name == "draft" and value.reason == Reason.BLANK
        return end, Parsed() if blank_draft else value
    # <answer>{"answer": "Oslo"}</answer>: is the answer the text between the tags, or the one in the object?
    if value.startswith("{") and ":" in value:
        return end, Failure(Reason.AMBIGUOUS, f"the tag {name} holds a JSON object")
    return end, Parsed(**{name: value})


def _from_object(members: Mapping[str, Value], keys: Keys) -> Parsed | Failure:
    values = {"answer": members.get(keys.answer), "search": members.get(keys.search)}
    fills_both = keys.draft == keys.answer
    if fills_both and isinstance(values["search"], str) and one_line(values["search"]).lower() == "none":
        values["search"] = None
    # Models fill in every key of a form that they were shown, those without a value with null or "".
    actions = [name for name in _ACTIONS if values[name] is not None]
    if not actions:
        return Failure(Reason.NO_ACTION, f'the JSON object says neither "{keys.search}" nor "{keys.answer}"')
    actions = [name for name in actions if not _is_blank(values[name])] or actions[:1]
    if len(actions) > 1 and not fills_both:
        return Failure(Reason.AMBIGUOUS, f'the JSON object says both "{keys.search}" and "{keys.answer}"')
    name = actions[-1]
    text = _text(getattr(keys, name), values[name])
    if isinstance(text, Failure):
        return text
    value = members.get(keys.draft)
    if name == "answer" or value is None or _is_blank(value):
        return Parsed(**{name: text})
    draft = _text(keys.draft, value)
    return draft if isinstance(draft, Failure) else Parsed(search=text, draft=draft)


def _is_blank(value: Value) -> bool:
    return isinstance(value, str) and not one_line(value).strip(" .…_-<>[]()\"'")


def _text(name: str, value: Value) -> str | Failure:
    """Return the text of an answer, a query or a draft, on one line."""
    if isinstance(value, Number):
        value = value.text  # as it was written: 1.50 must not become 1.5
    if not isinstance(value, str):
        kind = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "true or false"
        return Failure(Reason.NOT_TEXT, f"{name} must be a text, not {kind}")
    if len(value) > LONGEST_TEXT:
        return Failure(Reason.TOO_LONG, f"{name} is longer than {LONGEST_TEXT} characters")
    if _TAG.search(value):
        return Failure(Reason.AMBIGUOUS, f"{name} holds a tag")
    if _is_blank(value):
        return Failure(Reason.BLANK, f"{name} is blank")
    # Line breaks and invisible characters mean nothing in an answer or a query, and would make equal ones differ.
    return one_line(value)
