"""The small trained process reward that comes with the package and runs on NumPy alone."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import Action, Search, State
from raggym_env.errors import RewardError
from raggym_env.rewards.features import FEATURES, features

__all__ = ["WEIGHTS", "MiniReward", "load_weights"]

WEIGHTS = Path(__file__).parent / "weights" / "mini.safetensors"
"""The weights that ship with the package."""

_KNOWN = 4_096
Weights = dict[str, NDArray[np.float32]]


class MiniReward:
    """Rewards a step by how much it raises what the episode is expected to be worth.

    A network with one hidden layer estimates the value `q(s, a)` in [0, 1] of taking an action: how much of the
    evidence will then be at hand, and how right the answer will be. It sees the `features` of state and action,
    never a gold answer or a supporting fact, and was trained on process data of training splits by
    `raggym train mini`. The reward of action `a_t` in state `s_t` is potential-based (Ng et al., 1999):

        r_t = q(s_t, a_t) - q(s_{t-1}, a_{t-1}) - search_cost * [a_t is a search]

    with `start`, a constant, in the place of the past value at the first step. So the rewards of an episode add up
    to `q` of its last action, less `start` and the costs, whatever the network believes on the way: an episode
    that is padded with searches ends with about the same last value, and each of them costs. Centring the scores
    of a state's candidates would not do: an environment scores the one action that was taken.

    Within a state the scores rank candidates as `q` does, less the cost of a search. They compare across states.

    Args:
        weights: A safetensors file made by `raggym train mini`; by default the one that ships.
        search_cost: What a search costs, 0 or more.

    Raises:
        RewardError: The file cannot be used.
    """

    def __init__(self, weights: str | Path | None = None, *, search_cost: float = 0.02) -> None:
        if search_cost < 0:
            raise ValueError(f"search_cost must be 0 or more, got {search_cost}.")
        self.search_cost = search_cost
        self._weights, self.start = load_weights(Path(weights) if weights is not None else WEIGHTS)
        # Values of the searches that the newest states came from, so that an episode computes each once.
        self._known: OrderedDict[object, float] = OrderedDict()

    def values(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """`q` in [0, 1] of every candidate of every state, with shapes as for `score`."""
        rows = [features(state, candidates) for state, candidates in zip(states, actions, strict=True)]
        weights = self._weights
        hidden = np.tanh(np.concatenate(rows) @ weights["hidden.weight"].T + weights["hidden.bias"]) if rows else None
        if hidden is None:
            return []
        values = 1 / (1 + np.exp(-(hidden @ weights["output.weight"] + weights["output.bias"])))
        ends = np.cumsum([len(row) for row in rows])[:-1]
        return [part.astype(np.float32, copy=False) for part in np.split(values, ends)]

    def score(self, states: Sequence[State], actions: Sequence[Sequence[Action]]) -> list[NDArray[np.float32]]:
        """One score in [-1 - search_cost, 1] per candidate; see `ProcessReward.score`."""
        values = self.values(states, actions)
        scores = []
        for state, candidates, value in zip(states, actions, values, strict=True):
            costs = [self.search_cost if isinstance(action, Search) else 0.0 for action in candidates]
            scores.append((value - self._before(state) - np.array(costs, np.float32)).astype(np.float32, copy=False))
            for action, each in zip(candidates, value, strict=True):
                if isinstance(action, Search):
                    self._remember((state.question.text, state.history, action.query), float(each))
        return scores

    def _before(self, state: State) -> float:
        """The value of the search that led to a state, as it was in the state before."""
        if not state.history:
            return self.start
        *past, last = state.history
        known = self._known.get((state.question.text, tuple(past), last.query))
        if known is not None:
            return known
        before = State(state.question, tuple(past), state.searches_left + 1)
        value = float(self.values([before], [[Search(last.query)]])[0][0])
        self._remember((state.question.text, tuple(past), last.query), value)
        return value

    def _remember(self, search: object, value: float) -> None:
        self._known[search] = value
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)


def load_weights(path: Path) -> tuple[Weights, float]:
    """The tensors of a weights file, and the value at which an episode starts.

    Raises:
        RewardError: There is no such file, or it is none of this kind, or was trained on other features.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get("mini", "{}"))
            weights = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise RewardError(f"No weights at {path}. `raggym train mini` makes such a file.") from error
    except (SafetensorError, ValueError) as error:
        raise RewardError(f"{path} is no safetensors file of a mini reward: {error}") from error
    if about.get("features") != list(FEATURES) or not isinstance(about.get("start"), float):
        raise RewardError(
            f"{path} was not trained on the {len(FEATURES)} features that this version computes. Train it again "
            "with `raggym train mini`, or use the weights that ship with the package."
        )
    hidden = weights["hidden.bias"].shape[0] if "hidden.bias" in weights else 0
    shapes = {
        "hidden.weight": (hidden, len(FEATURES)), "hidden.bias": (hidden,),
        "output.weight": (hidden,), "output.bias": (),
    }  # fmt: skip
    if {name: tensor.shape for name, tensor in weights.items()} != shapes:
        raise RewardError(f"{path} holds tensors of other shapes than a mini reward's: {sorted(weights)}.")
    return weights, about["start"]
