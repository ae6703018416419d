"""Process reward by completions of the episode."""

import numpy as np
import pytest

from raggym_env import rewards
from raggym_env.core import Answer, Question, Search, Task, Usage
from raggym_env.errors import OptionError, RewardError
from raggym_env.policies.lexical import LexicalPolicy
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.rewards.rollout import RolloutReward
from raggym_env.testing import check_process_reward
from worlds import BOTH, FILM, PILL, dynamics


class Reader(BasePolicy):
    """Answers with the birthplace once the director's page is retrieved, before that with "nowhere"."""

    def __init__(self, others=()):
        self.others = others
        self.batches = []

    def propose(self, states, n=1):
        self.batches.append(len(states))
        others = [Proposal(action, score=0.5) for action in self.others]
        return [
            [Proposal(Answer(self.answer(state)), score=1.0, usage=Usage(calls=1)), *others][:n] for state in states
        ]

    def answer(self, state):
        return "Oslo" if any(passage.title == "Ada Berg" for passage in state.passages) else "nowhere"


def setup(policy=None, max_searches=3, completion_searches=None, **options):
    steps, retriever = dynamics(max_searches)
    tasks = [FILM, BOTH, PILL]
    return (
        steps,
        RolloutReward(policy or Reader(), steps, tasks, max_searches=completion_searches, **options),
        retriever,
    )


def test_an_action_scores_what_it_adds_to_the_value_of_the_state():
    steps, reward, _ = setup()
    start = steps.start(FILM.question)
    (scores,) = reward.score([start], [[Search("Ada Berg"), Search("Dawn"), Answer("Oslo"), Answer("Rome")]])
    np.testing.assert_array_equal(scores, [1, 0, 1, 0])


def test_without_the_advantage_an_action_scores_the_value_of_the_next_state():
    steps, reward, _ = setup(advantage=False)
    (middle,) = steps.transition([steps.start(FILM.question)], [Search("Ada Berg")])
    np.testing.assert_array_equal(reward.score([middle], [[Search("Dawn"), Answer("Rome")]])[0], [1, 0])
    plain = setup()[1].score([middle], [[Search("Dawn"), Answer("Rome")]])[0]
    np.testing.assert_array_equal(plain, [0, -1])


@pytest.mark.parametrize("padding", [[], ["Dawn"], ["Dawn", "Dawn", "nothing"]])
def test_an_episodes_rewards_add_up_to_its_outcome_however_it_is_padded(padding):
    policy = Reader([Search("Ada Berg"), Answer("Bergen")])
    steps, reward, _ = setup(policy, max_searches=5, m=16, explore=0.6)
    start = state = steps.start(FILM.question)
    total = 0.0
    for action in [*map(Search, padding), Search("Ada Berg"), Answer("Oslo")]:
        total += reward.score([state], [[action]])[0][0]
        (state,) = steps.transition([state], [action])
    start_value = -reward.score([start], [[Answer("wrong")]])[0][0]
    assert 0 < start_value < 1
    assert total == pytest.approx(1 - start_value, abs=1e-6)


class Walker(BasePolicy):
    """Searches for the director, then answers "Oslo" once its page is retrieved."""

    def propose(self, states, n=1):
        return [
            [
                Proposal(
                    Answer("Oslo") if any(p.title == "Ada Berg" for p in state.passages) else Search("Ada Berg"),
                    score=1,
                )
            ]
            for state in states
        ]


def test_a_discount_makes_the_shorter_way_worth_more():
    # By hand: answering at once is worth 1, after one search .5, after two .25; V(start) = .5 by one search.
    steps, reward, _ = setup(Walker(), discount=0.5, m=1)
    start = steps.start(FILM.question)
    (scores,) = reward.score([start], [[Search("Ada Berg"), Search("Dawn"), Answer("Oslo"), Answer("Rome")]])
    np.testing.assert_array_equal(scores, [0.0, -0.25, 0.5, -0.5])
    (middle,) = steps.transition([start], [Search("Dawn")])
    np.testing.assert_array_equal(
        reward.score([middle], [[Search("Ada Berg"), Search("Dusk"), Answer("Oslo")]])[0], [0.0, -0.125, 0.25]
    )


@pytest.mark.parametrize("padding", [[], ["Dawn"], ["Dawn", "Dusk"]])
def test_discounted_rewards_add_up_to_the_discounted_outcome(padding):
    steps, reward, _ = setup(Walker(), max_searches=5, discount=0.9, m=1)
    state = steps.start(FILM.question)
    total = 0.0
    for action in [*map(Search, padding), Search("Ada Berg"), Answer("Oslo")]:
        total += reward.score([state], [[action]])[0][0]
        (state,) = steps.transition([state], [action])
    assert total == pytest.approx(0.9 ** (1 + len(padding)) - 0.9, abs=1e-6)


def test_a_draft_beyond_the_budget_is_discounted_by_the_searches_before_it():
    steps, reward, _ = setup(Walker(), max_searches=1, discount=0.5, m=1, advantage=False)
    (spent,) = steps.transition([steps.start(FILM.question)], [Search("Dawn")])
    np.testing.assert_array_equal(reward.score([spent], [[Search("x", draft="Oslo"), Answer("Oslo")]])[0], [0.5, 0.5])


def test_a_draft_is_graded_if_the_budget_ends():
    steps, reward, _ = setup(max_searches=0)
    scores = reward.score([steps.start(FILM.question)], [[Search("x", draft="Oslo"), Search("x")]])[0]
    np.testing.assert_array_equal(scores, [1, 0])


def test_completions_draw_differently_but_reproducibly_in_every_batch():
    def values(m, seed):
        policy = Reader([Search("Ada Berg"), Search("Dusk"), Answer("Bergen")])
        steps, reward, _ = setup(policy, m=m, seed=seed, explore=0.5, advantage=False)
        return reward.score([steps.start(FILM.question)], [[Search("Dawn")]])[0][0]

    steps, reward, _ = setup(Reader([Search("Ada Berg"), Search("Dusk")]), explore=0.5)
    states = [steps.start(FILM.question), steps.start(BOTH.question), steps.start(FILM.question)]
    check_process_reward(reward, states, [[Search("Dawn"), Answer("Oslo")], [], [Search("Dusk")]])
    assert 0 < values(64, 0) < 1  # some completions retrieve the page, some do not
    assert values(64, 0) == values(64, 0)
    assert len({values(64, seed) for seed in range(4)}) > 1


def test_samples_without_scores_are_drawn_evenly():
    class Sampler(BasePolicy):
        def propose(self, states, n=1):
            return [[Proposal(Answer(text)) for text in ("Oslo", "Rome", "Rome", "Rome")] for _ in states]

    steps, reward, _ = setup(Sampler(), m=400, advantage=False)
    assert reward.score([steps.start(FILM.question)], [[Search("Dawn")]])[0][0] == pytest.approx(0.25, abs=0.08)


def test_all_completions_run_side_by_side_and_equal_states_share_one_call_of_the_policy():
    policy = Reader()
    steps, reward, retriever = setup(policy, m=8)
    starts = [steps.start(FILM.question), steps.start(BOTH.question)]
    reward.score(starts, [[Search("Dawn"), Search("Ada Berg")], [Search("Dusk")]])
    assert policy.batches == [5]  # three states after a search, two before
    assert retriever.calls == [["Dawn", "Ada Berg", "Dusk"]]
    assert reward.usage.calls == 5


def test_the_searches_of_a_completion_can_be_limited():
    class Searcher(BasePolicy):
        def propose(self, states, n=1):
            return [[Proposal(Search("Dusk", draft=f"{state.searches_left} left"), score=1.0)] for state in states]

    steps, reward, retriever = setup(Searcher(), max_searches=9, m=1, advantage=False, completion_searches=1)
    reward.score([steps.start(FILM.question)], [[Search("Dawn")]])
    assert retriever.queries == ["Dawn", "Dusk"]


def test_questions_with_options_are_graded_by_accuracy():
    steps, reward, _ = setup()
    np.testing.assert_array_equal(reward.score([steps.start(PILL.question)], [[Answer("B"), Answer("A")]])[0], [1, 0])


def test_a_failed_completion_is_an_error_and_never_a_zero():
    class Down(BasePolicy):
        def propose(self, states, n=1):
            return [[Proposal(None, failure="the server is down", outage=True)] for _ in states]

    steps, reward, _ = setup(Down())
    with pytest.raises(RewardError, match=r"born.*the server is down"):
        reward.score([steps.start(FILM.question)], [[Search("Dawn")]])


def test_an_output_that_is_not_an_action_leaves_the_completion_without_an_answer():
    class Babbler(BasePolicy):
        def propose(self, states, n=1):
            return [[Proposal(None, text="hm", failure="no JSON")] for _ in states]

    steps, reward, _ = setup(Babbler())
    np.testing.assert_array_equal(
        reward.score([steps.start(FILM.question)], [[Search("x"), Answer("Oslo")]])[0], [0, 1]
    )


def test_a_question_that_matches_no_task_or_several_is_an_error():
    steps, reward, _ = setup()
    with pytest.raises(RewardError, match=r"has no tasks with the question 'Who\?'"):
        reward.score([steps.start(Question("x", "Who?"))], [[Answer("a")]])
    twins = [Task(Question(name, "W?"), (name,)) for name in "ab"]
    reward = RolloutReward(Reader(), steps, twins)
    assert reward.score([steps.start(twins[1].question)], [[Answer("b")]])[0][0] == 1
    with pytest.raises(RewardError, match="has 2 tasks"):
        reward.score([steps.start(Question("", "W?"))], [[Answer("b")]])


def test_it_is_made_by_name_for_training_splits_only():
    steps, _ = dynamics()
    policy = LexicalPolicy(searches=1)
    reward = rewards.make("rollout", [FILM], steps, "train", policy=policy, m=2)
    assert reward.score([steps.start(FILM.question)], [[Answer("Oslo")]])[0].shape == (1,)
    with pytest.raises(RewardError, match="reads gold answers or facts, so it is for splits named train"):
        rewards.make("rollout", [FILM], steps, "test", policy=policy)
    with pytest.raises(RewardError, match="needs the tasks and the dynamics"):
        rewards.make("rollout", (), None, "train", policy=policy)
    with pytest.raises(OptionError, match="policy"):
        rewards.make("rollout", [FILM], steps, "train")


@pytest.mark.parametrize(
    "options",
    [
        {"discount": 0.0},
        {"discount": 1.5},
        {"m": 0},
        {"width": 0},
        {"explore": 1.5},
        {"metric": "bleu"},
        {"max_searches": -1},
        {"depth": 2},
    ],
)
def test_options_out_of_range_or_unknown_are_refused(options):
    (name,) = options
    with pytest.raises(OptionError, match=name):
        rewards.make("rollout", [FILM], dynamics()[0], "train", policy=Reader(), **options)
