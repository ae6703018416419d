"""`BasePolicy.act`: one observation, one state, or the observation of a vector environment."""

import gymnasium as gym
import numpy as np
import pytest

import raggym_env  # noqa: F401  # registers the environments
from raggym_env.core import Answer, Question, Search, State
from raggym_env.errors import PolicyError
from raggym_env.policies.lexical import LexicalPolicy
from raggym_env.protocols import BasePolicy, Proposal

STATE = State(Question("q1", "Who wrote Hamlet?"), (), 2)
OBS = {"question": STATE.question.text, "options": (), "history": (), "searches_left": np.int64(2)}


class Echo(BasePolicy):
    """Searches for the question, then answers with the number of searches; records its batches."""

    def __init__(self):
        self.batches = []

    def propose(self, states, n=1):
        self.batches.append(len(states))
        return [[Answer(str(len(s.history))) if s.history else Search(s.question.text)] for s in states]


class Mute(BasePolicy):
    def propose(self, states, n=1):
        return [[Proposal(None, failure="cut off")] for _ in states]


def test_a_state_and_its_observation_get_the_same_action():
    assert Echo().act(STATE) == Echo().act(OBS) == Search("Who wrote Hamlet?")


def test_a_failure_is_an_error():
    with pytest.raises(PolicyError, match="cut off"):
        Mute().act(OBS)


@pytest.fixture
def vector():
    env = gym.make_vec("RAGGym-Synth-v0", num_envs=3)
    yield env
    env.close()


def test_the_observation_of_a_vector_environment_gets_one_action_per_environment(vector):
    policy = Echo()
    obs, _ = vector.reset(seed=0)
    actions = policy.act(obs)
    assert actions == tuple(Search(question) for question in obs["question"])
    obs, _, terminated, _, _ = vector.step(actions)
    assert policy.act(obs) == (Answer("1"),) * 3
    assert not terminated.any()
    assert policy.batches == [3, 3]  # one call for all environments


def test_an_episode_loop_over_a_vector_environment_reaches_its_ends(vector):
    policy = LexicalPolicy()
    obs, _ = vector.reset(seed=0)
    ended = np.zeros(3, bool)
    for _ in range(10):
        obs, _, terminated, truncated, _ = vector.step(policy.act(obs))
        ended |= terminated | truncated
    assert ended.all()


def test_one_failure_in_a_vector_observation_is_an_error(vector):
    obs, _ = vector.reset(seed=0)
    with pytest.raises(PolicyError, match="cut off"):
        Mute().act(obs)
