import warnings

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers

from raggym_env.core import Answer, Search
from raggym_env.envs.env import RAGEnv
from raggym_env.envs.vector import RAGVectorEnv
from raggym_env.envs.wrappers import TaggedText
from raggym_env.errors import InvalidAction, RetrievalError
from raggym_env.mdp.step_reward import StepReward
from raggym_env.rewards.random import RandomReward
from worlds import BOTH, FILM, PILL, dynamics

TASKS = [FILM, BOTH, PILL]
ACTIONS = [(0, "Dawn"), (1, "Oslo"), (0, "nothing"), (1, "B")]


def pair(mode, n=5):
    """The same episodes batched by us and run one by one by Gymnasium."""
    parts = (TASKS, dynamics()[0], StepReward("f1", RandomReward(), process_weight=0.5))
    ours = RAGVectorEnv(*parts, num_envs=n, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: RAGEnv(*parts)] * n, autoreset_mode=mode)
    return ours, theirs


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert data_equivalence(dict(mine) if isinstance(mine, dict) else mine, other, exact=True), (mine, other)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_vector_environment_equals_n_single_ones_step_by_step(mode, seed):
    ours, theirs = pair(mode)
    rng = np.random.default_rng(seed)
    same(ours.reset(seed=seed), theirs.reset(seed=seed))
    for _ in range(60):
        actions = tuple(ACTIONS[i] for i in rng.integers(len(ACTIONS), size=5))
        mine, other = ours.step(actions), theirs.step(actions)
        same(mine, other)
        ended = mine[2] | mine[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            same(ours.reset(options={"reset_mask": ended.copy()}), theirs.reset(options={"reset_mask": ended.copy()}))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_spaces_and_metadata_are_those_of_the_single_environment_batched(mode):
    ours, theirs = pair(mode)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] is mode
    assert ours.reset(seed=0)[0] in ours.observation_space
    assert ours.step(ours.action_space.sample())[0] in ours.observation_space


def test_a_vector_step_makes_one_retriever_call():
    steps, retriever = dynamics()
    env = RAGVectorEnv(TASKS, steps, num_envs=3)
    env.reset(seed=0)
    env.step([Search("Dawn"), Search("Dusk"), Answer("x")])
    assert retriever.calls == [["Dawn", "Dusk"]]


def test_seeds_may_be_given_one_by_one_and_options_pick_the_question():
    env = RAGVectorEnv(TASKS, dynamics()[0], num_envs=2)
    assert env.reset(seed=[7, 7])[1]["index"].tolist() in ([0, 0], [1, 1], [2, 2])
    assert env.reset(options={"index": 2})[1]["index"].tolist() == [2, 2]
    with pytest.raises(ValueError, match="2 environments need as many seeds, got 3"):
        env.reset(seed=[1, 2, 3])


def test_a_failed_step_changes_nothing_and_can_be_repeated():
    steps, retriever = dynamics(fails=["Dusk"])
    env = RAGVectorEnv(TASKS, steps, num_envs=2)
    env.reset(seed=0)
    with pytest.raises(RetrievalError):
        env.step([Search("Dawn"), Search("Dusk")])
    retriever._fails = frozenset()
    obs, *_ = env.step([Search("Dawn"), Search("Dusk")])
    assert obs["searches_left"].tolist() == [1, 1]


def test_one_invalid_action_stops_the_step_before_anything_happens():
    steps, retriever = dynamics()
    env = RAGVectorEnv(TASKS, steps, num_envs=2)
    env.reset(seed=0)
    for actions in ([Search("Dawn"), None], [Search("Dawn")]):
        with pytest.raises(InvalidAction):
            env.step(actions)
    assert retriever.calls == []


def test_stepping_before_reset_and_past_the_end_raises():
    env = RAGVectorEnv(TASKS, dynamics()[0], num_envs=2, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded):
        env.step([Answer("x")] * 2)
    with pytest.raises(ResetNeeded, match="never reset"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    env.step([Answer("x"), Search("Dawn")])
    with pytest.raises(ResetNeeded, match=r"Environments \[0\] have ended"):
        env.step([Answer("x")] * 2)


@pytest.mark.parametrize("mask", [[True, False], np.array([1, 0]), np.array([False, False]), np.array([True])])
def test_a_wrong_reset_mask_is_refused(mask):
    env = RAGVectorEnv(TASKS, dynamics()[0], num_envs=2)
    env.reset()
    with pytest.raises(ValueError, match=r"bool array of shape \(2,\)"):
        env.reset(options={"reset_mask": mask})


def test_actions_of_environments_that_are_only_reset_are_not_looked_at():
    env = RAGVectorEnv(TASKS, dynamics()[0], num_envs=2)
    env.reset(seed=0)
    env.step([Answer("x"), Search("Dawn")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, rewards, terminated, _, infos = env.step([None, Answer("x")])
    assert (rewards[0], terminated.tolist()) == (0.0, [False, True])
    assert infos["_index"].tolist() == [True, False]


def test_at_least_one_environment():
    with pytest.raises(ValueError, match="num_envs"):
        RAGVectorEnv(TASKS, dynamics()[0], num_envs=0)


# -- Gymnasium's own vector environments and wrappers ---------------------------------------------------------------


def one():
    return RAGEnv(TASKS, dynamics()[0])


def one_tagged():
    return TaggedText(one())


@pytest.mark.parametrize("make", [one, one_tagged])
def test_async_vectors_need_shared_memory_off_and_the_error_says_so(make):
    with pytest.raises(TypeError, match=r"shared_memory=False"):
        AsyncVectorEnv([make] * 2)


TAGGED = [["<search>Dawn</search>"] * 2, ["<answer>x</answer>"] * 2]


@pytest.mark.parametrize(("make", "actions"), [(one, [[(0, "Dawn")] * 2, [(1, "Oslo")] * 2]), (one_tagged, TAGGED)])
def test_async_vectors_without_shared_memory_equal_sync_ones(make, actions):
    vectors = [AsyncVectorEnv([make] * 2, shared_memory=False), SyncVectorEnv([make] * 2)]
    try:
        first, second = ([vector.reset(seed=3), *map(vector.step, actions)] for vector in vectors)
        assert data_equivalence(first, second)
    finally:
        for vector in vectors:
            vector.close()


STOCK = {
    "DictInfoToList": wrappers.DictInfoToList,
    "FilterObservation": lambda env: wrappers.FilterObservation(env, ["question"]),
    "FlattenObservation": wrappers.FlattenObservation,
    "NormalizeReward": wrappers.NormalizeReward,
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "TransformObservation": lambda env: wrappers.TransformObservation(env, lambda obs: obs),
    "TransformReward": lambda env: wrappers.TransformReward(env, lambda reward: reward),
}


@pytest.mark.parametrize("wrap", STOCK.values(), ids=STOCK)
def test_the_stock_vector_wrappers_treat_ours_as_gymnasiums(wrap):
    ours, theirs = wrap(RAGVectorEnv(TASKS, dynamics()[0], num_envs=2)), wrap(SyncVectorEnv([one] * 2))
    for env in (ours, theirs):
        env.reset(seed=1)
    for actions in ([(0, "Dawn"), (1, "Oslo")], [(1, "Oslo"), (0, "Dusk")], [(0, "Dawn"), (1, "yes")]):
        (obs, *rest, infos), (expected, *others, expected_infos) = ours.step(actions), theirs.step(actions)
        assert data_equivalence(obs, expected)
        assert all(np.array_equal(*pair) for pair in zip(rest, others, strict=True))
        assert len(infos) == len(expected_infos)
