import numpy as np
import pytest

from raggym_env.core import Answer, Search
from raggym_env.errors import OptionError, RewardError, UnknownName
from raggym_env.mdp.step_reward import Reward, StepReward
from raggym_env.rewards import make
from raggym_env.rewards.random import RandomReward
from raggym_env.testing import check_process_reward
from worlds import FILM, PILL, dynamics


class Fixed:
    def __init__(self, *rows):
        self.rows = [np.array(row, np.float32) for row in rows]

    def score(self, states, actions):
        return self.rows


def one_step(reward, action, task=FILM, searches=1):
    steps, _ = dynamics(max_searches=searches)
    state = steps.start(task.question)
    return reward.score([task], [state], [action], steps.transition([state], [action]))[0]


def test_total_is_the_weighted_sum_of_outcome_and_process_reward():
    reward = StepReward("em", Fixed([0.25]), outcome_weight=2.0, process_weight=4.0)
    assert one_step(reward, Answer("Oslo")) == Reward(3.0, 1.0, 0.25)
    assert one_step(reward, Search("Dawn")) == Reward(1.0, 0.0, 0.25)


def test_a_draft_is_graded_when_the_budget_is_exceeded_and_its_absence_scores_zero():
    assert one_step(StepReward(), Search("Dawn", "Oslo"), searches=0).outcome == 1.0
    assert one_step(StepReward(), Search("Dawn"), searches=0).outcome == 0.0


def test_options_are_graded_by_accuracy():
    assert one_step(StepReward("accuracy"), Answer("B"), PILL).outcome == 1.0
    assert one_step(StepReward("accuracy"), Answer("A"), PILL).outcome == 0.0


def test_an_unknown_metric_is_refused():
    with pytest.raises(OptionError, match=r"metric must be one of .*, got 'bleu'"):
        StepReward("bleu")


@pytest.mark.parametrize("rows", [[], [[0.1, 0.2]], [[0.1], [0.2]], [[float("nan")]]])
def test_a_process_reward_that_gives_no_score_or_too_many_is_an_error_not_a_zero(rows):
    with pytest.raises(RewardError, match=r"Fixed\.score must return (one score for each|finite scores)"):
        one_step(StepReward("em", Fixed(*rows)), Search("Dawn"))


def test_random_scores_are_fixed_by_seed_state_and_action():
    steps, _ = dynamics()
    state = steps.start(FILM.question)
    candidates = [Search("a"), Search("b"), Answer("a")]
    check_process_reward(RandomReward(0), [state, state], [candidates, []])
    (first,), (other) = (RandomReward(0).score([state], [candidates]), RandomReward(1).score([state], [candidates])[0])
    assert len(set(first)) == 3
    assert not np.array_equal(first, other)


def test_process_rewards_are_made_by_name():
    steps, _ = dynamics()
    assert make("none", [FILM], steps, "test") is None
    assert make("random", [FILM], steps, "test", seed=3).seed == 3
    with pytest.raises(UnknownName, match="Did you mean 'evidence'"):
        make("evidnce", [FILM], steps, "train")


def test_evidence_is_refused_on_the_test_split():
    with pytest.raises(RewardError, match='split="train"'):
        make("evidence", [FILM], dynamics()[0], "test")


@pytest.mark.parametrize("split", ["test", "dev", "validation"])
def test_evidence_is_for_training_splits_with_supporting_facts(split):
    steps, _ = dynamics()
    with pytest.raises(RewardError, match="splits named train"):
        make("evidence", [FILM], steps, split)
    with pytest.raises(RewardError, match="1 of 2 questions name none"):
        make("evidence", [FILM, PILL], steps, "train")
