"""The first step of reading any text that a model wrote; every parser of model output begins with it.

`reply_text` returns what a model said in its own turn. Four things are taken out, each replaced by as many other
characters, so that places in the text stay what they were:

- invisible characters and byte order marks are dropped; every kind of line break becomes a line feed;
- reasoning: what stands in one of the brackets of `_NAMES` and `_OPENING` (`<think>`, `[THINK]`, the analysis channel).
  The last bracket decides, since a chat template may write the opening one and reasoning may quote either: a closing
  bracket without an opening one ends reasoning that began with the reply;
- control tokens of chat templates. One that opens a turn of the user, the system or a tool ends the text. One that
  ends the model's own turn, or opens another one of the model, is marked: what follows it counts only if no action
  comes before it. Any other is white space;
- nothing else: sections and labels stay, since reasoning may quote them.

A model that goes on by itself after its action writes what it expects to read next: a search result or another turn.
`end_of_turn` finds where that begins. The last action of a reply counts, as always, but never one behind that place,
since the fact it is drawn from was invented. It is looked for behind an action only, so quotations before the first
action do no harm. Tags (`<information>`), control tokens and `User:` are beyond doubt. A label that prose uses too
(`Observation:`, `[1]`) counts only behind a search, since only a search has a result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from raggym_env.text.lenient import LONGEST, Number, Refused, Value, read_object
from raggym_env.text.untrusted import visible

__all__ = [
    "LONGEST_REPLY",
    "REST_OF_LINE",
    "ReplyText",
    "clipped_middle",
    "end_of_turn",
    "is_end",
    "last_object",
    "prose",
    "reply_text",
    "stored",
    "with_reasoning",
]

LONGEST_REPLY = 2_000_000
"""Most characters of a reply that is parsed. A longer one is no reply of a sane model."""

LONGEST_STORED = 200_000
"""Most characters of a reply that is recorded."""

# Places where a reply may have gone on into another turn that a judge's reply is read up to.
_MOST_TURNS = 8

# -- reasoning ----------------------------------------------------------------------------------------------------

_NAMES = r"(?:think|thinking|thoughts?|reason|reasoning|reflect|reflection|analysis|scratchpad|inner_monologue)"
_SPACE = r"[_▁ ]"
# The message of a channel of the harmony format: `<|channel|>final <|constrain|>json<|message|>`.
_MESSAGE = r"[^<\n]{0,80}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>"
_OPENING = rf"""
    <(?:\w{{1,16}}:)?{_NAMES}(?:\s+[\w:-]+=[^<>]{{0,80}})?\s?>      # <think>, <seed:think>, <thinking type="deep">
  | \[THINK(?:ING)?\]                                               # Magistral
  | ◁{_NAMES}▷                                                      # Kimi
  | <[|｜](?:(?:start|begin){_SPACE}(?:of{_SPACE})?)?{_NAMES}(?:{_SPACE}(?:start|begin))?[|｜]>
  | <\|channel\|>\s?(?:analysis|commentary){_MESSAGE}               # harmony
  | <\|channel>\s?{_NAMES}                                          # Gemma
  | <\|start\|>assistant{_SPACE}to=self<\|message\|>
"""
_CLOSING = rf"""
    </(?:\w{{1,16}}:)?{_NAMES}\s?>
  | \[/(?:THINK(?:ING)?|THOUGHT|REASONING)\]
  | ◁/{_NAMES}▷
  | <[|｜](?:/|end{_SPACE}(?:of{_SPACE})?){_NAMES}[|｜]> | <[|｜]{_NAMES}{_SPACE}end[|｜]>
  | <\|channel\|>\s?final{_MESSAGE}
  | <channel\|>
  | <\|start\|>assistant{_SPACE}to=user<\|message\|>
"""
# The harmony format where a server dropped its control tokens: "analysisWe need ...assistantfinal{...}".
_BARE_START = re.compile(r"^analysis(?=[A-Z])", re.MULTILINE)
_BARE_END = re.compile(r"assistant(final|analysis|commentary)(?:json)?")

# -- control tokens -----------------------------------------------------------------------------------------------

_OWN_ROLE = r"(?:assistant|model|chatbot|bot|ai|gpt)"
_OTHER_ROLE = (
    r"(?:user|human|prompter|system|developer|observation|environment|ipython|tool|function"
    r"|(?:start[_▁])?(?:tool|function)[_▁](?:response|output|result)s?(?:[_▁](?:start|begin))?)"
)
_OPENS_TURN = (
    r"(?:<\|(?:im_start|start_header_id|header_start|start|turn|role_start|begin_of_turn)\|?>"
    r"|<start_of_turn>|<\|start_of_turn_token\|>|<extra_id_\d>)"
)
_END = (
    r"(?:im_end|im_sep|eo[tmdspa](?:_id|_token)?|end|end[_▁ ]?of[_▁ ]?(?:turn|text|sentence|utterance|message|assistant"
    r"|document|sequence|role|dialogue)(?:_token)?|return|call|stop)"
)
_TURN = rf"""
    {_OPENS_TURN}\s{{0,2}}(?:<\|)?{_OTHER_ROLE}(?:_token)?\b          # <|im_start|>user
  | <[|｜](?:im_)?{_OTHER_ROLE}(?:_token)?[|｜]> | \[\|{_OTHER_ROLE}\|\] | <_(?:user|system)>
  | <\|tool_response> | <[|｜]tool[_▁]outputs?[_▁]begin[|｜]>
  | \[INST\] | <<SYS>> | \[(?:TOOL_RESULTS|SYSTEM_PROMPT|AVAILABLE_TOOLS)\]
"""
_BREAK = rf"""
    {_OPENS_TURN}\s{{0,2}}(?:<\|)?{_OWN_ROLE}(?:_token)?\b(?:\|>)?(?![ ]to=(?:self|user)<)  # <|im_start|>assistant
  | <[|｜](?:im_)?{_OWN_ROLE}(?:_token)?[|｜]>(?:assistant(?=<))? | \[\|{_OWN_ROLE}\|\] | <_bot>
  | <[|｜]{_END}[|｜]> | \[\|{_END}\|\] | <(?:seed:)?{_END}> | <_end> | <turn\|>
  | </s> | \[/?EOS\] | \[/INST\] | \[e~\[
"""
_NEUTRAL = r"""
    <[|｜][^<>|｜\n]{1,48}[|｜]> | <\|(?:turn|channel|tool_call|tool)> | <(?:tool_call|tool_response|tool)\|>
  | <(?:pad|unk|bos|sop|seed:bos|unused\d{1,5}|start_of_turn)> | \[BOS\] | \[gMASK\]
  # These are elements of HTML too, and may be an answer.
  | (?<!["'“\w])(?<!<answer>)(?<!<search>)(?<!<draft>)</?(?:s|response|output)>
"""
_MARK = re.compile(
    # The lookaheads rule out nearly every place of a reply at once, the tags of actions among them.
    rf"""(?=<(?:[/|｜]{{0,2}}[_a-z]|<)|◁/?[a-z]|\[[|/]?[a-z])(?!</?(?:answer|search|draft)>)
    (?:(?P<opening>{_OPENING})|(?P<closing>{_CLOSING})|(?P<turn>{_TURN})
    |(?P<break>(?:(?:{_BREAK})\s*+)+)|(?P<neutral>(?:{_NEUTRAL})+))""",
    re.IGNORECASE | re.VERBOSE,
)
# `visible` drops control characters, so that these two stand in no reply. No text of an action may hold one.
_REASONED, _TURN_ENDS = "\x00", "\n\x01"
_LINE_BREAKS = str.maketrans(dict.fromkeys("\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", "\n"))

# -- what a model writes when it goes on by itself ----------------------------------------------------------------

_SECTIONS = (
    r"(?:passages?|information|notes?|results?|search[_-]?results?|retrieved[\w-]*|documents?|docs?|observations?|context"
    r"|snippets?|(?:tool|function)[_-](?:response|output|result)s?|output|question|user|human|system)"
)
_LABELS = (
    r"(?:observation|passage|document|doc|source|snippet|result)s?[ ]?\#?\d{0,3}"
    r"|(?:search|retrieved|retrieval|tool)[ ](?:result|response|passage|output|document)s?[ ]?\d{0,3}"
    r"|information|context|evidence"
)
_INVENTED = re.compile(
    rf"""
    \n\x01
  | (?<=[>}}\]])[^\S\n]*+<{_SECTIONS}(?=[\s>/])
  | ^[^\S\n]*+(?=[<*\#_>\[a-z]) (?:
        <{_SECTIONS}(?=[\s>/])
      | [*\#_]{{0,4}}[ ]?(?:user|human|system|question)[*_]{{0,3}}[ ]?:
      | \#{{1,4}}[ ]?(?:instruction|input|user|human|question)\b
      | (?P<label> [*\#_>]{{0,4}}[ ]?(?:{_LABELS})[*_]{{0,3}}[ ]?: | \[\d{{1,3}}\][ ]?\S )
    )
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
REST_OF_LINE = re.compile(rf"(?:[^\S\n]|[`*~.,;])*+(?:\n|\Z|(?=<{_SECTIONS}[\s>/]))", re.IGNORECASE)
"""What may follow an action on its line: a closing fence, emphasis, a full stop, or a section posing as a result."""
_NOTHING = re.compile(r"[\s`*~.,;\x01]*+\Z")


class ReplyText(NamedTuple):
    """What a model said in its own turn."""

    text: str
    """The reply without reasoning and control tokens; as long as `visible(reply)` unless another turn was cut off."""
    unfinished: bool
    """True if it ends inside its reasoning."""


def reply_text(reply: str) -> ReplyText:
    """Return what a model said in its own turn. See the module for what is taken out.

    >>> reply_text('<think>Norway.</think>{"answer": "Oslo"}<|im_end|>').text.strip("\\n\\x00\\x01 ")
    '{"answer": "Oslo"}'
    """
    text = _BARE_START.sub("<think> ", visible(reply).translate(_LINE_BREAKS))
    if "assistant" in text:
        text = _BARE_END.sub(lambda mark: ("</think>" if mark[1] == "final" else "<think>").ljust(len(mark[0])), text)
    blanks: list[tuple[int, int, str]] = []
    opened: int | None = None
    for mark in _MARK.finditer(text):
        start, end = mark.span()
        match mark.lastgroup:
            case "opening":
                opened = start if opened is None else opened
            case "closing" if opened is None:
                blanks = [(0, end, _REASONED)]
            case "closing":
                blanks.append((opened or 0, end, _REASONED))
                opened = None
            case kind if opened is None:
                if kind == "turn":
                    return ReplyText(_blanked(text[:start], blanks) + _TURN_ENDS, unfinished=False)
                blanks.append((start, end, _TURN_ENDS if kind == "break" else " "))
    return ReplyText(_blanked(text, blanks), unfinished=opened is not None)


def _blanked(text: str, blanks: Sequence[tuple[int, int, str]]) -> str:
    pieces, at = [], 0
    for start, end, filler in blanks:
        # Line feeds at both ends: a block that follows reasoning begins a line.
        line = f"\n{filler}\n" if filler == _REASONED else filler
        pieces += [text[at:start], line.ljust(end - start)]
        at = end
    return "".join([*pieces, text[at:]])


def end_of_turn(text: str, start: int, end: int, *, search: bool) -> int | None:
    """Return where text that poses as a search result or as another turn begins; None if there is none.

    Args:
        text: The text of a `ReplyText`.
        start: The offset after an action.
        end: The offset before the next one, or the text's length.
        search: Whether that action is a search, and so has a result.
    """
    for match in _INVENTED.finditer(text, start, end):
        if search or match["label"] is None:
            return match.start()
    return None


def is_end(text: str, offset: int, stop: int | None = None) -> bool:
    """Return whether nothing but white space, a closing fence, emphasis or a full stop stands between two offsets."""
    return _NOTHING.match(text, offset, len(text) if stop is None else stop) is not None


def with_reasoning(text: str, reasoning: str, finish: str | None) -> str:
    """Return a reply as the model wrote it, where a server returned its reasoning apart.

    Without a text, a finished reply is the reasoning itself: a server that waits for a closing bracket files a reply
    without one as reasoning.
    """
    if not reasoning.strip():
        return text
    if text.strip():
        return f"<think>\n{reasoning}\n</think>\n\n{text}"
    if finish != "length":
        return reasoning
    opened = f"<think>\n{reasoning}"
    # Reasoning that holds a closing bracket, or another turn, is reasoning all the same.
    return opened if reply_text(opened).unfinished else "<think>\n" + _BARE_END.sub(" ", _MARK.sub(" ", reasoning))


def prose(reply: str) -> str:
    """Return a reply that is read by people or models, not parsed: what was said after its reasoning.

    Of a reply that ends inside its reasoning that is the reasoning, and of any other what comes before another turn.
    A reply without reasoning and control tokens is returned as it is.
    """
    spoken = reply_text(clipped_middle(reply, LONGEST_REPLY))
    if spoken.unfinished or not any(mark in spoken.text for mark in (_REASONED, _TURN_ENDS)):
        return reply
    own = spoken.text.rpartition(_REASONED)[2].lstrip()
    before, _, _ = own.partition(_TURN_ENDS)
    return (before or own).strip(" \n\x01") or reply


def stored(reply: str) -> str:
    """Return a reply as it is recorded: whole, or without its middle where it is longer than 200,000 characters.

    Its end is recorded in any case, since the action stands there.
    """
    return clipped_middle(reply, LONGEST_STORED)


def clipped_middle(text: str, length: int) -> str:
    """Return the text with at most `length` of its characters, from both ends; a mark says how many are left out."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"


def last_object(reply: str, key: str) -> dict[str, Any] | None:
    """Return the object with a key that a reply ends with, by the leniency of `lenient`; None if there is none.

    It may stand anywhere in its line. Only a closing fence, emphasis or a full stop may follow it, or text that poses
    as another turn. Numbers are Python's.

    >>> last_object('Because.\\n{"ranking": [2, 1]}', "ranking")
    {'ranking': [2, 1]}
    """
    spoken = reply_text(clipped_middle(reply, LONGEST_REPLY))
    if spoken.unfinished:
        return None
    turns = [match.start() for match in _INVENTED.finditer(spoken.text) if match["label"] is None]
    start = 0
    for end in (*turns[:_MOST_TURNS], len(spoken.text)):
        # An object that is longer than `LONGEST` is refused anyway, so the cost does not grow with the reply.
        window = spoken.text[max(start, end - LONGEST) : end]
        if (value := _object_at_end(window, key)) is not None:
            return value
        start = end
    return None


def _object_at_end(text: str, key: str) -> dict[str, Any] | None:
    at = text.find("{")
    while at >= 0:
        try:
            members, length = read_object(text[at:])
        except Refused:
            length = 1  # an object may begin inside of what is none
        else:
            if key in members and is_end(text, at + length):
                return {name: _plain(value) for name, value in members.items()}
        at = text.find("{", at + length)
    return None


def _plain(value: Value) -> Any:
    if isinstance(value, Number):
        return int(value.text) if value.text.lstrip("+-").isdigit() else float(value.text)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value
