"""Episodes as text for people: `render_mode` "ansi" and "human"."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from raggym_env.core import State, Turn, option_letter
from raggym_env.mdp.step_reward import Reward
from raggym_env.text.exits import for_terminal

__all__ = ["render_episode"]

_WIDTH = 100
_PASSAGE_CHARS = 240  # enough to see what a passage is about, three lines of a terminal
_TITLE_CHARS = 200
_TEXT_CHARS = 10_000


def render_episode(state: State, rewards: Sequence[Reward] = (), *, last: bool = False, width: int = _WIDTH) -> str:
    """Return the question, every search with its passages, and the end, as lines of at most `width` characters.

    Args:
        state: What to show.
        rewards: The rewards of the steps so far, oldest first; shown beside them.
        last: Show the newest step only.
        width: Columns at which texts are wrapped.
    """
    blocks = []
    if not last:
        blocks.append(_wrap("Question: ", state.question.text, width))
        blocks += [_wrap(f"  {option_letter(i)}. ", text, width) for i, text in enumerate(state.question.options)]
    ended = state.stop is not None
    for number, turn in enumerate(state.history, 1):
        if not last or (number == len(state.history) and not ended):
            blocks.append(_turn(number, turn, rewards, width))
    if ended:
        answer = "no answer" if state.answer is None else f"answer: {state.answer}"
        blocks.append(_wrap(f"Ended ({state.stop}), ", answer, width) + _reward(rewards, len(rewards) - 1))
    else:
        blocks.append(f"{state.searches_left} searches left")
    return "\n".join(blocks)


def _turn(number: int, turn: Turn, rewards: Sequence[Reward], width: int) -> str:
    lines = [_wrap(f"Search {number}: ", turn.query, width) + _reward(rewards, number - 1)]
    if not turn.passages:
        lines.append("  nothing found")
    for rank, passage in enumerate(turn.passages, 1):
        title = for_terminal(passage.title, length=_TITLE_CHARS)
        excerpt = textwrap.shorten(for_terminal(passage.text), _PASSAGE_CHARS, placeholder=" ...")
        lines.append(_wrap(f"  [{rank}] ", f"{title}: {excerpt}", width))
    return "\n".join(lines)


def _reward(rewards: Sequence[Reward], index: int) -> str:
    if not 0 <= index < len(rewards):
        return ""
    reward = rewards[index]
    return f"   reward {reward.total:+.3f} (outcome {reward.outcome:.3f}, process {reward.process_reward:+.3f})"


def _wrap(head: str, text: str, width: int) -> str:
    # Whole, however long a question is: it is read, and cut only where it would fill screens.
    text = for_terminal(text, length=_TEXT_CHARS)
    # Of a blank text, `fill` would drop the head too.
    return (
        textwrap.fill(text, max(width, len(head) + 10), initial_indent=head, subsequent_indent=" " * len(head))
        or head.rstrip()
    )
