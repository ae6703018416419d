"""Stable-Baselines3 over `CandidateActions`: networks that treat candidates alike, and trained models as policies.

    env = CandidateActions(gym.make("RAGGym-HotpotQA-v0", process_reward="evidence"), policies.make("lexical"))
    model = PPO(CandidatePolicy, env).learn(20_000)
    policy = SB3Policy(model, policies.make("lexical"))      # propose, act: for rollouts and evaluation

Both networks are Deep Sets (Zaheer et al., arXiv:1703.06114): every candidate is embedded by the same layers, and
scored from its own embedding and the mean and maximum of all. Permuting the candidates permutes their scores and
does not change the state's value, so what is learned in one slot holds in all.

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

# Finite, as in sb3-contrib: the observation of an ended episode masks every slot, and must not make the losses NaN.
_MASKED = -1e8

TensorDict = Mapping[str, Tensor]
Prior = Mapping[str, float]


class _Whole(torch_layers.BaseFeaturesExtractor):
    """Returns the observation unchanged, since the networks here read its parts, not one flat vector."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, int(observation_space["candidates"].shape[0]))  # type: ignore[index]

    def forward(self, observation: TensorDict) -> TensorDict:
        return observation


_DEFAULTS: dict[str, Any] = {"features_extractor_class": _Whole, "net_arch": [64, 64]}


class _Embedding(nn.Module):
    """Embeds each candidate, beside the mean and maximum over all distinct ones: `(B, n, 3 * width)`."""

    def __init__(self, space: spaces.Dict, widths: Sequence[int], activation: type[nn.Module]) -> None:
        super().__init__()
        if not isinstance(widths, list | tuple) or not widths:
            raise OptionError(f"net_arch must be a list of layer widths such as [64, 64], got {widths!r}.")
        self.slots = int(space["mask"].shape[0])  # type: ignore[index]
        self.features = int(space["candidates"].shape[0]) // self.slots  # type: ignore[index]
        inputs = self.features + int(space["state"].shape[0])  # type: ignore[index]
        self.layers = nn.Sequential(*torch_layers.create_mlp(inputs, -1, list(widths), activation))
        self.width = 3 * widths[-1]

    def candidates(self, obs: TensorDict) -> Tensor:
        """Return the candidates' features, `(B, n, F)`."""
        return obs["candidates"].reshape(-1, self.slots, self.features)

    def column(self, obs: TensorDict, name: str) -> Tensor:
        """Return one of `RANK_FEATURES`, `(B, n)`."""
        # They come last in a candidate's features, so they are indexed from the end.
        return self.candidates(obs)[..., RANK_FEATURES.index(name) - len(RANK_FEATURES)]

    def forward(self, obs: TensorDict) -> Tensor:
        candidates = self.candidates(obs)
        state = obs["state"].unsqueeze(1).expand(-1, self.slots, -1)
        embedded = self.layers(torch.cat([candidates, state], dim=-1))
        # Masked slots repeat other candidates: counting them would weight those twice.
        mask = obs["mask"].unsqueeze(-1)
        count = mask.sum(dim=1)
        mean = (embedded * mask).sum(dim=1) / count.clamp(min=1)
        # Zeros where all slots are masked, as after the end of an episode.
        maximum = embedded.masked_fill(mask == 0, _MASKED).amax(dim=1).masked_fill(count == 0, 0.0)
        pooled = torch.cat([mean, maximum], dim=-1).unsqueeze(1).expand(-1, self.slots, -1)
        return torch.cat([embedded, pooled], dim=-1)


class _Scorer(nn.Module):
    """Gives each slot a score: `(B, n)`."""

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
    """The part that Stable-Baselines3 calls the MLP extractor; here its first output already is the logits."""

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
        # The pooled part is the same in every slot; it alone does not depend on the order of the candidates.
        pooled: Tensor = self.critic(obs)[:, 0, -self.latent_dim_vf :]
        return pooled


class _PriorPolicy(policies.BasePolicy):
    """A policy with the argument `prior`, which is saved with the others."""

    def __init__(self, *args: Any, prior: Prior | None = None, **kwargs: Any) -> None:
        self.prior = dict(prior or {})
        super().__init__(*args, **{**_DEFAULTS, **kwargs})

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "prior": self.prior}


class CandidatePolicy(_PriorPolicy, policies.ActorCriticPolicy):
    """Actor and critic over `CandidateActions` observations, for PPO and A2C.

    Slots that repeat a candidate have probability 0. `net_arch` (default `[64, 64]`) are the widths of the layers
    that embed a candidate; the other arguments are those of `ActorCriticPolicy`.

    Args:
        prior: Weights by which some of `RANK_FEATURES` are added to a candidate's logit (or Q-value), in training and
            after it: `{"answer_rank": -4.0}` starts from the proposer's ranking of the answers.
    """

    def _build(self, lr_schedule: Any) -> None:
        nets = _ActorCritic(self.observation_space, self.net_arch, self.activation_fn, self.prior)  # type: ignore[arg-type]
        self.mlp_extractor = nets  # type: ignore[assignment]
        self.action_net = nn.Identity()  # the extractor's output is the logits
        self.value_net = nn.Linear(nets.latent_dim_vf, 1)
        # The gains of ActorCriticPolicy: a small one for the scores, so that the first policy is close to uniform.
        if self.ortho_init:
            nets.apply(lambda module: self.init_weights(module, gain=2**0.5))
            self.init_weights(nets.actor.score, gain=0.01)
            self.init_weights(self.value_net)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def scores(self, obs: TensorDict) -> Tensor:
        """Return the logits, `(B, n)`."""
        logits: Tensor = self.mlp_extractor.forward_actor(self.extract_features(obs))  # type: ignore[arg-type]
        return logits


class _QNetwork(QNetwork):
    """Gives each slot a Q-value. A repeated candidate has the same features, so the same value: no mask is needed."""

    def __init__(self, *args: Any, prior: Prior, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.q_net = _Scorer(self.observation_space, self.net_arch, self.activation_fn, prior)  # type: ignore[assignment, arg-type]


class CandidateDQNPolicy(_PriorPolicy, DQNPolicy):
    """Q-values over `CandidateActions` observations, for DQN. Arguments as for `CandidatePolicy`."""

    def make_q_net(self) -> QNetwork:
        settings = self._update_features_extractor(self.net_args, features_extractor=None)
        return _QNetwork(prior=self.prior, **settings).to(self.device)

    def scores(self, obs: TensorDict) -> Tensor:
        """Return the Q-values, `(B, n)`."""
        values: Tensor = self.q_net(obs)
        return values


class SB3Policy(BasePolicy):
    """A trained model as a policy: takes the candidate with the highest logit or Q-value.

    The chosen proposal has all candidates with these scores, and their usage, as that of `BestOf`.

    Args:
        model: A PPO, A2C or DQN model with `CandidatePolicy` or `CandidateDQNPolicy`.
        proposer: The policy that it was trained over, or another one. The number of candidates is the model's.
        features: The features that the model was trained on; by default `raggym_env.rewards.features.features`.
        name: Name in run folders and on leaderboards.

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
                f"{self.slots.observation_space}. Pass the features that it was trained on."
            )

    @property
    def fingerprint(self) -> str | None:
        """A string that changes with the weights, the proposer and the features' name; None if one has no identity."""
        proposer, features = _identity(self.slots.policy), getattr(self.slots.features, "__qualname__", None)
        if proposer is None or features is None:
            return None
        prior = sorted(self.model.policy.prior.items())  # type: ignore[union-attr, operator]
        parts = (type(self.model).__qualname__, proposer, self.slots.features.__module__, features, prior)
        digest = hashlib.blake2b(repr(parts).encode(), digest_size=8)
        for tensor_name, values in sorted(self.model.policy.state_dict().items()):
            digest.update(tensor_name.encode() + values.cpu().numpy().tobytes())
        return digest.hexdigest()

    def propose(self, states: Sequence[State], n: int = 1) -> list[list[Proposal]]:
        """Return the `n` best candidates per state; the first has all candidates, and the cost of proposing them."""
        rows = self.slots.of(states)
        proposed = [slots for slots in rows if slots.failed is None]
        scores = iter(self._scores(proposed) if proposed else ())
        return [
            _ranked(slots, next(scores), n) if slots.failed is None else [replace(slots.failed, usage=slots.usage)]
            for slots in rows
        ]

    def _scores(self, rows: Sequence[Slots]) -> NDArray[np.float32]:
        """Return logits or Q-values, `(len(rows), n)`, of at least one row."""
        observations = [slots.obs() for slots in rows]
        batch = {key: np.stack([obs[key] for obs in observations]) for key in observations[0]}
        policy = self.model.policy
        policy.set_training_mode(False)
        obs, _ = policy.obs_to_tensor(batch)
        with torch.no_grad():
            scores = policy.scores(obs)  # type: ignore[operator]
        return np.asarray(scores.cpu().numpy(), np.float32)


def _ranked(slots: Slots, scores: NDArray[np.float32], n: int) -> list[Proposal]:
    # Stable, so that among equal scores the proposer's ranking decides. Slots beyond the proposals repeat them.
    order = np.argsort(-scores[: len(slots.proposals)], kind="stable")
    ranked = [replace(slots.proposals[slot], score=float(scores[slot])) for slot in order]
    # The usage is of all candidates together, so only one proposal may have it.
    best = replace(ranked[0], candidates=tuple(ranked), usage=slots.usage)
    return [best, *(replace(proposal, usage=Usage()) for proposal in ranked[1:n])]


def _identity(policy: Policy) -> str | None:
    """Return the policy's fingerprint, or its class and settings if all are plain values; None otherwise."""
    if (fingerprint := getattr(policy, "fingerprint", None)) is not None:
        return str(fingerprint)
    settings = vars(policy)
    if not all(isinstance(value, str | int | float | bool | None) for value in settings.values()):
        return None
    return f"{type(policy).__module__}.{type(policy).__qualname__}({sorted(settings.items())})"
