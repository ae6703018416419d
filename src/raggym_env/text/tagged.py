"""Tagged text: `<search>query</search>`, `<information>passages</information>` and `<answer>text</answer>`.

The format of Search-R1 (arXiv:2503.09516). This module is the only place that writes it. All text inside a tag
is made safe by `untrusted.as_data`: a passage, a question or a query cannot look like an action, end the
section that it is in, or hold a control token of a chat template.
"""

from __future__ import annotations

import re

from raggym_env.core import Action, Answer, Search, State, as_action, option_letter
from raggym_env.errors import InvalidAction
from raggym_env.text.untrusted import as_data, passage_lines

__all__ = ["parse_tagged", "tagged_action", "tagged_text"]

# The text between the tags must hold no tag: of `<search>a <search>b</search>` only the last block counts. The
# lookahead keeps the match linear, whatever a reply repeats.
_BLOCK = re.compile(r"<(search|answer)>((?:(?!</?(?:search|answer)>).)*)</\1>\s*\Z", re.DOTALL)


def parse_tagged(text: str) -> Action:
    """Return the action that a reply ends with: `<search>query</search>` or `<answer>text</answer>`.

    Only the end of the reply counts, so reasoning may mention tags before it.

    >>> parse_tagged("The director is unknown. <search>director of Ed Wood</search>")
    Search(query='director of Ed Wood', draft=None)

    Raises:
        InvalidAction: The reply does not end with such a block, or the block is blank.
    """
    block = _BLOCK.search(text) if isinstance(text, str) else None
    if block is None:
        tail = repr(text[-200:] if isinstance(text, str) else text)
        raise InvalidAction(f"The text must end with <search>query</search> or <answer>text</answer>, got {tail}.")
    content = block[2].strip()
    return as_action(Search(content) if block[1] == "search" else Answer(content))


def tagged_action(action: Action) -> str:
    """Return the action as `parse_tagged` reads it. The draft of a search is not written.

    >>> tagged_action(Search("who <search>me</search>"))
    '<search>who ‹search>me‹/search></search>'
    """
    if isinstance(action, Search):
        return f"<search>{as_data(action.query)}</search>"
    return f"<answer>{as_data(action.text)}</answer>"


def tagged_text(state: State) -> str:
    """Return the state as text: the question, then each search and its passages in `<information>`."""
    lines = [f"Question: {as_data(state.question.text)}"]
    lines += [f"{option_letter(index)}. {as_data(text)}" for index, text in enumerate(state.question.options)]
    for turn in state.history:
        passages = "\n".join(passage_lines(turn.passages))
        lines += [tagged_action(Search(turn.query)), f"<information>\n{passages}\n</information>"]
    lines.append(f"Searches left: {state.searches_left}")
    return "\n".join(lines)
