import numpy as np
import pytest

from raggym_env.core import Answer, Fact, Question, Search, State, Task
from raggym_env.errors import RewardError
from raggym_env.rewards.evidence import EvidenceReward, evidence_recall
from raggym_env.testing import check_process_reward
from worlds import BOTH, FILM, PILL, process

COST = 0.05


def setup(max_searches=3):
    steps, _ = process(max_searches)
    return steps, EvidenceReward([FILM, BOTH], steps, search_cost=COST)


def after(steps, state, *queries):
    for query in queries:
        (state,) = steps.transition([state], [Search(query)])
    return state


def test_a_search_earns_the_share_of_gold_it_newly_finds():
    steps, reward = setup()
    start = steps.start(FILM.question)
    (scores,) = reward.score([start], [[Search("Dawn"), Search("Dusk"), Answer("Oslo")]])
    np.testing.assert_allclose(scores, [0.5 - COST, -COST, -1.0], rtol=1e-6)


def test_with_all_evidence_found_answering_beats_any_search():
    steps, reward = setup()
    full = after(steps, steps.start(FILM.question), "Dawn", "Ada Berg")
    (scores,) = reward.score([full], [[Search("Dawn"), Search("Ada Berg"), Answer("Oslo")]])
    np.testing.assert_allclose(scores, [-COST, -COST, 0.0], atol=1e-6)


def test_repeating_a_query_earns_nothing():
    steps, reward = setup()
    once = after(steps, steps.start(FILM.question), "Dawn")
    assert reward.score([once], [[Search("Dawn")]])[0][0] == pytest.approx(-COST)


def test_searching_beyond_the_budget_is_worth_less_than_answering():
    steps, reward = setup(max_searches=1)
    half = after(steps, steps.start(FILM.question), "Dawn")
    (scores,) = reward.score([half], [[Search("Ada Berg", draft="Oslo"), Answer("Oslo")]])
    np.testing.assert_allclose(scores, [-0.5 - COST, -0.5], rtol=1e-6)


def test_the_contract_holds_for_many_states_and_uneven_candidates():
    steps, reward = setup()
    states = [steps.start(FILM.question), after(steps, steps.start(BOTH.question), "Dusk")]
    check_process_reward(reward, states, [[Search("Dawn"), Answer("x")], [Search("Dawn")]])


def test_all_candidates_of_all_states_are_searched_in_one_call():
    steps, retriever = process()
    reward = EvidenceReward([FILM, BOTH], steps)
    reward.score(
        [steps.start(FILM.question), steps.start(BOTH.question)], [[Search("Dawn"), Search("a")], [Search("b")]]
    )
    assert retriever.calls == [["Dawn", "a", "b"]]


def test_a_question_without_supporting_facts_is_an_error_not_a_zero():
    steps, _ = setup()
    with pytest.raises(RewardError, match="knows no supporting facts"):
        EvidenceReward([PILL], steps).score([steps.start(PILL.question)], [[Answer("A")]])
    with pytest.raises(RewardError, match="Who"):
        EvidenceReward([FILM], steps).score([State(Question("x", "Who?"), (), 1)], [[Answer("A")]])


def test_titles_are_compared_without_case_escapes_and_odd_spaces():
    task = Task(Question("1", "q"), ("a",), supporting=(Fact("Tom &amp; Jerry"), Fact("El  extraño Viaje")))
    assert evidence_recall(task, ["tom & jerry", "El Extraño viaje"]) == 1.0
    assert evidence_recall(task, ["Tom"]) == 0.0
    assert evidence_recall(PILL, ["Tom"]) is None


def test_questions_of_equal_text_are_told_apart_by_id_and_refused_without():
    steps, _ = process()
    one = Task(Question("1", "W?"), ("a",), supporting=(Fact("Dawn"),))
    two = Task(Question("2", "W?"), ("a",), supporting=(Fact("Dusk"),))
    reward = EvidenceReward([one, two], steps, search_cost=0.0)
    states = [steps.start(one.question), steps.start(two.question)]
    assert [row[0] for row in reward.score(states, [[Search("Dawn")]] * 2)] == [1.0, 0.0]
    with pytest.raises(RewardError, match="knows no supporting facts"):
        reward.score([State(Question("", "W?"), (), 1)], [[Search("Dawn")]])
