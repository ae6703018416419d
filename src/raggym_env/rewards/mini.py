"""A small trained process reward that ships with the package and needs NumPy alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, Answer, Passage, Search, State, Turn
from raggym_env.errors import RewardError, check_option
from raggym_env.rewards.features import FEATURES, feature_rows
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
        return _split(self._values(states, actions), actions)

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """Return one score in [-1 - search_cost, 1] per candidate; see `ProcessReward.score`."""
        values = self._values(states, actions)
        before, costs, end = [], [], 0
        for state, candidates, previous in zip(states, actions, self._previous_values(states), strict=True):
            before += [previous] * len(candidates)
            costs += [self.search_cost if isinstance(action, Search) else 0.0 for action in candidates]
            start, end = end, end + len(candidates)
            self._cache(state, candidates, values[start:end].tolist())
        return _split(values - np.array(before, np.float32) - np.array(costs, np.float32), actions)

    def _values(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> NDArray[np.float32]:
        """Return the values of all candidates of all states."""
        rows: list[tuple[float, ...]] = []
        lost = []  # searches that end the episode without an answer
        for state, candidates in zip(states, actions, strict=True):
            if not state.searches_left:
                pairs = enumerate(candidates, start=len(rows))
                lost += [at for at, action in pairs if isinstance(action, Search) and action.draft is None]
            rows += _rows(state, candidates)
        array = np.array(rows, np.float32).reshape(len(rows), len(FEATURES))
        # A few rows at a time: NumPy's matrix product of more is shared among threads, which for so small a network
        # wait for each other many times as long as they compute.
        parts = [logits(self._weights, array[at : at + _ROWS]) for at in range(0, len(rows), _ROWS)]
        # In float64 and rounded: the last bits of a matrix product depend on the number of rows.
        values = 1 / (1 + np.exp(-np.concatenate([np.zeros(0), *parts])))
        rounded: NDArray[np.float32] = values.round(6).astype(np.float32)
        rounded[lost] = 0.0
        return rounded

    def _previous_values(self, states: Sequence[State]) -> list[float]:
        """Return `q(s_{t-1}, a_{t-1})` of each state, the value of the last search before it; `start` at t = 0."""
        # The state before the last search. Not by `replace`, which takes three times as long.
        steps = [
            (State(state.question, state.history[:-1], state.searches_left + 1), state.history[-1].query)
            if state.history
            else None
            for state in states
        ]
        values: dict[tuple[State, str] | None, float] = {None: self.start}
        missing = []
        for step in steps:
            if step is not None and step not in values:
                cached = (self._search_values.use(_state_key(step[0])) or {}).get(step[1])
                values[step] = 0.0 if cached is None else cached
                if cached is None:
                    missing.append(step)
        searches = [[Search(query)] for _, query in missing]
        computed = self._values([state for state, _ in missing], searches).tolist() if missing else []
        for (state, query), search, value in zip(missing, searches, computed, strict=True):
            values[state, query] = value
            self._cache(state, search, [value])
        return [values[step] for step in steps]

    def _cache(self, state: State, actions: Sequence[Action], values: Sequence[float]) -> None:
        """Add the values of the searches to those cached for the state."""
        state_key = _state_key(state)
        cached = self._search_values.use(state_key)
        if cached is None:
            cached = self._search_values[state_key] = {}
        cached.update({a.query: q for a, q in zip(actions, values, strict=True) if isinstance(a, Search)})


def _split(values: NDArray[np.float32], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
    """Return the part of the values that belongs to each state's actions."""
    ends = itertools.accumulate(map(len, actions))
    return [values[end - len(row) : end] for row, end in zip(actions, ends, strict=True)]


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
    return np.array(_rows(state, actions), np.float32).reshape(len(actions), len(FEATURES))


def _rows(state: State, actions: Sequence[Action]) -> list[tuple[float, ...]]:
    if not state.searches_left:
        actions = [Answer(action.draft or "") if isinstance(action, Search) else action for action in actions]
    active = _without_idle(state)
    answers = [action for action in actions if isinstance(action, Answer)] if active is not state else []
    if not answers:
        return feature_rows(state, actions)
    of_searches = iter(feature_rows(state, [action for action in actions if isinstance(action, Search)]))
    of_answers = iter(feature_rows(active, answers))
    return [next(of_answers if isinstance(action, Answer) else of_searches) for action in actions]


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
