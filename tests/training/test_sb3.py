import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest

from raggym_env.core import Answer, Question, Search, State, Usage
from raggym_env.envs import CandidateActions
from raggym_env.envs.env import RAGEnv
from raggym_env.errors import MissingExtra, PolicyError, UnknownName
from raggym_env.mdp.rollout import rollout
from raggym_env.policies.lexical import LexicalPolicy
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.testing import check_policy
from worlds import BOTH, FILM, dynamics

torch = pytest.importorskip("torch")
sb3 = pytest.importorskip("stable_baselines3")

from raggym_env.training.sb3 import CandidateDQNPolicy, CandidatePolicy, SB3Policy  # noqa: E402

pytestmark = pytest.mark.slow

N = 4
STATE = State(Question("film", "Where was the director of the film Dawn born?"), (), 2)


class Ideas(BasePolicy):
    """Its own choice is wrong: the answer that is right comes last."""

    fingerprint = "ideas"

    def propose(self, states, n=1):
        wrong = [Proposal(Answer(text), score=1.0) for text in ("Rome", "Paris")]
        return [[*wrong, Proposal(Answer("Oslo"), score=0.1)][:n] for _ in states]


def ends_in_o(state, actions):
    """One informative feature, whether the text ends in "o", and its length, which is noise."""
    texts = [action.text if isinstance(action, Answer) else action.query for action in actions]
    return np.array([[text.endswith("o"), len(text) / 10] for text in texts], np.float32)


def env(n=N):
    return CandidateActions(RAGEnv([FILM], dynamics()[0]), Ideas(), n=n, features=ends_in_o)


def ppo(**options):
    settings = {"n_steps": 32, "batch_size": 32, "seed": 0, "device": "cpu", **options}
    return sb3.PPO(CandidatePolicy, env(), policy_kwargs={"net_arch": [16]}, **settings)


def dqn(**options):
    settings = {"learning_starts": 20, "buffer_size": 500, "seed": 0, "device": "cpu", **options}
    return sb3.DQN(CandidateDQNPolicy, env(), policy_kwargs={"net_arch": [16]}, **settings)


both = pytest.mark.parametrize("make", [ppo, dqn])


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def observations(slots, rows=6):
    """Random observations, and the same with their slots permuted."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, N, slots.width)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 1]] * (rows // 3), np.int8)
    state = rng.normal(size=(rows, 5)).astype(np.float32)
    order = rng.permutation(N)

    def pack(order):
        rows_first = features[:, order].reshape(rows, -1)
        return {"state": state, "candidates": rows_first, "mask": mask[:, order]}

    return pack(np.arange(N)), pack(order), order


def scores(model, obs):
    with torch.no_grad():
        return model.policy.scores(model.policy.obs_to_tensor(obs)[0]).numpy()


@both
def test_permuting_the_candidates_permutes_their_scores(make):
    model = make()
    obs, permuted, order = observations(env().candidates)
    assert np.allclose(scores(model, obs)[:, order], scores(model, permuted), atol=1e-6)
    assert np.ptp(scores(model, obs), axis=1).min() > 0


def test_permuting_the_candidates_leaves_the_value_as_it_is():
    model = ppo()
    values = [
        model.policy.predict_values(model.policy.obs_to_tensor(obs)[0]).detach().numpy()
        for obs in observations(env().candidates)[:2]
    ]
    assert np.allclose(*values, atol=1e-6)
    assert np.ptp(values[0]) > 0


def test_repeats_have_no_probability_and_their_originals_q_value():
    obs, _ = env().reset(seed=0)
    batch = {name: values[None] for name, values in obs.items()}
    assert obs["mask"].tolist() == [1, 1, 1, 0]
    probabilities = torch.softmax(torch.tensor(scores(ppo(), batch)), dim=1)
    assert probabilities[0, 3] == 0
    q = scores(dqn(), batch)[0]
    assert q[3] == pytest.approx(q[0], abs=1e-6)


def test_what_repeats_does_not_count_in_the_pool():
    one, obs = env(3), env(N).reset(seed=0)[0]
    model = ppo()
    wider, narrow = scores(model, {k: v[None] for k, v in obs.items()}), one.reset(seed=0)[0]
    obs["candidates"].reshape(N, -1)[3] = 7.0
    assert np.allclose(wider[0, :3], scores(model, {k: v[None] for k, v in obs.items()})[0, :3])
    assert narrow["mask"].all()


def test_an_ended_episode_has_finite_scores_and_value():
    model = ppo()
    obs = {name: values[None] for name, values in env().candidates.empty().obs().items()}
    tensors = model.policy.obs_to_tensor(obs)[0]
    assert np.isfinite(scores(model, obs)).all()
    assert np.isfinite(model.policy.predict_values(tensors).item())


@pytest.mark.parametrize(
    ("make", "steps", "options"),
    [(ppo, 640, {"learning_rate": 0.01}), (dqn, 600, {"learning_rate": 0.01, "exploration_fraction": 0.5})],
)
def test_learning_finds_the_candidate_that_the_proposer_ranks_last(make, steps, options):
    policy = SB3Policy(make(**options).learn(steps), Ideas(), features=ends_in_o)
    assert policy.act(STATE) == Answer("Oslo")
    assert Ideas().act(STATE) == Answer("Rome")


@both
def test_a_loaded_model_predicts_as_the_saved_one(make, tmp_path):
    model = make().learn(64)
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", device="cpu")
    obs, _, _ = observations(env().candidates)
    assert (scores(loaded, obs) == scores(model, obs)).all()
    assert (loaded.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all()


@both
def test_the_policy_chooses_what_the_model_predicts(make):
    model = make()
    obs, info = env().reset(seed=0)
    slot, _ = model.predict(obs, deterministic=True)
    chosen = SB3Policy(model, Ideas(), features=ends_in_o).act(STATE)
    assert chosen == info["candidates"][int(slot)]


def test_the_policy_keeps_the_contract_of_policies():
    states = [dynamics()[0].start(task.question) for task in (FILM, BOTH)]
    policy = SB3Policy(ppo(), Ideas(), features=ends_in_o)
    check_policy(policy, states)
    (proposals, _) = policy.propose(states, 2)
    assert len(proposals) == 2
    assert proposals[0].score >= proposals[1].score
    assert len(proposals[0].candidates) == 3


def test_a_failing_proposer_fails_only_its_own_state():
    class Down(Ideas):
        def propose(self, states, n=1):
            down = [Proposal(None, failure="the server is down", outage=True)]
            return [down if state.question.id == "film" else Ideas().propose([state], n)[0] for state in states]

    policy = SB3Policy(ppo(), Down(), features=ends_in_o)
    episodes = {episode.id: episode for episode in rollout(policy, [FILM, BOTH], dynamics()[0])}
    assert "server is down" in episodes["film"].error
    assert episodes["both"].error is None


def test_all_that_was_proposed_is_paid_for_once():
    class Costly(Ideas):
        def propose(self, states, n=1):
            spent = Usage(calls=1, completion_tokens=5)
            failed = Proposal(None, failure="unreadable", usage=spent)
            return [[*(replace(p, usage=spent) for p in Ideas().propose([s], n)[0]), failed] for s in states]

    (proposals,) = SB3Policy(ppo(), Costly(), features=ends_in_o).propose([STATE], 3)
    assert [proposal.usage.calls for proposal in proposals] == [4, 0, 0]


def test_the_fingerprint_changes_with_the_weights_and_the_proposer():
    model, other = ppo(), ppo(seed=1)
    lexical = SB3Policy(model, LexicalPolicy(), features=ends_in_o).fingerprint
    assert lexical == SB3Policy(model, LexicalPolicy(), features=ends_in_o).fingerprint
    others = {
        SB3Policy(other, LexicalPolicy(), features=ends_in_o).fingerprint,
        SB3Policy(model, LexicalPolicy(seed=1), features=ends_in_o).fingerprint,
        SB3Policy(model, Ideas(), features=ends_in_o).fingerprint,
    }
    assert len({lexical, *others}) == 4


def test_a_proposer_that_cannot_be_told_from_another_gives_no_fingerprint():
    class Unknown(Ideas):
        fingerprint = None

        def __init__(self):
            self.inner = Ideas()

    assert SB3Policy(ppo(), Unknown(), features=ends_in_o).fingerprint is None


def test_a_model_of_other_features_or_another_network_is_refused():
    with pytest.raises(PolicyError, match="features that it was trained on"):
        SB3Policy(ppo(), Ideas())
    with pytest.raises(PolicyError, match="MultiInputActorCriticPolicy"):
        SB3Policy(sb3.PPO("MultiInputPolicy", env(), device="cpu"), Ideas(), features=ends_in_o)


def test_layers_that_are_no_widths_are_refused():
    with pytest.raises(ValueError, match="net_arch"):
        sb3.PPO(CandidatePolicy, env(), policy_kwargs={"net_arch": {"pi": [8], "vf": [8]}}, device="cpu")


@both
def test_with_a_prior_learning_starts_from_the_proposers_ranking(make):
    algorithm = type(make())
    policy = CandidatePolicy if make is ppo else CandidateDQNPolicy
    settings = {"prior": {"answer_rank": -100.0}, "net_arch": [16]}
    model = algorithm(policy, env(), policy_kwargs=settings, device="cpu")
    (proposals,) = SB3Policy(model, Ideas(), features=ends_in_o).propose([STATE], 3)
    assert [proposal.action.text for proposal in proposals] == ["Rome", "Paris", "Oslo"]


def test_a_prior_is_loaded_with_the_model(tmp_path):
    settings = {"prior": {"answer_rank": -100.0}}
    sb3.PPO(CandidatePolicy, env(), policy_kwargs=settings, device="cpu").save(tmp_path / "model.zip")
    loaded = sb3.PPO.load(tmp_path / "model.zip", device="cpu")
    assert SB3Policy(loaded, Ideas(), features=ends_in_o).act(STATE) == Answer("Rome")


def test_a_prior_of_what_is_no_own_feature_is_refused():
    with pytest.raises(UnknownName, match="luck"):
        sb3.PPO(CandidatePolicy, env(), policy_kwargs={"prior": {"luck": 1.0}}, device="cpu")


def test_without_stable_baselines3_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3.common", None)
    monkeypatch.delitem(sys.modules, "raggym_env.training.sb3")
    with pytest.raises(MissingExtra, match=r"pip install .*\[sb3\]"):
        importlib.import_module("raggym_env.training.sb3")


def test_a_search_may_be_chosen_too():
    class Searches(Ideas):
        def propose(self, states, n=1):
            return [[Proposal(Search("Dawn")), Proposal(Search("Ada Berg"))] for _ in states]

    assert isinstance(SB3Policy(dqn(), Searches(), features=ends_in_o).act(STATE), Search)
