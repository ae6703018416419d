"""Tagged text: `<search>query</search>`, `<information>passages</information>` and `<answer>text</answer>`.

The format of Search-R1 (arXiv:2503.09516). This module is the only place that writes it. All text inside a tag
is made safe by `untrusted.as_data`: a passage, a question or a query cannot look like an action, end the
section that it is in, or hold a control token of a chat template.
"""

from __future__ import annotations

import re

from raggym_env.core import Action, Answer, Search, State, as_action, option_letter
from raggym_env.errors import InvalidAction
from raggym_env.text.replies import LONGEST_REPLY, end_of_turn, is_end, reply_text
from raggym_env.text.untrusted import ACTION_CHARS, QUESTION_CHARS, as_data, clipped, passage_lines

__all__ = ["information", "own_length", "parse_tagged", "tagged_action", "tagged_text"]

# The text between the tags must hold no tag: of `<search>a <search>b</search>` only the last block counts. Nor may it
# hold what `reply_text` writes in place of reasoning (NUL) and of the end of a turn. The lookahead keeps the match
# linear, whatever a reply repeats.
_BLOCK = re.compile(r"<(search|answer)>((?:(?!</?(?:search|answer)>)[^\x00\x01])*)</\1>", re.DOTALL | re.IGNORECASE)


def parse_tagged(text: str) -> Action:
    """Return the action that a reply ends with: `<search>query</search>` or `<answer>text</answer>`.

    Only the end of the reply counts, so reasoning may mention tags before it. Control tokens, a fence and emphasis
    may follow. If the reply goes on into a search result or another turn that it invents, it ends before that; see
    `text.replies`.

    >>> parse_tagged("The director is unknown. <search>director of Ed Wood</search>")
    Search(query='director of Ed Wood', draft=None)

    Raises:
        InvalidAction: The reply does not end with such a block, or the block is blank.
    """
    block = _last_block(text)[0] if isinstance(text, str) else None
    if block is None:
        tail = repr(text[-200:] if isinstance(text, str) else text)
        raise InvalidAction(
            f"The text must end with <search>query</search> or <answer>text</answer>, got {tail:.1000}."
        )
    content = block[2].strip()
    return as_action(Search(content) if block[1].lower() == "search" else Answer(content))


def own_length(text: str) -> int | None:
    """Return the length of `visible(text)` up to an invented search result or turn; None without one."""
    return _last_block(text)[1]


def _last_block(text: str) -> tuple[re.Match[str] | None, int | None]:
    """Return the block that a reply ends with, and the offset where the reply goes on by itself after it."""
    own, unfinished = reply_text(text) if len(text) <= LONGEST_REPLY else ("", True)
    block: re.Match[str] | None = None
    for following in () if unfinished else _BLOCK.finditer(own):
        if block and (end := _turn_end(own, block, following.start())) is not None:
            return (block if is_end(own[:end], block.end()) else None), end
        block = following
    end = _turn_end(own, block, len(own)) if block else None
    return (block if block and is_end(own[:end], block.end()) else None), end


def _turn_end(text: str, block: re.Match[str], stop: int) -> int | None:
    return end_of_turn(text, block.end(), stop, search=block[1].lower() == "search")


def tagged_action(action: Action) -> str:
    """Return the action as `parse_tagged` reads it. The draft of a search is not written.

    >>> tagged_action(Search("who <search>me</search>"))
    '<search>who ‹search>me‹/search></search>'
    """
    if isinstance(action, Search):
        return f"<search>{clipped(as_data(action.query), QUESTION_CHARS)}</search>"
    return f"<answer>{clipped(as_data(action.text), QUESTION_CHARS)}</answer>"


def tagged_text(state: State) -> str:
    """Return the state as text: the question, then each search and its passages in `<information>`."""
    lines = [f"Question: {clipped(as_data(state.question.text), QUESTION_CHARS)}"]
    options = [clipped(as_data(text), ACTION_CHARS) for text in state.question.options]
    lines += [f"{option_letter(index)}. {text}" for index, text in enumerate(options)]
    for turn in state.history:
        passages = "\n".join(passage_lines(turn.passages))
        lines += [tagged_action(Search(turn.query)), f"<information>\n{passages}\n</information>"]
    lines.append(f"Searches left: {state.searches_left}")
    return "\n".join(lines)


def information(state: State, passage_chars: int) -> str:
    """Return the passages of the newest search in `<information>` tags, one line each, and the searches left.

    Nothing in a passage can look like a tag or a control token.
    """
    content = "\n".join(passage_lines(state.history[-1].passages, passage_chars)) or "nothing"
    return f"<information>\n{content}\n</information>\nSearches left: {state.searches_left}"
