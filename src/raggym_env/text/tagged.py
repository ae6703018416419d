"""Tagged text: `<search>query</search>`, `<information>found</information>` and `<answer>text</answer>`."""

from __future__ import annotations

import re

from raggym_env.core import Action, Answer, Search, State, as_action, option_letter
from raggym_env.errors import InvalidAction

__all__ = ["parse_tagged", "tagged_text"]

_BLOCK = re.compile(r"<(search|answer)>((?:(?!</?(?:search|answer)>).)*)</\1>\s*\Z", re.DOTALL)
_TAG = re.compile(r"<(?=/?(?:search|answer|information)\b)", re.IGNORECASE)


def parse_tagged(text: str) -> Action:
    """The action that a reply ends with: `<search>query</search>` or `<answer>text</answer>`.

    Only the end of the reply counts, so reasoning may mention tags before it.

    >>> parse_tagged("The director is unknown. <search>director of Ed Wood</search>")
    Search(query='director of Ed Wood', draft=None)

    Raises:
        InvalidAction: The reply does not end with such a block, or the block is blank.
    """
    found = _BLOCK.search(text) if isinstance(text, str) else None
    if found is None:
        shown = repr(text[-200:] if isinstance(text, str) else text)
        raise InvalidAction(f"The text must end with <search>query</search> or <answer>text</answer>, got {shown}.")
    content = found[2].strip()
    return as_action(Search(content) if found[1] == "search" else Answer(content))


def tagged_text(state: State) -> str:
    """The state as text: the question, then each search and its passages in `<information>`.

    Tags that occur inside the question or a passage are escaped, so nothing retrieved can look like an action.
    """
    lines = [f"Question: {_escape(state.question.text)}"]
    lines += [f"{option_letter(i)}. {_escape(text)}" for i, text in enumerate(state.question.options)]
    for turn in state.history:
        found = "\n".join(f"[{i}] {_escape(p.title)}: {_escape(p.text)}" for i, p in enumerate(turn.passages, 1))
        lines += [f"<search>{_escape(turn.query)}</search>", f"<information>\n{found}\n</information>"]
    lines.append(f"Searches left: {state.searches_left}")
    return "\n".join(lines)


def _escape(text: str) -> str:
    return _TAG.sub("&lt;", text)
