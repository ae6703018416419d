"""Every agent on a real model, a few questions each. Needs `raggym models get smollm2`."""

import pytest

from raggym_env import policies
from raggym_env.build import load_mdp
from raggym_env.mdp.rollout import rollout
from raggym_env.policies.prompt import COMPONENTS
from raggym_env.rewards.evidence import EvidenceReward

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llm(small_model):
    from raggym_env.llm.hf.model import load

    return load(str(small_model), device="cpu")


@pytest.fixture(scope="module")
def mdp():
    return load_mdp("RAGGym-Synth-v0", "train", k=2, max_searches=1)


def short(llm, name, **options):
    return policies.make(name, llm=llm, max_tokens=32, note_tokens=24, passage_chars=200, **options)


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_agent_ends_its_episodes_and_counts_what_they_cost(llm, mdp, name):
    episodes = list(rollout(short(llm, name), mdp.tasks[:2], mdp.dynamics, mdp.reward))
    assert [episode.error for episode in episodes] == [None, None]
    assert {episode.stop for episode in episodes} <= {"answer", "search_budget", "no_action"}
    assert all(episode.usage.prompt_tokens > 0 and episode.usage.completion_tokens > 0 for episode in episodes)


def test_a_critic_chooses_between_a_real_models_samples(llm, mdp):
    critic = EvidenceReward(mdp.tasks, mdp.dynamics)
    policy = short(llm, "react", best_of=3, critic=critic)
    ((proposal, *_),) = policy.propose([mdp.dynamics.start(mdp.tasks[0].question)])
    scores = [candidate.score for candidate in proposal.candidates]
    assert scores == sorted(scores, reverse=True)
    assert proposal.usage.completion_tokens > 0
