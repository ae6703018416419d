"""Text on its way out: one function for each place that shows text. No exit of the library shows data without one.

    for_terminal     a line, or several, of a terminal, a log or an error message
    for_rich         a line or a table cell of Rich
    for_markdown     a table cell of Markdown, or a part of a line
    for_page         the data that a page of HTML embeds, and shows as text
    for_json         a JSON document for programs
    for_file_name    a part of a file's name

Prompts are the exit towards models: `raggym_env.text.untrusted.as_data`.

Titles, questions, names of cards and files, replies of models and messages of servers may be written by somebody who
wants to drive the terminal, forge a line of output, run a script on a page, or fill the screen. All functions drop
what a person cannot see and cut text of absurd length; each makes harmless what its place would read as structure.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from raggym_env.text.untrusted import clipped, visible

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["for_file_name", "for_json", "for_markdown", "for_page", "for_rich", "for_terminal"]

_LENGTH = 2_000  # characters: more than any honest line of output, and no more than a screen
_LINES = 1_000
_PAGE_LENGTH = 20_000  # characters of a line on a page: a model's whole reply may be one
_RAW = 500_000  # characters that are looked at: what is left of more is cut anyway

_LINE_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Each mark is drawn over the one before, across the lines above and below. No language stacks five of these.
_STACKED_MARKS = re.compile(
    r"([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u2de0-\u2dff\ufe20-\ufe2f]{4})"
    r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u2de0-\u2dff\ufe20-\ufe2f]+"
)
# Whatever opens an element of Markdown inside a line. Underscores within a word open nothing, and stay readable.
_MARKDOWN = re.compile(r"[\\`*~\[|<]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")
_ENTITIES = {"<": "&lt;", "&": "&amp;"}  # not by backslash, which HTML does not know


def for_terminal(value: object, *, lines: bool = False, length: int = _LENGTH) -> str:
    """Return the text of a value for a terminal: no control character, nothing invisible, nothing reordered.

    >>> for_terminal("Oslo\\x1b[2J\\nraggym: done")
    'Oslo[2J raggym: done'

    Args:
        value: A text, or anything that `str` makes a text of, such as a path or an exception.
        lines: Whether line breaks stay, all as "\\n". By default each is a space, so that data cannot forge a line.
        length: Maximum number of characters of a line.
    """
    text = str(value)
    if len(text) > _RAW:
        text = f"{text[:_RAW]}…"
    text = visible(_LINE_BREAK.sub("\n", text)).replace("\t", " ").replace("\x1f", " ")
    text = _STACKED_MARKS.sub(r"\1", text)
    if not lines:
        return clipped(text.replace("\n", " "), length)
    rows = text.split("\n")
    if (extra := len(rows) - _LINES) > 0:
        rows[_LINES:] = [f"… {extra:,} more lines"]
    return "\n".join(clipped(row, length) for row in rows)


def for_rich(value: object, style: str = "") -> Text:
    """Return a value for Rich, on one line. Rich reads no markup, such as `[/b]`, in a `Text`."""
    from rich.text import Text  # imported here, so that a library user does not load it

    return Text(for_terminal(value), style=style)


def for_markdown(value: object, *, length: int = 500) -> str:
    """Return a value as plain text of Markdown, for a table cell or a part of a line; not for the start of a line.

    >>> for_markdown("[a](b) | <img> single_search")
    '\\\\[a](b) \\\\| &lt;img> single_search'
    """
    text = " ".join(for_terminal(value, length=length).split())
    return _MARKDOWN.sub(lambda mark: _ENTITIES.get(mark[0], f"\\{mark[0]}"), text)


def for_page(value: Any) -> Any:
    """Return the data of a page, whose script shows texts as text: each without what nobody sees, keys included.

    >>> for_page({"titles": ["Oslo\\x1b[2J\\nNorway"]})
    {'titles': ['Oslo[2J\\nNorway']}
    """
    if isinstance(value, str):
        return for_terminal(value, lines=True, length=_PAGE_LENGTH)
    if isinstance(value, dict):
        return {for_page(key): for_page(inner) for key, inner in value.items()}
    return [for_page(inner) for inner in value] if isinstance(value, list | tuple) else value


def for_json(value: Any) -> str:
    """Return a JSON document in ASCII, every character that is not printable as an escape."""
    # DEL is the one control character that JSON does not escape.
    return json.dumps(value, indent=2, ensure_ascii=True).replace("\x7f", "\\u007f")


def for_file_name(value: object, *, length: int = 80) -> str:
    """Return a value as a part of a file's name: letters, digits, `.`, `+`, `-` and `_`, and no leading dot.

    >>> for_file_name("../a policy/1")
    '-a-policy-1'

    Args:
        value: A text, or anything that `str` makes a text of. Two values may give the same part.
        length: Maximum number of bytes.
    """
    name = re.sub(r"[^\w.+-]+", "-", str(value)).lstrip(".")
    return name.encode()[:length].decode(errors="ignore")
