"""Process rewards from gold supporting facts."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env import rewards
from raggym_env.core import Answer, Fact, Question, Search, State, Task, Turn
from raggym_env.errors import OptionError, RewardError
from raggym_env.rewards.evidence import EvidenceReward, EvidenceValue, evidence_recall
from raggym_env.testing import check_process_reward
from worlds import BOTH, FILM, PILL, dynamics

COST = 0.05


def setup(max_searches=3):
    steps, _ = dynamics(max_searches)
    return steps, EvidenceReward([FILM, BOTH], steps, search_cost=COST)


def state_after(steps, state, *queries):
    for query in queries:
        (state,) = steps.transition([state], [Search(query)])
    return state


def test_a_search_earns_the_recall_it_adds():
    steps, reward = setup()
    start = steps.start(FILM.question)
    (scores,) = reward.score([start], [[Search("Dawn"), Search("Dusk"), Answer("Oslo")]])
    np.testing.assert_allclose(scores, [0.5 - COST, -COST, -1.0], rtol=1e-6)


def test_with_all_the_evidence_answering_beats_any_search():
    steps, reward = setup()
    full = state_after(steps, steps.start(FILM.question), "Dawn", "Ada Berg")
    (scores,) = reward.score([full], [[Search("Dawn"), Search("Ada Berg"), Answer("Oslo")]])
    np.testing.assert_allclose(scores, [-COST, -COST, 0.0], atol=1e-6)


def test_repeating_a_query_earns_nothing():
    steps, reward = setup()
    once = state_after(steps, steps.start(FILM.question), "Dawn")
    assert reward.score([once], [[Search("Dawn")]])[0][0] == pytest.approx(-COST)


def test_redundancy_costs_by_the_share_of_the_passages_that_were_retrieved_before():
    # By hand: "Dawn" returns two passages, of which none, one or both are in the history.
    steps, _ = dynamics(3)
    reward = EvidenceReward([FILM, BOTH], steps, search_cost=COST, redundancy=0.4)
    once = state_after(steps, steps.start(FILM.question), "Dawn", "Ada Berg")
    candidates = [Search("Dawn"), Search("Dusk"), Search("nothing"), Answer("Oslo")]
    (scores,) = reward.score([once], [candidates])
    np.testing.assert_allclose(scores, [-COST - 0.4, -COST, -COST, 0.0], atol=1e-6)
    half = State(FILM.question, (Turn("q", once.history[0].passages[1:]),), 3)
    np.testing.assert_allclose(
        reward.score([half], [[Search("Dawn"), Search("Ada Berg")]])[0], [0.5 - COST - 0.2, 0.5 - COST], atol=1e-6
    )
    spent = State(FILM.question, once.history, 0)
    np.testing.assert_allclose(reward.score([spent], [[Search("Dawn")]])[0], [-COST], atol=1e-6)
    plain = EvidenceReward([FILM, BOTH], steps, search_cost=COST)
    np.testing.assert_array_equal(plain.score([once], [candidates])[0], np.float32([-COST, -COST, -COST, 0.0]))


def test_redundancy_out_of_range_is_refused():
    for redundancy in (-0.1, float("inf"), float("nan")):
        with pytest.raises(OptionError, match="redundancy"):
            rewards.make("evidence", [FILM], dynamics()[0], "train", redundancy=redundancy)


def test_searching_beyond_the_budget_is_worth_less_than_answering():
    steps, reward = setup(max_searches=1)
    half = state_after(steps, steps.start(FILM.question), "Dawn")
    (scores,) = reward.score([half], [[Search("Ada Berg", draft="Oslo"), Answer("Oslo")]])
    np.testing.assert_allclose(scores, [-0.5 - COST, -0.5], rtol=1e-6)


def test_the_contract_holds_for_many_states_and_uneven_candidates():
    steps, reward = setup()
    states = [steps.start(FILM.question), state_after(steps, steps.start(BOTH.question), "Dusk")]
    check_process_reward(reward, states, [[Search("Dawn"), Answer("x")], [Search("Dawn")]])


def test_all_candidates_of_all_states_are_searched_in_one_call():
    steps, retriever = dynamics()
    reward = EvidenceReward([FILM, BOTH], steps)
    reward.score(
        [steps.start(FILM.question), steps.start(BOTH.question)], [[Search("Dawn"), Search("a")], [Search("b")]]
    )
    assert retriever.calls == [["Dawn", "a", "b"]]


def test_a_question_without_supporting_facts_is_an_error_not_a_zero():
    steps, _ = setup()
    with pytest.raises(RewardError, match="has no supporting facts"):
        EvidenceReward([PILL], steps).score([steps.start(PILL.question)], [[Answer("A")]])
    with pytest.raises(RewardError, match="Who"):
        EvidenceReward([FILM], steps).score([State(Question("x", "Who?"), (), 1)], [[Answer("A")]])


def test_titles_match_whatever_their_case_escapes_and_spaces():
    task = Task(Question("1", "q"), ("a",), supporting=(Fact("Tom &amp; Jerry"), Fact("El  extraño Viaje")))
    assert evidence_recall(task, ["tom & jerry", "El Extraño viaje"]) == 1.0
    assert evidence_recall(task, ["Tom"]) == 0.0
    assert evidence_recall(PILL, ["Tom"]) is None


def test_questions_with_equal_texts_are_distinguished_by_id_and_refused_without_one():
    steps, _ = dynamics()
    one = Task(Question("1", "W?"), ("a",), supporting=(Fact("Dawn"),))
    two = Task(Question("2", "W?"), ("a",), supporting=(Fact("Dusk"),))
    reward = EvidenceReward([one, two], steps, search_cost=0.0)
    states = [steps.start(one.question), steps.start(two.question)]
    assert [row[0] for row in reward.score(states, [[Search("Dawn")]] * 2)] == [1.0, 0.0]
    with pytest.raises(RewardError, match="has no supporting facts"):
        reward.score([State(Question("", "W?"), (), 1)], [[Search("Dawn")]])


def test_the_recall_of_a_state_counts_each_gold_passage_once():
    steps, reward = setup()
    start = steps.start(FILM.question)
    histories = ((), ("Dawn",), ("Dawn", "Dawn"), ("Dawn", "Ada Berg"))
    assert [reward.recall(state_after(steps, start, *queries)) for queries in histories] == [0.0, 0.5, 0.5, 1.0]


def test_the_recall_of_a_question_without_facts_is_an_error():
    steps, reward = setup()
    with pytest.raises(RewardError, match="has no supporting facts"):
        reward.recall(steps.start(PILL.question))


def value(max_searches=3, tasks=(FILM, BOTH), **options):
    steps, _ = dynamics(max_searches)
    return steps, EvidenceValue(tasks, steps, **options)


def test_the_value_of_an_answer_is_its_evidence_and_its_score():
    steps, reward = value()
    start = steps.start(FILM.question)
    for queries, recall in (((), 0.0), (("Dawn",), 0.5), (("Dawn", "Ada Berg"), 1.0)):
        (scores,) = reward.score(
            [state_after(steps, start, *queries)], [[Answer("Oslo"), Answer("Rome"), Answer("in Oslo")]]
        )
        np.testing.assert_allclose(scores, 0.5 * recall + 0.5 * np.array([1.0, 0.0, 2 / 3]), rtol=1e-6)


def test_the_value_of_a_search_is_the_evidence_it_leads_to_and_the_expected_score():
    steps, reward = value()
    half = state_after(steps, steps.start(FILM.question), "Dawn")
    (scores,) = reward.score([half], [[Search("Ada Berg"), Search("Dusk"), Search("Dawn", draft="Oslo")]])
    np.testing.assert_allclose(scores, [0.5 + 0.5 * 1.0, 0.25 + 0.5 * 0.6, 0.25 + 0.5 * 0.6], rtol=1e-6)
    (scores,) = reward.score([steps.start(FILM.question)], [[Search("Dusk"), Search("Dawn")]])
    np.testing.assert_allclose(scores, [0.5 * 0.2, 0.25 + 0.5 * 0.6], rtol=1e-6)


def test_the_value_of_a_search_beyond_the_budget_is_that_of_its_draft_or_the_evidence_alone():
    steps, reward = value(max_searches=1)
    spent = state_after(steps, steps.start(FILM.question), "Dawn")
    candidates = [
        Search("Ada Berg", draft="Oslo"),
        Search("Ada Berg", draft="Rome"),
        Search("Ada Berg"),
        Answer("Oslo"),
    ]
    np.testing.assert_allclose(reward.score([spent], [candidates])[0], [0.75, 0.25, 0.25, 0.75], rtol=1e-6)


def test_weight_expected_score_and_metric_can_be_set():
    steps, reward = value(weight=0.2, expected_score=(0.1, 0.5), metric="em")
    half = state_after(steps, steps.start(FILM.question), "Dawn")
    (scores,) = reward.score([half], [[Answer("Oslo"), Answer("in Oslo"), Search("Dusk"), Search("Ada Berg")]])
    expected = [0.1 + 0.8, 0.1, 0.1 + 0.8 * 0.3, 0.2 + 0.8 * 0.5]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_answers_with_an_option_are_graded_by_accuracy():
    task = Task(PILL.question, PILL.answers, PILL.correct, supporting=(Fact("Dawn"),))
    steps, reward = value(tasks=[task])
    (scores,) = reward.score([steps.start(task.question)], [[Answer("B"), Answer("ibuprofen"), Answer("A")]])
    np.testing.assert_allclose(scores, [0.5, 0.5, 0.0])


def test_values_keep_the_contract_and_stay_in_range():
    steps, reward = value(max_searches=2)
    states = [steps.start(FILM.question), state_after(steps, steps.start(BOTH.question), "Dusk", "Dawn")]
    candidates = [[Search("Dawn"), Answer("Oslo"), Search("nothing")], [Search("x", draft="yes"), Answer("no")]]
    check_process_reward(reward, states, candidates)
    assert all(((row >= 0) & (row <= 1)).all() for row in reward.score(states, candidates))


@pytest.mark.parametrize(
    "options",
    [
        {"weight": 1.5},
        {"weight": float("nan")},
        {"expected_score": (0.0, 1.5)},
        {"expected_score": (-1, 0)},
        {"expected_score": (1.0,)},
    ],
)
def test_options_out_of_range_are_refused(options):
    steps, _ = dynamics()
    (name,) = options
    with pytest.raises(OptionError, match=rf"{name} must be .*in \[0, 1\]"):
        EvidenceValue([FILM], steps, **options)
    with pytest.raises(OptionError, match=rf"{name} must be (.*in \[0, 1\]|a finite number|a list of 2 items)"):
        rewards.make("evidence_value", [FILM], steps, "train", **options)


def test_a_question_that_is_not_one_of_the_tasks_is_an_error():
    _, reward = value()
    with pytest.raises(RewardError, match="Who"):
        reward.score([State(Question("x", "Who?"), (), 1)], [[Search("Dawn")]])
    nameless = State(Question("", FILM.question.text), (), 1)
    with pytest.raises(RewardError, match="has no task, and so no answer"):
        reward.score([nameless], [[Answer("Oslo")]])


def test_gold_facts_and_answers_are_for_training_splits_only():
    steps, _ = dynamics()
    assert isinstance(rewards.make("evidence_value", [FILM], steps, "train"), EvidenceValue)
    for split in ("test", "dev"):
        with pytest.raises(RewardError, match="splits named train"):
            rewards.make("evidence_value", [FILM], steps, split)
    with pytest.raises(RewardError, match="1 of 2 questions name none"):
        rewards.make("evidence_value", [FILM, PILL], steps, "train")
    with pytest.raises(RewardError, match="needs the tasks and the dynamics"):
        rewards.make("evidence_value", [], None, "train")


@given(st.text(alphabet="aeouéñçüÉŞ &;-()ßİ", min_size=1, max_size=20), *[st.sampled_from(["NFC", "NFD"])] * 2)
def test_titles_match_whatever_their_unicode_forms(title, one, other):
    task = Task(Question("1", "q"), ("a",), supporting=(Fact(unicodedata.normalize(one, title)), Fact("other")))
    assert evidence_recall(task, [unicodedata.normalize(other, title)]) == 0.5
