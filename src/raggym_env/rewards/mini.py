"""A small trained process reward that ships with the package and needs NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, Answer, Passage, Search, State, Turn
from raggym_env.errors import RewardError, check_option
from raggym_env.rewards.features import FEATURES, features
from raggym_env.storage.lru import LRU
from raggym_env.storage.parsing import parse_json, read_file

__all__ = ["WEIGHTS", "MiniReward", "inputs", "load_weights", "logits"]

WEIGHTS = Path(__file__).parent / "weights" / "mini.safetensors"
"""The weights that ship with the package."""

# States whose search values are cached; environments in a vector share one reward, and each needs its last state.
_CACHED_STATES = 4_096
_ROWS = 16
Weights = dict[str, NDArray[np.float32]]
_StateKey = tuple[str, tuple[str, ...], tuple[Turn, ...], int]


class MiniReward:
    """Rewards a step by how much it raises the expected value of the episode.

    A network with one hidden layer estimates the value `q(s, a)` in [0, 1] of taking an action: the evidence that will
    then be retrieved and the correctness of the answer, see `EvidenceValue`. It sees the `features` of state and
    action, never a gold answer or a supporting fact, and was trained on process data of training splits by
    `raggym train mini`. The reward of action `a_t` in state `s_t` is potential-based (Ng et al., 1999):

        r_t = q(s_t, a_t) - q(s_{t-1}, a_{t-1}) - search_cost * [a_t is a search]

    At the first step `start`, a constant, replaces the previous value. So the rewards of an episode add up to `q` of
    its last action, less `start` and the costs, whatever the network predicts on the way. Two rules keep an episode
    from raising that last value by padding:

    - An answer is valued in the state without its idle searches, those that retrieved nothing new, as if they had not
      been made. So a repeated query, or any other that retrieves nothing new, costs and gains nothing.
    - A search beyond the budget, which is not run and ends the episode, is valued as its draft is as an answer, or 0
      without a draft.

    Centering the scores of a state's candidates would not have this effect, since an environment scores only the
    action taken.

    Within a state the scores rank candidates as `q` does, less the cost of a search. They are comparable across states.

    Args:
        weights: A safetensors file made by `raggym train mini`; by default the one that ships.
        search_cost: Cost of a search, at least 0.

    Raises:
        OptionError: `search_cost` is out of range.
        RewardError: The file cannot be used.
    """

    def __init__(self, weights: str | Path | None = None, *, search_cost: float = 0.02) -> None:
        check_option("search_cost", search_cost, 0 <= search_cost < math.inf, "at least 0 and finite")
        self.search_cost = search_cost
        loaded, self.start = load_weights(Path(weights) if weights is not None else WEIGHTS)
        self._weights = {name: tensor.astype(np.float64) for name, tensor in loaded.items()}
        # Query -> value of the searches in the states scored last. An episode's next step needs the value of its last
        # search in the state before, which this saves computing twice.
        self._search_values = LRU[_StateKey, dict[str, float]](_CACHED_STATES)

    def values(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Return `q` in [0, 1] of every candidate of every state, with shapes as for `score`."""
        rows = [inputs(state, candidates) for state, candidates in zip(states, actions, strict=True)]
        if not rows:
            return []
        values = self._values(np.concatenate(rows))
        parts, end = [], 0
        for state, candidates in zip(states, actions, strict=True):
            start, end = end, end + len(candidates)
            # A copy, so that callers may change their part.
            part = values[start:end].copy()
            if not state.searches_left:
                # Such a search ends the episode without an answer.
                part[[isinstance(action, Search) and action.draft is None for action in candidates]] = 0.0
            parts.append(part)
        return parts

    def _values(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        # A few rows at a time: NumPy's matrix product of more is shared among threads, which for so small a network
        # wait for each other many times as long as they compute.
        parts = [logits(self._weights, rows[at : at + _ROWS]) for at in range(0, len(rows), _ROWS)]
        # In float64 and rounded: the last bits of a matrix product depend on the number of rows.
        values = 1 / (1 + np.exp(-np.concatenate(parts or [np.zeros(0)])))
        rounded: NDArray[np.float32] = values.round(6).astype(np.float32)
        return rounded

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Return one score in [-1 - search_cost, 1] per candidate; see `ProcessReward.score`."""
        values = self.values(states, actions)
        scores = []
        for state, candidates, value in zip(states, actions, values, strict=True):
            costs = [self.search_cost if isinstance(action, Search) else 0.0 for action in candidates]
            previous = self._previous_value(state)
            scores.append((value - previous - np.array(costs, np.float32)).astype(np.float32, copy=False))
            self._cache(state, candidates, value)
        return scores

    def _previous_value(self, state: State) -> float:
        """Return `q(s_{t-1}, a_{t-1})`, the value of the last search in the state before it; `start` at t = 0."""
        if not state.history:
            return self.start
        query = state.history[-1].query
        previous = replace(state, history=state.history[:-1], searches_left=state.searches_left + 1)
        values = self._search_values.use(_state_key(previous)) or {}
        if query not in values:
            search = [Search(query)]
            values = self._cache(previous, search, self.values([previous], [search])[0])
        return values[query]

    def _cache(self, state: State, actions: Sequence[Action], values: NDArray[np.float32]) -> dict[str, float]:
        """Add the values of the searches to those cached for the state, and return these."""
        state_key = _state_key(state)
        cached = self._search_values.use(state_key)
        if cached is None:
            cached = self._search_values[state_key] = {}
        cached.update({a.query: q for a, q in zip(actions, values.tolist(), strict=True) if isinstance(a, Search)})
        return cached


def _state_key(state: State) -> _StateKey:
    # All that a value depends on. Not the question's id, which a state read from an observation lacks.
    return state.question.text, state.question.options, state.history, state.searches_left


def logits(weights: Mapping[str, NDArray[Any]], rows: NDArray[np.float32]) -> NDArray[Any]:
    """Return the network's output before the logistic function, for each row of features."""
    hidden = np.tanh(rows @ weights["hidden.weight"].T + weights["hidden.bias"])
    output: NDArray[Any] = hidden @ weights["output.weight"] + weights["output.bias"]
    return output


def inputs(state: State, actions: Sequence[Action]) -> NDArray[np.float32]:
    """Return the features of each action in the state in which it is valued, for training and for use.

    Args:
        state: A running state.
        actions: `n` actions.

    Returns:
        float32 array of shape `(n, len(FEATURES))`.
    """
    if not state.searches_left:
        actions = [Answer(action.draft or "") if isinstance(action, Search) else action for action in actions]
    active = _without_idle(state)
    rows = features(state, actions)
    if active is state:
        return rows
    answers = [index for index, action in enumerate(actions) if isinstance(action, Answer)]
    rows[answers] = features(active, [actions[index] for index in answers])
    return rows


def _without_idle(state: State) -> State:
    """Return the state without the searches that retrieved nothing new, which are given back to the budget."""
    retrieved: set[Passage] = set()
    active = []
    for turn in state.history:
        if not retrieved.issuperset(turn.passages):
            active.append(turn)
            retrieved.update(turn.passages)
    idle = len(state.history) - len(active)
    return replace(state, history=tuple(active), searches_left=state.searches_left + idle) if idle else state


def load_weights(path: Path) -> tuple[Weights, float]:
    """Read a weights file.

    Returns:
        weights: The network's tensors by name.
        start: The value in [0, 1] at which an episode starts.

    Raises:
        RewardError: The file does not exist, is not a weights file, or was trained on other features.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not path.is_file():
        raise RewardError(f"No weights at {path}. `raggym train mini` makes such a file.")
    try:
        content = read_file(path)
        weights = {name: np.asarray(tensor, np.float32) for name, tensor in load(content).items()}
        # The library returns metadata from files only. It has just checked this header: its length, then JSON.
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata: Any = parse_json(header.get("__metadata__", {}).get("mini", "{}"))
    # KeyError, TypeError: NumPy lacks one of the types that a safetensors file can have.
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise RewardError(f"{path} is not a safetensors file of a mini reward: {error}") from error
    # The names, not only their number: columns in another order would give wrong scores and no error.
    if not isinstance(metadata, dict) or metadata.get("features") != list(FEATURES):
        raise RewardError(
            f"{path} was not trained on the {len(FEATURES)} features that this version computes. Train it again "
            "with `raggym train mini`, or use the weights that ship with the package."
        )
    hidden = weights["hidden.bias"].size if "hidden.bias" in weights else 0
    shapes = {
        "hidden.weight": (hidden, len(FEATURES)), "hidden.bias": (hidden,),
        "output.weight": (hidden,), "output.bias": (),
    }  # fmt: skip
    if {name: tensor.shape for name, tensor in weights.items()} != shapes:
        raise RewardError(f"{path} holds tensors of other shapes than a mini reward's: {sorted(weights)}.")
    start = metadata.get("start")
    finite = all(np.isfinite(tensor).all() for tensor in weights.values())
    if not isinstance(start, float) or not 0 <= start <= 1 or not finite:
        raise RewardError(f"{path} holds values that are not finite, or a start that is not in [0, 1]: {start!r}.")
    return weights, start
