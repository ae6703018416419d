"""Episodes as text for people: `render_mode` "ansi" and "human"."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from raggym_env.core import State, Turn, option_letter
from raggym_env.mdp.step_reward import Reward

__all__ = ["printable", "render_episode"]

_WIDTH = 100
_PASSAGE_CHARS = 240  # enough to see what a passage is about, three lines of a terminal


def printable(text: str) -> str:
    """Return the text without control characters, so that a passage cannot drive the terminal that shows it."""
    return "".join(char if char.isprintable() else " " for char in text)


def render_episode(state: State, rewards: Sequence[Reward] = (), *, last: bool = False) -> str:
    """Return the question, every search with its passages, and the end, as lines of at most 100 characters.

    Args:
        state: What to show.
        rewards: The rewards of the steps so far, oldest first; shown beside them.
        last: Show the newest step only.
    """
    blocks = []
    if not last:
        blocks.append(_wrap("Question: ", state.question.text))
        blocks += [_wrap(f"  {option_letter(i)}. ", text) for i, text in enumerate(state.question.options)]
    ended = state.stop is not None
    for number, turn in enumerate(state.history, 1):
        if not last or (number == len(state.history) and not ended):
            blocks.append(_turn(number, turn, rewards))
    if ended:
        answer = "no answer" if state.answer is None else f"answer: {printable(state.answer)}"
        blocks.append(f"Ended ({state.stop}), {answer}{_reward(rewards, len(rewards) - 1)}")
    else:
        blocks.append(f"{state.searches_left} searches left")
    return "\n".join(blocks)


def _turn(number: int, turn: Turn, rewards: Sequence[Reward]) -> str:
    lines = [_wrap(f"Search {number}: ", turn.query) + _reward(rewards, number - 1)]
    if not turn.passages:
        lines.append("  nothing found")
    for rank, passage in enumerate(turn.passages, 1):
        excerpt = textwrap.shorten(printable(passage.text), _PASSAGE_CHARS, placeholder=" ...")
        lines.append(_wrap(f"  [{rank}] ", f"{passage.title}: {excerpt}"))
    return "\n".join(lines)


def _reward(rewards: Sequence[Reward], index: int) -> str:
    if not 0 <= index < len(rewards):
        return ""
    reward = rewards[index]
    return f"   reward {reward.total:+.3f} (outcome {reward.outcome:.3f}, process {reward.process_reward:+.3f})"


def _wrap(head: str, text: str) -> str:
    return textwrap.fill(
        printable(text), _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False
    )
