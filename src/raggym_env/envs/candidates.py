"""A fixed number of actions, for learners that need one: the choice among a policy's proposals."""

from __future__ import annotations

import math
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
from raggym_env.errors import InvalidAction, OptionError, PolicyError, check_option
from raggym_env.protocols import Policy, Proposal, distinct, propose, total_usage
from raggym_env.storage.lru import LRU

__all__ = ["RANK_FEATURES", "STATE_FEATURES", "CandidateActions", "Candidates", "Features", "Slots"]

Features = Callable[[State, Sequence[Action]], NDArray[np.float32]]
"""Features of `m` candidate actions in a state: finite float32 of shape `(m, F)`. Reads no gold answer."""

SlotObs = dict[str, NDArray[Any]]

RANK_FEATURES = ("rank", "search_rank", "answer_rank", "first", "score", "scored")
"""Columns after those of the features: the policy's rank of the candidate (0 for its first, towards 1 for its last);
for a search `1 - 1 / (1 + r)` with its rank `r` among the searches, and for an answer likewise among the answers; 1.0
for the policy's first choice; its score (0 without a finite one); and 1.0 if it has one."""

STATE_FEATURES = ("spent", "last", "passages", "slots", "answers")
"""Columns of the state: share of the search budget spent, 1.0 if no search is left, passages found (in tens), share
of the slots that do not repeat another, share of the candidates that are answers."""

_BOUND = 10.0  # features are clipped to [-10, 10]; Gymnasium's checker wants bounded boxes


@dataclass(frozen=True, slots=True)
class Slots:
    """The candidates of one state in `n` slots. Cached, so it must not be changed; `obs` gives copies."""

    proposals: tuple[Proposal, ...]
    """The `m <= n` distinct candidates, in the policy's order."""
    candidates: NDArray[np.float32]
    """`(n, F)`: the features of the candidate in each slot."""
    state: NDArray[np.float32]
    """Features of the state, of shape `(len(STATE_FEATURES),)`."""
    usage: Usage = field(default_factory=Usage)
    """Cost of all proposals, including those that were not actions or repeated another."""
    failed: Proposal | None = None
    """The policy's first proposal, if none of them was an action; then there are no candidates."""

    @property
    def mask(self) -> NDArray[np.int8]:
        """`(n,)`: 1 for the first slot of each candidate, 0 for the slots that repeat one."""
        return (np.arange(len(self.candidates)) < len(self.proposals)).astype(np.int8)

    def obs(self) -> SlotObs:
        """`{"state", "candidates", "mask"}`, the features slot by slot in one vector; new arrays each time."""
        # Learners may write into an observation; these arrays are cached.
        return {"state": self.state.copy(), "candidates": self.candidates.flatten(), "mask": self.mask}

    def action(self, slot: int) -> Action:
        return self.proposals[slot % len(self.proposals)].chosen()


class Candidates:
    """A policy's candidates with features, in a fixed number of slots.

    Slot `i` holds candidate `i % m` of the `m <= n` distinct ones, so every slot can be taken: a learner without masks
    (the uniform exploration of a DQN, for example) needs no special care, and a network that treats candidates alike
    gives a repeat the same value as the original.

    Args:
        policy: Proposes the candidates, its first choice first.
        n: Slots, at least 1.
        features: Features of the candidates; by default `raggym_env.rewards.features.features`.
        cache: States whose candidates are kept, 0 for none. Use 0 for a policy that does not propose the same actions
            in the same state again.

    Raises:
        OptionError: `n` or `cache` is out of range.
    """

    def __init__(self, policy: Policy, n: int = 8, features: Features | None = None, *, cache: int = 50_000) -> None:
        check_option("n", n, n >= 1, "at least 1")
        check_option("cache", cache, cache >= 0, "0 or more")
        self.policy = policy
        self.n = n
        if features is None:
            # Imported here: it takes longer to import than everything else in this package.
            from raggym_env.rewards.features import features as default_features

            features = default_features
        self.features: Features = features
        self._cache = LRU[State, Slots](cache)
        # Learned by trying them on a state, since the features are any function.
        self.width = len(RANK_FEATURES) + self._rows(State(Question("", "?"), (), 1), [Answer("?")]).shape[1]
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
        """Return the candidates of each state, in order, from one call of the policy for all states not cached.

        Raises:
            PolicyError: The policy or the features returned the wrong form.
        """
        slots = {state: cached for state in states if (cached := self._cache.use(state)) is not None}
        new_states = [state for state in dict.fromkeys(states) if state not in slots]
        proposed = propose(self.policy, new_states, self.n) if new_states else []
        for state, proposals in zip(new_states, proposed, strict=True):
            slots[state] = self._fill(state, proposals)
            # A failure may pass (a server that was down), so it is not kept.
            if slots[state].failed is None:
                self._cache[state] = slots[state]
        return [slots[state] for state in states]

    def empty(self) -> Slots:
        """Return the slots of a state that has ended: zeros, and no candidates."""
        return Slots((), np.zeros((self.n, self.width), np.float32), np.zeros(len(STATE_FEATURES), np.float32))

    def _fill(self, state: State, proposals: Sequence[Proposal]) -> Slots:
        candidates = tuple(distinct(proposals)[: self.n])
        if not candidates:
            return replace(self.empty(), usage=total_usage(proposals), failed=proposals[0])
        actions = [proposal.chosen() for proposal in candidates]
        rows = np.concatenate([self._rows(state, actions), _rank_features(candidates)], axis=1)
        slots = np.clip(rows, -_BOUND, _BOUND)[np.arange(self.n) % len(rows)]
        return Slots(candidates, slots, _state_features(state, actions, self.n), total_usage(proposals))

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

    Observation Space: `Dict(state, candidates, mask)`, float32 features and an int8 mask of the slots that do not
    repeat another. An episode that has ended shows zeros. Slots are in the policy's order; its ranking is among the
    features too, so a network that treats the slots alike loses nothing.

    Episode End: the end of the search budget is `terminated` here, not `truncated`: the observation shows the
    searches left and the draft was graded, so there is no value to bootstrap from. An inner wrapper that cuts an
    episode short still truncates it.

    `info["candidates"]` has the action in each slot; after a step, `info["action"]` the one taken.
    """

    def __init__(self, env: gym.Env[Obs, Any], candidates: Policy | Candidates, **options: Any) -> None:
        """Wrap an environment.

        Args:
            env: A `RAGEnv`, wrapped or not, that takes `Search` and `Answer`.
            candidates: A policy that proposes them; or a `Candidates`, which environments may share.
            options: `n`, `features` and `cache` of `Candidates`, where a policy is given.

        Raises:
            TypeError: The environment is not such a `RAGEnv`.
            OptionError: An option is out of range, or is given beside a `Candidates`, which has its own.
        """
        super().__init__(env)
        base = env.unwrapped
        # A wrapper that changes the action space, such as TaggedText, could not take a `Search`.
        if not isinstance(base, RAGEnv) or env.action_space != base.action_space:
            raise TypeError(f"CandidateActions wraps a RAGEnv that takes Search and Answer, got {env}.")
        self._base = base
        if isinstance(candidates, Candidates) and options:
            raise OptionError(f"Give {', '.join(options)} to the Candidates object that is shared, not to the wrapper.")
        self.candidates = candidates if isinstance(candidates, Candidates) else Candidates(candidates, **options)
        self.observation_space = self.candidates.observation_space
        self.action_space = spaces.Discrete(self.candidates.n)
        self._current: Slots | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[SlotObs, dict[str, Any]]:
        """Start an episode; arguments as for `RAGEnv.reset`.

        Raises:
            PolicyError: The policy proposed no action.
        """
        _, info = self.env.reset(seed=seed, options=options)
        return self._observe(), {**info, **self._info()}

    def step(self, action: np.int64 | int) -> tuple[SlotObs, float, bool, bool, dict[str, Any]]:
        """Take the candidate in a slot.

        Raises:
            ResetNeeded: No episode is running.
            InvalidAction: The slot does not exist. The episode is unchanged.
            PolicyError: The policy proposed no action in the state that this step led to.
        """
        if self._current is None:
            raise ResetNeeded("No episode is running: call reset() first.")
        if not self.action_space.contains(action):
            raise InvalidAction(f"The action must be a slot, an integer in [0, {self.candidates.n}), got {action!r}.")
        candidate = self._current.action(int(action))
        _, reward, terminated, truncated, info = self.env.step(candidate)
        obs = self._observe()
        ended = self._base.state is not None and self._base.state.stop is not None
        if terminated or truncated:
            self._current = None
        info = {**info, **self._info(), "action": candidate}
        return obs, float(reward), terminated or ended, truncated and not ended, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return `(n,)`: True for the slots that do not repeat another; the convention of sb3-contrib's MaskablePPO."""
        if self._current is None:
            raise ResetNeeded("No episode is running: call reset() first.")
        return self._current.mask.astype(np.bool_)

    def _observe(self) -> SlotObs:
        state = self._base.state
        self._current = None
        if state is None or state.stop is not None:
            return self.candidates.empty().obs()
        (slots,) = self.candidates.of([state])
        if slots.failed is not None:
            raise PolicyError(f"No candidates for {state.question.text!r:.100}: {slots.failed.failure or 'no action'}.")
        self._current = slots
        return slots.obs()

    def _info(self) -> dict[str, Any]:
        slots = self._current
        return {"candidates": () if slots is None else tuple(slots.action(slot) for slot in range(self.candidates.n))}


def _state_features(state: State, actions: Sequence[Action], n: int) -> NDArray[np.float32]:
    searches = len(state.history)
    columns = {
        "spent": searches / max(searches + state.searches_left, 1),
        "last": state.searches_left == 0,
        "passages": min(len(state.passages) / 10, _BOUND),
        "slots": len(actions) / n,
        "answers": sum(isinstance(action, Answer) for action in actions) / len(actions),
    }
    return np.array([columns[name] for name in STATE_FEATURES], np.float32)


def _rank_features(proposals: Sequence[Proposal]) -> NDArray[np.float32]:
    answers = np.array([isinstance(proposal.action, Answer) for proposal in proposals])
    scores = np.array([math.nan if proposal.score is None else proposal.score for proposal in proposals])
    scored = np.isfinite(scores)
    columns = {
        "rank": np.arange(len(proposals)) / len(proposals),
        "search_rank": _rank_among(~answers),
        "answer_rank": _rank_among(answers),
        "first": np.arange(len(proposals)) == 0,
        "score": np.where(scored, scores, 0.0),
        "scored": scored,
    }
    # By name: the order of the columns is that of RANK_FEATURES, wherever it is written.
    return np.stack([np.asarray(columns[name], np.float32) for name in RANK_FEATURES], axis=1)


def _rank_among(members: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 0 for the first member, 1/2 for the second, 2/3 for the third and so on; 0 for the others."""
    rank = np.cumsum(members) - 1
    return np.where(members, 1 - 1 / (1 + np.maximum(rank, 0)), 0.0)
