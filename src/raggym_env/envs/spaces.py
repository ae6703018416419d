"""The observation and action spaces of the question-answering environments."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten, flatten_space, unflatten
from gymnasium.vector.utils import create_shared_memory

from raggym_env.core import Action, Obs, State

__all__ = ["UnicodeText", "action_space", "observation_space", "observe"]

_MAX_LENGTH = 2**20  # no page of Wikipedia comes near it; it only has to be finite
_SAMPLED_LENGTH = 24
# A few scripts, so that what is tried with samples meets more than ASCII.
_SAMPLED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789äéñøčжλ中文"


class UnicodeText(spaces.Text):
    """Any string of `min_length` to `max_length` characters, in any script.

    `gymnasium.spaces.Text` enumerates its characters, which no list of questions and web passages survives. Here
    membership is a matter of length alone; samples are short and drawn from a few scripts.
    """

    def __init__(self, max_length: int = _MAX_LENGTH, *, min_length: int = 0, seed: Any = None) -> None:
        super().__init__(max_length, min_length=min_length, charset=_SAMPLED, seed=seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        if mask is None and probability is None:
            # Without a mask Gymnasium draws lengths up to `max_length`: texts of a megabyte.
            longest = min(self.max_length, max(_SAMPLED_LENGTH, self.min_length))
            mask = (int(self.np_random.integers(self.min_length, longest + 1)), None)
        return super().sample(mask, probability)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a text is no vector."""
        return False

    def __repr__(self) -> str:
        return f"UnicodeText({self.min_length}, {self.max_length})"


# Gymnasium would flatten a text into a megabyte of numbers by a list of characters that no real text keeps to, and
# share it between processes in the same form. Here it stays a text, as what has no fixed size stays what it is there.


@flatten_space.register
def _flatten_text_space(space: UnicodeText) -> Any:
    return space


@flatten.register
@unflatten.register
def _same_text(space: UnicodeText, x: str) -> Any:  # type: ignore[misc]  # the type of `unflatten` has a free variable
    return x


@flatdim.register
def _no_dimension(space: UnicodeText) -> int:
    raise ValueError(
        f"{space} cannot be flattened to a vector of a fixed size. CandidateActions makes vectors of an environment."
    )


@create_shared_memory.register
def _no_shared_memory(space: UnicodeText, n: int = 1, ctx: Any = None) -> Any:
    raise TypeError("Texts of any length have no shared memory: make AsyncVectorEnv(..., shared_memory=False).")


def observation_space(max_searches: int) -> spaces.Dict:
    """`Dict(question, options, history, searches_left)`.

    `history` is a sequence of turns `(query, passages)`, oldest first, and `passages` one of
    `(id, title, text)`, best first: the named tuples `Turn` and `Passage`.
    """
    passage = spaces.Tuple((UnicodeText(), UnicodeText(), UnicodeText()))
    turn = spaces.Tuple((UnicodeText(), spaces.Sequence(passage)))
    return spaces.Dict(
        question=UnicodeText(),
        options=spaces.Sequence(UnicodeText()),
        history=spaces.Sequence(turn),
        searches_left=spaces.Discrete(max_searches + 1),
    )


def action_space() -> spaces.OneOf[Any]:
    """`OneOf((query, answer))`: element `(0, query)` searches, element `(1, answer)` answers."""
    return spaces.OneOf((UnicodeText(min_length=1), UnicodeText(min_length=1)))


def observe(state: State) -> Obs:
    """The observation of a state. A new dictionary each time; its tuples and strings are the state's own."""
    return {
        "question": state.question.text,
        "options": state.question.options,
        "history": state.history,
        "searches_left": np.int64(state.searches_left),  # what `Discrete.contains` accepts without a warning
    }


ActType = Action | tuple[int, str]
