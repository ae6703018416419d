"""Choosing among a policy's proposals: what makes the MDP fit learners with a fixed number of actions."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from raggym_env.core import Action, Answer, Obs, Question, State, Usage
from raggym_env.envs.env import RAGEnv
from raggym_env.errors import InvalidAction, OptionError, PolicyError
from raggym_env.protocols import Policy, Proposal, distinct, propose, total_usage

__all__ = ["OWN_FEATURES", "STATE_FEATURES", "CandidateActions", "Candidates", "Features", "Slots"]

Features = Callable[[State, Sequence[Action]], NDArray[np.float32]]
"""Features of `m` candidate actions in a state: finite float32 of shape `(m, F)`. Reads no gold answer."""

SlotObs = dict[str, NDArray[Any]]

OWN_FEATURES = ("rank", "search_behind", "answer_behind", "first", "score", "scored")
"""Columns that come after those of the features: the proposer's rank of the candidate (0 for its first, towards 1 for
its last); for a search `1 - 1 / (1 + r)` with its rank `r` among the searches, and for an answer likewise among the
answers; whether it is the proposer's own choice; its score (0 if it gave no finite one) and whether it gave one."""

STATE_FEATURES = ("spent", "last", "passages", "slots", "answers")
"""Columns of the state: share of the search budget spent, whether no search is left, passages found (in tens), share
of the slots with a candidate of their own, share of the candidates that are answers."""

_BOUND = 10.0  # features are clipped to [-10, 10]; Gymnasium's checker wants bounded boxes


@dataclass(frozen=True, slots=True)
class Slots:
    """The candidates of one state in `n` slots. Not to be changed: it may be remembered. `obs` gives copies."""

    proposals: tuple[Proposal, ...]
    """The `m <= n` distinct candidates, in the proposer's order."""
    candidates: NDArray[np.float32]
    """`(n, F)`: the features of the candidate in each slot."""
    state: NDArray[np.float32]
    """`(len(STATE_FEATURES),)`."""
    usage: Usage = field(default_factory=Usage)
    """What all proposals cost, those included that were no action or not distinct."""
    failed: Proposal | None = None
    """What the proposer gave instead, if none of its proposals was an action; then there are no candidates."""

    @property
    def mask(self) -> NDArray[np.int8]:
        """`(n,)`: 1 for the slots with a candidate of their own, 0 for those that repeat one."""
        return (np.arange(len(self.candidates)) < len(self.proposals)).astype(np.int8)

    def obs(self) -> SlotObs:
        """`{"state", "candidates", "mask"}`, the features slot by slot in one vector; new arrays each time."""
        return {"state": self.state.copy(), "candidates": self.candidates.flatten(), "mask": self.mask}

    def action(self, slot: int) -> Action:
        return self.proposals[slot % len(self.proposals)].chosen()


class Candidates:
    """A proposer's candidates with features, in a fixed number of slots.

    Slot `i` holds candidate `i % m` of the `m <= n` distinct ones, so that every slot is an action that can be taken:
    learners that know nothing of masks (the uniform exploration of a DQN, say) need no special care, and a network
    that treats candidates alike gives a repeat what it gives the original.

    Args:
        policy: Proposes the candidates, its own choice first.
        n: Slots, at least 1.
        features: Features of the candidates; by default `raggym_env.rewards.features.features`.
        cache: States remembered, 0 for none. A proposer that does not propose the same in the same state again must
            not be remembered.
    """

    def __init__(self, policy: Policy, n: int = 8, features: Features | None = None, *, cache: int = 50_000) -> None:
        if n < 1:
            raise OptionError(f"n must be at least 1, got {n}.")
        if cache < 0:
            raise OptionError(f"cache must be 0 or more, got {cache}.")
        self.policy = policy
        self.n = n
        self.features = features or _default_features()
        self._cache: OrderedDict[State, Slots] = OrderedDict()
        self._size = cache
        self.width = len(OWN_FEATURES) + self._rows(State(Question("", "?"), (), 1), [Answer("?")]).shape[1]
        """Features per candidate."""

    @property
    def observation_space(self) -> spaces.Dict:
        """`Dict(state=(S,), candidates=(n * F,), mask=(n,))`: flat, as Stable-Baselines3's checker asks for."""
        return spaces.Dict(
            state=spaces.Box(-_BOUND, _BOUND, (len(STATE_FEATURES),), np.float32),
            candidates=spaces.Box(-_BOUND, _BOUND, (self.n * self.width,), np.float32),
            mask=spaces.MultiBinary(self.n),
        )

    def of(self, states: Sequence[State]) -> list[Slots]:
        """The candidates of each state, in order, from one call of the proposer for all states not remembered.

        Raises:
            PolicyError: The proposer answered for another number of states, or the features are not as they should be.
            InvalidAction: A proposal is blank, or no action at all.
        """
        known = {state: self._cache[state] for state in states if state in self._cache}
        new = [state for state in dict.fromkeys(states) if state not in known]
        proposed = propose(self.policy, new, self.n) if new else []
        if len(proposed) != len(new):
            raise PolicyError(f"The policy gave proposals for {len(proposed)} states instead of {len(new)}.")
        for state, proposals in zip(new, proposed, strict=True):
            known[state] = self._slots(state, proposals)
            if known[state].failed is None:
                self._remember(state, known[state])
        return [known[state] for state in states]

    def empty(self) -> Slots:
        """What a state that has ended looks like: zeros, and no candidates."""
        return Slots((), np.zeros((self.n, self.width), np.float32), np.zeros(len(STATE_FEATURES), np.float32))

    def _remember(self, state: State, slots: Slots) -> None:
        if self._size == 0:
            return
        if len(self._cache) >= self._size:
            self._cache.popitem(last=False)
        self._cache[state] = slots

    def _slots(self, state: State, proposals: Sequence[Proposal]) -> Slots:
        kept = tuple(distinct(proposals)[: self.n])
        if not kept:
            failed = proposals[0] if proposals else Proposal(None, failure="the policy proposed nothing")
            return replace(self.empty(), usage=total_usage(proposals), failed=failed)
        actions = [proposal.chosen() for proposal in kept]
        rows = np.clip(np.concatenate([self._rows(state, actions), _own(kept)], axis=1), -_BOUND, _BOUND)
        return Slots(
            kept, rows[np.arange(self.n) % len(rows)], _of_state(state, actions, self.n), total_usage(proposals)
        )

    def _rows(self, state: State, actions: Sequence[Action]) -> NDArray[np.float32]:
        rows = np.asarray(self.features(state, actions), np.float32)
        if rows.ndim != 2 or len(rows) != len(actions) or not np.isfinite(rows).all():
            raise PolicyError(
                f"The features of {len(actions)} candidates must be finite and of shape ({len(actions)}, F), got "
                f"shape {rows.shape}: {rows!r:.200}."
            )
        return rows


class CandidateActions(gym.Wrapper[Any, Any, Any, Any]):
    """`Discrete(n)` actions over a policy's proposals, for learners such as Stable-Baselines3's.

    Action Space: `Discrete(n)`: the candidate in that slot. Slots beyond the `m` distinct candidates repeat them, so
    every slot can be taken; see `Candidates`.

    Observation Space: `Dict(state, candidates, mask)`, float32 features and an int8 mask of the slots that repeat
    none. An episode that has ended shows zeros. Slots are in the proposer's order; what its ranking says is among the
    features too, so a network that treats the slots alike loses nothing.

    Episode End: the end of the search budget is `terminated` here, not `truncated`: the observation shows the
    searches left and the draft was graded, so nothing is left to bootstrap from. A wrapper inside that cuts an
    episode short still truncates it.

    `info["candidates"]` has the action in each slot; after a step, `info["action"]` the one taken.
    """

    def __init__(
        self,
        env: gym.Env[Obs, Any],
        policy: Policy | Candidates,
        n: int = 8,
        features: Features | None = None,
        *,
        cache: int = 50_000,
    ) -> None:
        """Wrap an environment.

        Args:
            env: A `RAGEnv`, wrapped or not, that takes `Search` and `Answer`.
            policy: Proposes the candidates; or a `Candidates`, which environments may share. Then `n`, `features`
                and `cache` are its own.
            n: Slots, at least 1.
            features: Features of the candidates; by default `raggym_env.rewards.features.features`.
            cache: States whose candidates are remembered, 0 for none.
        """
        super().__init__(env)
        base = env.unwrapped
        if not isinstance(base, RAGEnv) or env.action_space != base.action_space:
            raise TypeError(f"CandidateActions wraps a RAGEnv that takes Search and Answer, got {env}.")
        self._base = base
        self.slots = policy if isinstance(policy, Candidates) else Candidates(policy, n, features, cache=cache)
        self.observation_space = self.slots.observation_space
        self.action_space = spaces.Discrete(self.slots.n)
        self._shown: Slots | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[SlotObs, dict[str, Any]]:
        """Start an episode; arguments as for `RAGEnv.reset`.

        Raises:
            PolicyError: The policy proposed no action.
        """
        _, info = self.env.reset(seed=seed, options=options)
        return self._show(), {**info, **self._info()}

    def step(self, action: np.int64 | int) -> tuple[SlotObs, float, bool, bool, dict[str, Any]]:
        """Take the candidate in a slot.

        Raises:
            ResetNeeded: No episode is running.
            InvalidAction: There is no such slot. The episode is unchanged.
            PolicyError: The policy proposed no action in the state that this step led to.
        """
        if self._shown is None:
            raise ResetNeeded("No episode is running: call reset() first.")
        if not self.action_space.contains(action):
            raise InvalidAction(f"The action must be a slot, a whole number in [0, {self.slots.n}), got {action!r}.")
        taken = self._shown.action(int(action))
        _, reward, terminated, truncated, info = self.env.step(taken)
        obs = self._show()
        over = self._base.state is not None and self._base.state.stop is not None
        if terminated or truncated:
            self._shown = None
        info = {**info, **self._info(), "action": taken}
        return obs, float(reward), terminated or over, truncated and not over, info

    def action_masks(self) -> NDArray[np.bool_]:
        """`(n,)`: True for the slots that repeat none; the convention of sb3-contrib's MaskablePPO."""
        if self._shown is None:
            raise ResetNeeded("No episode is running: call reset() first.")
        return self._shown.mask.astype(np.bool_)

    def _show(self) -> SlotObs:
        state = self._base.state
        self._shown = None
        if state is None or state.stop is not None:
            return self.slots.empty().obs()
        (slots,) = self.slots.of([state])
        if slots.failed is not None:
            raise PolicyError(f"No candidates for {state.question.text!r:.100}: {slots.failed.failure or 'no action'}.")
        self._shown = slots
        return slots.obs()

    def _info(self) -> dict[str, Any]:
        shown = self._shown
        return {"candidates": () if shown is None else tuple(shown.action(slot) for slot in range(self.slots.n))}


def _of_state(state: State, actions: Sequence[Action], n: int) -> NDArray[np.float32]:
    made, left = len(state.history), state.searches_left
    answers = sum(isinstance(action, Answer) for action in actions)
    values = (
        made / max(made + left, 1),
        left == 0,
        min(len(state.passages) / 10, _BOUND),
        len(actions) / n,
        answers / len(actions),
    )
    return np.array(values, np.float32)


def _own(proposals: Sequence[Proposal]) -> NDArray[np.float32]:
    answers = np.array([isinstance(proposal.action, Answer) for proposal in proposals])
    scores = np.array([math.nan if proposal.score is None else proposal.score for proposal in proposals])
    scored = np.isfinite(scores)
    columns = (
        np.arange(len(proposals)) / len(proposals),
        _behind(~answers),
        _behind(answers),
        np.arange(len(proposals)) == 0,
        np.where(scored, scores, 0.0),
        scored,
    )
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)


def _behind(these: NDArray[np.bool_]) -> NDArray[np.float64]:
    """0 for the first of these, 1/2 for the second, 2/3 for the third; 0 for the others."""
    rank = np.cumsum(these) - 1
    return np.where(these, 1 - 1 / (1 + np.maximum(rank, 0)), 0.0)


def _default_features() -> Features:
    from raggym_env.rewards.features import features

    return features
