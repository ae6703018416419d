"""The small trained process reward that comes with the package and runs on NumPy alone."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, Answer, Passage, Search, State, Turn
from raggym_env.errors import OptionError, RewardError
from raggym_env.rewards.features import FEATURES, features

__all__ = ["WEIGHTS", "MiniReward", "inputs", "load_weights", "logits"]

WEIGHTS = Path(__file__).parent / "weights" / "mini.safetensors"
"""The weights that ship with the package."""

_KNOWN = 4_096
Weights = dict[str, NDArray[np.float32]]
_Seen = tuple[str, tuple[str, ...], tuple[Turn, ...], int]


class MiniReward:
    """Rewards a step by how much it raises what the episode is expected to be worth.

    A network with one hidden layer estimates the value `q(s, a)` in [0, 1] of taking an action: how much of the
    evidence will then be at hand, and how right the answer will be. It sees the `features` of state and action,
    never a gold answer or a supporting fact, and was trained on process data of training splits by
    `raggym train mini`. The reward of action `a_t` in state `s_t` is potential-based (Ng et al., 1999):

        r_t = q(s_t, a_t) - q(s_{t-1}, a_{t-1}) - search_cost * [a_t is a search]

    with `start`, a constant, in the place of the past value at the first step. So the rewards of an episode add up
    to `q` of its last action, less `start` and the costs, whatever the network believes on the way. Two rules keep
    that last value from rising by padding:

    - an answer is valued in the state without its idle searches, those that found nothing new, as if they had not
      been made. So making a query again, or any other that finds what was found before, costs and gains nothing;
    - a search beyond the budget, which is not run and ends the episode, is valued as its draft is as an answer, or 0
      without a draft.

    Centring the scores of a state's candidates would not do: an environment scores the one action that was taken.

    Within a state the scores rank candidates as `q` does, less the cost of a search. They compare across states.

    Args:
        weights: A safetensors file made by `raggym train mini`; by default the one that ships.
        search_cost: What a search costs, 0 or more.

    Raises:
        RewardError: The file cannot be used.
    """

    def __init__(self, weights: str | Path | None = None, *, search_cost: float = 0.02) -> None:
        if not 0 <= search_cost < math.inf:
            raise OptionError(f"search_cost must be 0 or more, got {search_cost}.")
        self.search_cost = search_cost
        loaded, self.start = load_weights(Path(weights) if weights is not None else WEIGHTS)
        self._weights = {name: tensor.astype(np.float64) for name, tensor in loaded.items()}
        # Values of the searches in the states scored last, so that an episode computes each once.
        self._known: OrderedDict[_Seen, dict[str, float]] = OrderedDict()

    def values(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """`q` in [0, 1] of every candidate of every state, with shapes as for `score`."""
        rows = [inputs(state, candidates) for state, candidates in zip(states, actions, strict=True)]
        if not rows:
            return []
        # In float64 and rounded: a product of matrices depends in its last bits on how many rows it has.
        values = 1 / (1 + np.exp(-logits(self._weights, np.concatenate(rows))))
        values = values.round(6).astype(np.float32)
        parts, end = [], 0
        for state, candidates in zip(states, actions, strict=True):
            start, end = end, end + len(candidates)
            # A copy, as the parts are their receivers' own.
            part = values[start:end].copy()
            if not state.searches_left:
                part[[_ends_without_answer(action) for action in candidates]] = 0.0
            parts.append(part)
        return parts

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """One score in [-1 - search_cost, 1] per candidate; see `ProcessReward.score`."""
        values = self.values(states, actions)
        scores = []
        for state, candidates, value in zip(states, actions, values, strict=True):
            costs = [self.search_cost if isinstance(action, Search) else 0.0 for action in candidates]
            scores.append((value - self._before(state) - np.array(costs, np.float32)).astype(np.float32, copy=False))
            self._remember(_seen(state), candidates, value)
        return scores

    def _before(self, state: State) -> float:
        """The value of the search that led to a state, as it was in the state before."""
        if not state.history:
            return self.start
        query = state.history[-1].query
        before = replace(state, history=state.history[:-1], searches_left=state.searches_left + 1)
        known = self._known.get(_seen(before), {})
        if query not in known:
            search = [Search(query)]
            known = self._remember(_seen(before), search, self.values([before], [search])[0])
        return known[query]

    def _remember(self, seen: _Seen, actions: Sequence[Action], values: NDArray[np.float32]) -> dict[str, float]:
        known = self._known.setdefault(seen, {})
        known.update({a.query: q for a, q in zip(actions, values.tolist(), strict=True) if isinstance(a, Search)})
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return known


def _seen(state: State) -> _Seen:
    """All that a value depends on: not the question's id, which a state read from an observation lacks."""
    return state.question.text, state.question.options, state.history, state.searches_left


def logits(weights: Mapping[str, NDArray[Any]], rows: NDArray[np.float32]) -> NDArray[Any]:
    """The network's output before the logistic function, for each row of features."""
    hidden = np.tanh(rows @ weights["hidden.weight"].T + weights["hidden.bias"])
    output: NDArray[Any] = hidden @ weights["output.weight"] + weights["output.bias"]
    return output


def inputs(state: State, actions: Sequence[Action]) -> NDArray[np.float32]:
    """The features of each action in the state that it is valued in, as the network is trained on them and used.

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


def _ends_without_answer(action: Action) -> bool:
    """Whether an action ends the episode without one, in a state with no search left."""
    return isinstance(action, Search) and action.draft is None


def _without_idle(state: State) -> State:
    """The state as it would be without the searches that found nothing new, which are given back to the budget."""
    found: set[Passage] = set()
    active = []
    for turn in state.history:
        if not found.issuperset(turn.passages):
            active.append(turn)
            found.update(turn.passages)
    idle = len(state.history) - len(active)
    return replace(state, history=tuple(active), searches_left=state.searches_left + idle) if idle else state


def load_weights(path: Path) -> tuple[Weights, float]:
    """The tensors of a weights file, and the value at which an episode starts.

    Raises:
        RewardError: There is no such file, or it is none of this kind, or was trained on other features.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RewardError(f"No weights at {path}. `raggym train mini` makes such a file.")
    try:
        with safe_open(path, framework="numpy") as file:
            about: Any = json.loads((file.metadata() or {}).get("mini", "{}"))
            weights = {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118
    # TypeError: NumPy lacks one of the types that a safetensors file can have.
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise RewardError(f"{path} is no safetensors file of a mini reward: {error}") from error
    if not isinstance(about, dict) or about.get("features") != list(FEATURES):
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
    start = about.get("start")
    if not isinstance(start, float) or not 0 <= start <= 1 or not all(map(_finite, weights.values())):
        raise RewardError(f"{path} holds values that are no finite numbers, or starts at {start!r}, not in [0, 1].")
    return weights, start


def _finite(tensor: NDArray[np.float32]) -> bool:
    return bool(np.isfinite(tensor).all())
