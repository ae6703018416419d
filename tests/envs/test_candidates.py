import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from raggym_env.core import Answer, Question, Search, State
from raggym_env.envs import CandidateActions, Candidates
from raggym_env.envs.candidates import RANK_FEATURES
from raggym_env.envs.env import RAGEnv
from raggym_env.envs.wrappers import TaggedText
from raggym_env.errors import InvalidAction, PolicyError
from raggym_env.protocols import BasePolicy, Proposal
from worlds import BOTH, FILM, dynamics

IDEAS = (Search("Dawn", draft="Rome"), Answer("Oslo"), Search("Dawn", draft="Rome"), Search("Ada Berg"))


class Ideas(BasePolicy):
    """Proposes the same in every state and counts how often it is asked."""

    def __init__(self, *proposals):
        self.proposals = proposals or tuple(Proposal(action, score=0.5) for action in IDEAS)
        self.asked = 0

    def propose(self, states, n=1):
        self.asked += len(states)
        return [list(self.proposals[:n]) for _ in states]


def kinds(state, actions):
    return np.array([[isinstance(action, Answer), len(state.history)] for action in actions], np.float32)


def wrapped(policy=None, n=5, max_searches=2, tasks=(FILM,), **options):
    return CandidateActions(RAGEnv(tasks, dynamics(max_searches)[0]), policy or Ideas(), n=n, features=kinds, **options)


def rows(env, obs):
    return obs["candidates"].reshape(env.candidates.n, env.candidates.width)


def test_a_slot_is_a_distinct_proposal_in_the_proposers_order():
    env = wrapped()
    _, info = env.reset(seed=0)
    assert info["candidates"][:3] == (IDEAS[0], IDEAS[1], IDEAS[3])


def test_slots_beyond_the_candidates_repeat_them_and_are_masked():
    env = wrapped()
    obs, info = env.reset(seed=0)
    assert obs["mask"].tolist() == [1, 1, 1, 0, 0] == env.action_masks().astype(int).tolist()
    assert info["candidates"][3:] == info["candidates"][:2]
    assert (rows(env, obs)[3:] == rows(env, obs)[:2]).all()


def test_a_repeating_slot_takes_what_it_repeats():
    env = wrapped()
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(4)
    assert (reward, terminated, info["action"]) == (1.0, True, Answer("Oslo"))


def test_candidates_are_described_by_the_features_and_by_what_the_proposer_said_of_them():
    proposals = [Proposal(Search("Dawn"), score=0.7), Proposal(Answer("Oslo")), *map(Proposal, IDEAS[3:])]
    env = wrapped(Ideas(*proposals), n=4)
    obs, _ = env.reset(seed=0)
    told, own = np.split(rows(env, obs)[:3], [2], axis=1)
    assert told.tolist() == [[0, 0], [1, 0], [0, 0]]
    shown = [dict(zip(RANK_FEATURES, row, strict=True)) for row in own]
    assert [row["rank"] for row in shown] == pytest.approx([0, 1 / 3, 2 / 3])
    assert [row["search_rank"] for row in shown] == [0, 0, 0.5]
    assert [row["answer_rank"] for row in shown] == [0, 0, 0]
    assert [row["first"] for row in shown] == [1, 0, 0]
    assert [(row["score"], row["scored"]) for row in shown] == [(pytest.approx(0.7), 1), (0, 0), (0, 0)]


def test_a_score_that_is_no_number_counts_as_none():
    env = wrapped(Ideas(Proposal(Search("Dawn"), score=float("nan")), Proposal(Answer("Oslo"), score=-float("inf"))))
    obs, _ = env.reset(seed=0)
    assert not rows(env, obs)[:, -2:].any()


def test_the_state_shows_the_budget():
    env = wrapped(max_searches=2)
    start, _ = env.reset(seed=0)
    after, *_ = env.step(0)
    assert start["state"].tolist() == pytest.approx([0.0, 0, 0.0, 0.6, 1 / 3])
    assert after["state"].tolist() == pytest.approx([0.5, 0, 0.2, 0.6, 1 / 3])


def test_no_slot_beyond_n_and_no_step_before_a_reset():
    env = wrapped()
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    for wrong in (5, -1, 1.0, "0"):
        with pytest.raises(InvalidAction, match=r"\[0, 5\)"):
            env.step(wrong)
    env.step(1)
    with pytest.raises(ResetNeeded):
        env.step(0)


def test_the_end_of_the_budget_is_an_end_and_not_a_cut():
    env = wrapped(max_searches=0)
    env.reset(seed=0)
    obs, reward, terminated, truncated, info = env.step(0)
    assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, True, False, "search_budget")
    assert not obs["mask"].any()
    assert info["candidates"] == ()


def test_an_episode_cut_from_outside_shows_its_last_state():
    env = CandidateActions(TimeLimit(RAGEnv([FILM], dynamics()[0]), 1), Ideas(), n=5, features=kinds)
    env.reset(seed=0)
    obs, _, terminated, truncated, _ = env.step(0)
    assert (terminated, truncated) == (False, True)
    assert obs["mask"].sum() == 3
    with pytest.raises(ResetNeeded):
        env.step(0)


def test_a_state_is_proposed_for_once_unless_nothing_is_remembered():
    for cache, times in ((10, 2), (1, 4), (0, 4)):
        policy = Ideas()
        env = wrapped(policy, cache=cache)
        for _ in range(2):
            env.reset(options={"index": 0})
            env.step(0)
        assert policy.asked == times


def test_environments_may_share_candidates():
    policy = Ideas()
    shared = Candidates(policy, 5, kinds)
    for _ in range(3):
        CandidateActions(RAGEnv([FILM], dynamics()[0]), shared).reset(seed=0)
    assert policy.asked == 1


def test_an_observation_is_the_callers_own():
    env = wrapped()
    obs, _ = env.reset(options={"index": 0})
    obs["candidates"][:] = obs["state"][:] = 9
    again, _ = env.reset(options={"index": 0})
    assert again["candidates"].max() < 9 > again["state"].max()


def test_a_proposer_without_an_action_is_an_error_that_says_why():
    with pytest.raises(PolicyError, match="server is down"):
        wrapped(Ideas(Proposal(None, failure="the server is down", outage=True))).reset(seed=0)


def test_a_failed_proposal_is_not_remembered():
    policy = Ideas(Proposal(None, failure="the server is down"))
    env = wrapped(policy)
    for _ in range(2):
        with pytest.raises(PolicyError):
            env.reset(options={"index": 0})
    assert policy.asked == 2


@pytest.mark.parametrize("wrong", [np.zeros((1, 3)), np.zeros(3), np.full((3, 2), np.nan)])
def test_features_of_another_shape_are_refused(wrong):
    candidates = Candidates(Ideas(), 5, lambda state, actions: wrong if len(actions) > 1 else np.zeros((1, 2)))
    with pytest.raises(PolicyError, match="features"):
        candidates.of([State(Question("q", "Who?"))])


def test_a_policy_that_answers_for_fewer_states_is_refused():
    class Short(Ideas):
        def propose(self, states, n=1):
            return []

    with pytest.raises(PolicyError, match="one list for each of the states, got 0 lists for 1 states"):
        wrapped(Short()).reset(seed=0)


def test_only_an_environment_of_actions_can_be_wrapped():
    for wrong in (TaggedText(RAGEnv([FILM], dynamics()[0])), gym.make("CartPole-v1")):
        with pytest.raises(TypeError, match="takes Search and Answer"):
            CandidateActions(wrong, Ideas(), n=5, features=kinds)


def test_the_default_features_are_those_of_the_rewards():
    from raggym_env.rewards.features import FEATURES, features

    env = CandidateActions(RAGEnv([FILM], dynamics()[0]), Ideas(), n=4)
    obs, info = env.reset(seed=0)
    assert env.candidates.width == len(FEATURES) + len(RANK_FEATURES)
    shown = features(env.unwrapped.state, info["candidates"])
    assert (rows(env, obs)[:, : len(FEATURES)] == shown).all()


def test_it_passes_gymnasiums_checker():
    env = CandidateActions(RAGEnv([FILM, BOTH], dynamics()[0]), Ideas(), n=5)
    with warnings.catch_warnings():
        # The checker wants the unwrapped environment, and this is a wrapper.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env, skip_render_check=True)


@pytest.mark.slow
def test_it_passes_stable_baselines3s_checker():
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(CandidateActions(RAGEnv([FILM, BOTH], dynamics()[0]), Ideas(), n=5))


def test_flattened_candidates_are_one_vector():
    wrapped = gym.wrappers.FlattenObservation(CandidateActions(RAGEnv([FILM], dynamics()[0]), Ideas(), n=4))
    assert isinstance(wrapped.observation_space, gym.spaces.Box)
    obs, _ = wrapped.reset(seed=0)
    assert obs in wrapped.observation_space
