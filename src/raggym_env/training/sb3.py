"""Stable-Baselines3 over `CandidateActions`: networks that treat candidates alike, and learnt choosers as policies.

    env = CandidateActions(gym.make("RAGGym-HotpotQA-v0", process_reward="evidence"), policies.make("lexical"))
    model = PPO(CandidatePolicy, env).learn(20_000)
    policy = SB3Policy(model, policies.make("lexical"))      # propose, act: for rollouts and evaluation

Both networks are Deep Sets (Zaheer et al., arXiv:1703.06114): every candidate is embedded by the same layers, and
scored from its own embedding and the mean and maximum of all. Permuting the candidates permutes their scores and
leaves the state's value as it is, so what is learnt in one slot holds in all.

`PPO.save` and `PPO.load` (and DQN's) work as for any policy. Stable-Baselines3 unpickles parts of the file: load only
files that you trust.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raggym_env.core import State, Usage
from raggym_env.envs.candidates import RANK_FEATURES, Candidates, Features, Slots
from raggym_env.errors import MissingExtra, OptionError, PolicyError, UnknownName
from raggym_env.protocols import BasePolicy, Policy, Proposal

try:
    import torch
    from gymnasium import spaces
    from stable_baselines3.common import policies, torch_layers
    from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtra("Learning with Stable-Baselines3", "sb3") from error

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

__all__ = ["CandidateDQNPolicy", "CandidatePolicy", "SB3Policy"]

# Finite, as in sb3-contrib: an observation of an ended episode masks every slot, and must not make the losses NaN.
_MASKED = -1e8

TensorDict = Mapping[str, Tensor]
Prior = Mapping[str, float]


class _Whole(torch_layers.BaseFeaturesExtractor):
    """Passes the observation on as it is: the networks here read its parts, not one flat vector."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, int(observation_space["candidates"].shape[0]))  # type: ignore[index]

    def forward(self, observation: TensorDict) -> TensorDict:
        return observation


_DEFAULTS: dict[str, Any] = {"features_extractor_class": _Whole, "net_arch": [64, 64]}


class _Embedding(nn.Module):
    """Candidates embedded, each with the mean and maximum of all distinct ones: `(B, n, 3 * width)`."""

    def __init__(self, space: spaces.Dict, widths: Sequence[int], activation: type[nn.Module]) -> None:
        super().__init__()
        if not isinstance(widths, list | tuple) or not widths:
            raise OptionError(f"net_arch must be a list of layer widths such as [64, 64], got {widths!r}.")
        self.slots = int(space["mask"].shape[0])  # type: ignore[index]
        self.features = int(space["candidates"].shape[0]) // self.slots  # type: ignore[index]
        inputs = self.features + int(space["state"].shape[0])  # type: ignore[index]
        self.own = nn.Sequential(*torch_layers.create_mlp(inputs, -1, list(widths), activation))
        self.width = 3 * widths[-1]

    def candidates(self, obs: TensorDict) -> Tensor:
        """`(B, n, F)`."""
        return obs["candidates"].reshape(-1, self.slots, self.features)

    def column(self, obs: TensorDict, name: str) -> Tensor:
        """One of `RANK_FEATURES`, which come last: `(B, n)`."""
        return self.candidates(obs)[..., RANK_FEATURES.index(name) - len(RANK_FEATURES)]

    def forward(self, obs: TensorDict) -> Tensor:
        candidates = self.candidates(obs)
        state = obs["state"].unsqueeze(1).expand(-1, self.slots, -1)
        own = self.own(torch.cat([candidates, state], dim=-1))
        pooled = _pool(own, obs["mask"]).unsqueeze(1).expand(-1, self.slots, -1)
        return torch.cat([own, pooled], dim=-1)


def _pool(embedded: Tensor, mask: Tensor) -> Tensor:
    """Mean and maximum over the unmasked slots: `(B, n, width)` to `(B, 2 * width)`; zeros where all are masked."""
    shown = mask.unsqueeze(-1)
    mean = (embedded * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)
    most = embedded.masked_fill(shown == 0, _MASKED).amax(dim=1)
    return torch.cat([mean, most.masked_fill(shown.sum(dim=1) == 0, 0.0)], dim=-1)


class _Scorer(nn.Module):
    """One number per slot: `(B, n)`."""

    def __init__(self, space: spaces.Dict, widths: Sequence[int], activation: type[nn.Module], prior: Prior) -> None:
        super().__init__()
        for name in prior.keys() - set(RANK_FEATURES):
            raise UnknownName("feature of the proposer's ranking", name, RANK_FEATURES)
        self.prior = dict(prior)
        self.embedding = _Embedding(space, widths, activation)
        self.head = nn.Sequential(nn.Linear(self.embedding.width, widths[-1]), activation())
        self.score = nn.Linear(widths[-1], 1)

    def forward(self, obs: TensorDict) -> Tensor:
        scores: Tensor = self.score(self.head(self.embedding(obs))).squeeze(-1)
        for name, weight in self.prior.items():
            scores = scores + weight * self.embedding.column(obs, name)
        return scores


class _ActorCritic(nn.Module):
    """What Stable-Baselines3 calls the MLP extractor: here its first output is the logits themselves."""

    def __init__(self, space: spaces.Dict, widths: Sequence[int], activation: type[nn.Module], prior: Prior) -> None:
        super().__init__()
        self.actor = _Scorer(space, widths, activation, prior)
        self.critic = _Embedding(space, widths, activation)
        self.latent_dim_pi = self.critic.slots
        self.latent_dim_vf = self.critic.width - widths[-1]

    def forward(self, obs: TensorDict) -> tuple[Tensor, Tensor]:
        return self.forward_actor(obs), self.forward_critic(obs)

    def forward_actor(self, obs: TensorDict) -> Tensor:
        logits: Tensor = self.actor(obs)
        return logits.masked_fill(obs["mask"] == 0, _MASKED)

    def forward_critic(self, obs: TensorDict) -> Tensor:
        pooled: Tensor = self.critic(obs)[:, 0, -self.latent_dim_vf :]
        return pooled


class CandidatePolicy(policies.ActorCriticPolicy):
    """Actor and critic over `CandidateActions` observations, for PPO and A2C.

    Slots that repeat a candidate have probability 0. `net_arch` (default `[64, 64]`) are the widths of the layers
    that embed a candidate; the other arguments are those of `ActorCriticPolicy`.

    Args:
        prior: Weights of some of `RANK_FEATURES` that are added to a candidate's logit (or Q-value), before anything is
            learnt and after: `{"answer_rank": -4.0}` starts from the proposer's ranking of the answers.
    """

    def __init__(self, *args: Any, prior: Prior | None = None, **kwargs: Any) -> None:
        self.prior = dict(prior or {})
        super().__init__(*args, **{**_DEFAULTS, **kwargs})

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "prior": self.prior}

    def _build(self, lr_schedule: Any) -> None:
        nets = _ActorCritic(self.observation_space, self.net_arch, self.activation_fn, self.prior)  # type: ignore[arg-type]
        self.mlp_extractor = nets  # type: ignore[assignment]
        self.action_net = nn.Identity()
        self.value_net = nn.Linear(nets.latent_dim_vf, 1)
        if self.ortho_init:
            nets.apply(lambda module: self.init_weights(module, gain=2**0.5))
            self.init_weights(nets.actor.score, gain=0.01)
            self.init_weights(self.value_net)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def scores(self, obs: TensorDict) -> Tensor:
        """The logits, `(B, n)`."""
        logits: Tensor = self.mlp_extractor.forward_actor(self.extract_features(obs))  # type: ignore[arg-type]
        return logits


class _QNetwork(QNetwork):
    """A Q-value per slot. A repeated candidate has its original's, so no slot needs a mask."""

    def __init__(self, *args: Any, prior: Prior, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.q_net = _Scorer(self.observation_space, self.net_arch, self.activation_fn, prior)  # type: ignore[assignment, arg-type]


class CandidateDQNPolicy(DQNPolicy):
    """Q-values over `CandidateActions` observations, for DQN. Arguments as for `CandidatePolicy`."""

    def __init__(self, *args: Any, prior: Prior | None = None, **kwargs: Any) -> None:
        self.prior = dict(prior or {})
        super().__init__(*args, **{**_DEFAULTS, **kwargs})

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "prior": self.prior}

    def make_q_net(self) -> QNetwork:
        settings = self._update_features_extractor(self.net_args, features_extractor=None)
        return _QNetwork(prior=self.prior, **settings).to(self.device)

    def scores(self, obs: TensorDict) -> Tensor:
        """The Q-values, `(B, n)`."""
        values: Tensor = self.q_net(obs)
        return values


class SB3Policy(BasePolicy):
    """A learnt chooser as a policy: takes the candidate that the model gives the highest logit or Q-value.

    The chosen proposal carries all candidates with these scores, and their usage, as `BestOf`'s does.

    Args:
        model: A PPO, A2C or DQN model with `CandidatePolicy` or `CandidateDQNPolicy`.
        proposer: What it was trained over, or another policy; the number of candidates is the model's.
        features: Those that the model was trained on; by default `raggym_env.rewards.features.features`.
        name: Shown in run folders and on leaderboards.

    Raises:
        PolicyError: The model was not trained on such candidates.
    """

    def __init__(
        self, model: BaseAlgorithm, proposer: Policy, *, features: Features | None = None, name: str = "sb3"
    ) -> None:
        if not isinstance(model.policy, CandidatePolicy | CandidateDQNPolicy):
            raise PolicyError(
                "SB3Policy needs a model with CandidatePolicy or CandidateDQNPolicy, got one with "
                f"{type(model.policy).__name__}."
            )
        self.model = model
        self.slots = Candidates(proposer, int(model.action_space.n), features, cache=0)  # type: ignore[attr-defined]
        self.name = name
        if model.observation_space != self.slots.observation_space:
            raise PolicyError(
                f"The model was trained on {model.observation_space}, and the candidates here are "
                f"{self.slots.observation_space}. Give it the features that it was trained on."
            )

    @property
    def fingerprint(self) -> str | None:
        """Changes with the weights, the proposer and the name of the features; None where those have no identity."""
        proposer, features = _identity(self.slots.policy), getattr(self.slots.features, "__qualname__", None)
        if proposer is None or features is None:
            return None
        prior = sorted(self.model.policy.prior.items())  # type: ignore[union-attr, operator]
        parts = (type(self.model).__qualname__, proposer, self.slots.features.__module__, features, prior)
        digest = hashlib.blake2b(repr(parts).encode(), digest_size=8)
        for name, values in sorted(self.model.policy.state_dict().items()):
            digest.update(name.encode() + values.cpu().numpy().tobytes())
        return digest.hexdigest()

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        rows = self.slots.of(states)
        live = [slots for slots in rows if slots.failed is None]
        scores = iter(self._scores(live)) if live else iter(())
        return [_ranked(slots, next(scores), n) if slots.failed is None else _failed(slots) for slots in rows]

    def _scores(self, rows: Sequence[Slots]) -> NDArray[np.float32]:
        """Logits or Q-values, `(len(rows), n)`."""
        each = [slots.obs() for slots in rows]
        batch = {name: np.stack([obs[name] for obs in each]) for name in each[0]}
        policy = self.model.policy
        policy.set_training_mode(False)
        obs, _ = policy.obs_to_tensor(batch)
        with torch.no_grad():
            scores = policy.scores(obs)  # type: ignore[operator]
        return np.asarray(scores.cpu().numpy(), np.float32)


def _failed(slots: Slots) -> list[Proposal]:
    return [replace(slots.failed or Proposal(None), usage=slots.usage)]


def _ranked(slots: Slots, scores: NDArray[np.float32], n: int) -> list[Proposal]:
    """The `n` best; the first carries all candidates and what they cost together."""
    order = np.argsort(-scores[: len(slots.proposals)], kind="stable")
    ranked = [replace(slots.proposals[slot], score=float(scores[slot])) for slot in order]
    first = replace(ranked[0], candidates=tuple(ranked), usage=slots.usage)
    return [first, *(replace(proposal, usage=Usage()) for proposal in ranked[1:n])]


def _identity(policy: Policy) -> str | None:
    """What tells one proposer from another: its fingerprint, or its class and plain settings; None if neither does."""
    known = getattr(policy, "fingerprint", None)
    if known is not None:
        return str(known)
    settings = vars(policy)
    if not all(isinstance(value, str | int | float | bool | None) for value in settings.values()):
        return None
    return f"{type(policy).__module__}.{type(policy).__qualname__}({sorted(settings.items())})"
