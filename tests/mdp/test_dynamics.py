import sys
from dataclasses import replace

import pytest

from raggym_env.core import Answer, Search, StopReason
from raggym_env.errors import InvalidAction, OptionError, RetrievalError
from raggym_env.mdp.dynamics import Dynamics
from worlds import BOTH, FILM, dynamics


def test_a_search_appends_its_passages_and_costs_one_search():
    steps, _ = dynamics()
    (state,) = steps.transition([steps.start(FILM.question)], [Search("Dawn")])
    assert [p.title for p in state.history[0].passages] == ["Dawn", "Dawn (song)"]
    assert (state.searches_left, state.stop) == (1, None)


def test_an_answer_ends_the_episode_and_leaves_the_history_as_it_was():
    steps, retriever = dynamics()
    (state,) = steps.transition([steps.start(FILM.question)], [Answer("Oslo")])
    assert (state.answer, state.stop, state.history, retriever.calls) == ("Oslo", StopReason.ANSWER, (), [])


def test_a_batch_makes_one_retriever_call_and_keeps_the_order():
    steps, retriever = dynamics()
    start = [steps.start(task.question) for task in (FILM, BOTH, FILM)]
    after = steps.transition(start, [Search("Ada Berg"), Answer("no"), Search("Dusk")])
    assert retriever.calls == [["Ada Berg", "Dusk"]]
    assert [state.history[0].query if state.history else state.answer for state in after] == ["Ada Berg", "no", "Dusk"]


def test_the_query_on_the_last_allowed_turn_is_run():
    steps, retriever = dynamics(max_searches=1)
    (state,) = steps.transition([steps.start(FILM.question)], [Search("Dawn")])
    assert retriever.queries == ["Dawn"]
    assert (state.searches_left, state.stop) == (0, None)


@pytest.mark.parametrize(
    ("drafts", "answer"), [(["Oslo", None], "Oslo"), (["Oslo", "Bergen"], "Bergen"), ([None, None], None)]
)
@pytest.mark.parametrize("counts", [True, False])
def test_the_last_draft_is_the_answer_of_an_episode_without_one_if_it_is_to_count(drafts, answer, counts):
    steps = replace(dynamics(max_searches=1)[0], answer_with_last_draft=counts)
    state = steps.start(FILM.question)
    for draft in drafts:
        (state,) = steps.transition([state], [Search("Dawn", draft)])
        assert counts or state.draft is None
    assert (state.answer, state.stop) == (answer if counts else drafts[-1], StopReason.SEARCH_BUDGET)


def test_a_draft_never_replaces_an_answer():
    steps = replace(dynamics()[0], answer_with_last_draft=True)
    (state,) = steps.transition([steps.start(FILM.question)], [Search("Dawn", "Oslo")])
    (state,) = steps.transition([state], [Answer("Bergen")])
    assert state.answer == "Bergen"


@pytest.mark.parametrize("draft", [None, "Oslo"])
def test_a_search_beyond_the_budget_is_not_run_and_its_draft_is_the_answer(draft):
    steps, retriever = dynamics(max_searches=0)
    (state,) = steps.transition([steps.start(FILM.question)], [Search("Dawn", draft)])
    assert (state.answer, state.stop, retriever.calls) == (draft, StopReason.SEARCH_BUDGET, [])


def test_a_state_is_forked_without_copying_its_passages():
    steps, _ = dynamics(max_searches=3)
    (state,) = steps.transition([steps.start(FILM.question)], [Search("Dawn")])
    forks = steps.transition([state] * 100, [Search("Dusk")] * 50 + [Search("Ada Berg")] * 50)
    assert all(fork.history[0] is state.history[0] for fork in forks)
    assert len(state.history) == 1
    assert sys.getsizeof(forks[0].history) < 200


def test_an_ended_state_takes_no_action():
    steps, _ = dynamics()
    ended = steps.transition([steps.start(FILM.question)], [Answer("Oslo")])
    with pytest.raises(InvalidAction, match="has ended"):
        steps.transition(ended, [Answer("Oslo")])


def test_states_and_actions_must_be_as_many():
    steps, _ = dynamics()
    with pytest.raises(InvalidAction, match="1 states need as many actions, got 2"):
        steps.transition([steps.start(FILM.question)], [Answer("a"), Answer("b")])


def test_a_retriever_that_loses_a_result_is_an_error_not_a_shift():
    class Lossy:
        def search(self, queries, k):
            return [[]]

    steps = Dynamics(Lossy())
    with pytest.raises(RetrievalError, match=r"Lossy\.search must return one list for each .* 1 .*for 2 queries"):
        steps.transition([steps.start(FILM.question)] * 2, [Search("a"), Search("b")])


@pytest.mark.parametrize(("k", "searches", "message"), [(0, 1, "k must"), (1, -1, "max_searches must")])
def test_impossible_limits_are_refused_by_name(k, searches, message):
    with pytest.raises(OptionError, match=message):
        Dynamics(dynamics()[1], k, searches)
