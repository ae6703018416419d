import numpy as np
import pytest

from raggym_env.cards import PriceCard
from raggym_env.core import Question, Task
from raggym_env.evaluation.scores import Prediction, bootstrap, score_records
from raggym_env.mdp.records import Episode
from worlds import BOTH, FILM, PILL


def record(task, answer, steps=(), **rest):
    """An episode, read from its record."""
    steps = [{"outcome": 0.0, "process_reward": 0.0, **step} for step in steps]
    return Episode.from_json(
        {"id": task.id, "question": "?", "answer": answer, "stop": "answer", "error": None, "steps": steps, **rest}
    )


def test_means_are_over_all_questions_of_the_set():
    scores = score_records([record(FILM, "Oslo"), record(BOTH, "no")], [FILM, BOTH])
    assert scores.metrics["em"].mean == 0.5
    assert (scores.questions, scores.scored, scores.complete) == (2, 2, True)


def test_reported_scores_are_not_trusted():
    liar = record(
        FILM, "Rome", scores={"em": 1.0}, em=1.0, steps=[{"answer": "Rome", "outcome": 1.0, "process_reward": 1.0}]
    )
    assert score_records([liar], [FILM]).metrics["em"].mean == 0.0


def test_an_episode_that_ended_without_an_answer_scores_zero():
    scores = score_records([record(FILM, None, stop="search_budget")], [FILM])
    assert (scores.metrics["em"].mean, scores.scored) == (0.0, 1)


def test_a_failed_episode_is_counted_apart_and_never_scored_as_zero():
    failed = record(BOTH, None, stop=None, error="RetrievalError: down")
    scores = score_records([record(FILM, "Oslo"), failed], [FILM, BOTH, PILL])
    assert scores.metrics["em"].mean == 1.0
    assert (scores.scored, scores.failed, scores.missing, scores.complete) == (1, 1, 1, False)


def test_an_output_that_is_no_action_is_an_answer_not_given_and_is_counted():
    scores = score_records([record(FILM, None, stop="no_action"), record(BOTH, "yes")], [FILM, BOTH])
    assert (scores.metrics["em"].mean, scores.no_action, scores.complete) == (0.5, 1, True)


def test_the_last_record_of_a_question_counts():
    failed = record(FILM, None, stop=None, error="down")
    assert score_records([failed, record(FILM, "Oslo")], [FILM]).complete
    assert score_records([record(FILM, "Oslo"), record(FILM, "Rome")], [FILM]).metrics["em"].mean == 0.0


def test_records_of_other_questions_are_passed_over():
    assert score_records([record(PILL, "B")], [FILM]).scored == 0


def test_recall_is_the_share_of_gold_passages_found():
    steps = [{"search": "x", "passages": [["1", "dawn"], ["2", "Other"]]}, {"answer": "Oslo"}]
    assert score_records([record(FILM, "Oslo", steps=steps)], [FILM]).metrics["recall"].mean == 0.5


def test_a_search_that_exceeded_the_budget_is_not_counted():
    steps = [{"search": "x"}, {"search": "y"}]
    ended = score_records([record(FILM, "Oslo", steps=steps, stop="search_budget")], [FILM])
    answered = score_records([record(FILM, "Oslo", steps=[*steps, {"answer": "Oslo"}])], [FILM])
    assert (ended.searches, answered.searches) == (1.0, 2.0)


def test_tokens_are_totals_not_means_and_failed_episodes_cost_too():
    usage = {"calls": 1, "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 0, "seconds": 0.5}
    failed = record(BOTH, None, stop=None, error="down", usage=usage)
    records = [record(FILM, "x", usage=usage), failed, record(BOTH, "x", usage=usage), record(PILL, "B", usage=usage)]
    scores = score_records(records, [FILM, BOTH])
    assert (scores.tokens, scores.usage.calls, scores.usage.seconds) == (45, 3, 1.5)


def test_cost_counts_cached_tokens_at_their_own_price_if_there_is_one():
    usage = {"calls": 1, "prompt_tokens": 1000, "completion_tokens": 100, "cached_tokens": 400, "seconds": 0.5}
    records = [record(FILM, "x", usage=usage)]
    plain = score_records(records, [FILM], PriceCard(prompt=2.0, completion=10.0))
    discounted = score_records(records, [FILM], PriceCard(prompt=2.0, completion=10.0, cached=0.5))
    assert (plain.cost, discounted.cost) == (pytest.approx(0.003), pytest.approx(0.0024))
    assert score_records(records, [FILM]).cost is None


def test_options_are_scored_by_accuracy():
    assert score_records([record(PILL, "B")], [PILL]).metrics["accuracy"].mean == 1.0


def test_plain_predictions_have_no_searches():
    scores = score_records([Prediction("film", "Oslo")], [FILM])
    assert (scores.metrics["em"].mean, scores.searches) == (1.0, None)


def test_the_interval_is_seeded_holds_the_mean_and_narrows_with_more_questions():
    rng = np.random.default_rng(0)
    few, many = rng.random(50) < 0.3, rng.random(5000) < 0.3
    narrow, wide = bootstrap(many.astype(float)), bootstrap(few.astype(float))
    assert narrow == bootstrap(many.astype(float))
    assert narrow.low < narrow.mean < narrow.high
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 5000) ** 0.5, rel=0.1)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_a_mean_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap([])


def test_means_by_type_hops_and_level_are_over_the_scored_questions_of_each():
    tasks = [
        Task(Question(str(number), "?"), ("Oslo",), type=kind, metadata={"hops": hops, "level": "hard"})
        for number, (kind, hops) in enumerate([("bridge", 2), ("bridge", 3), ("comparison", 2), ("bridge", 2)])
    ]
    records = [record(task, answer) for task, answer in zip(tasks, ["Oslo", "Rome", "in Oslo"], strict=False)]
    records.append(record(tasks[3], None, error="the server did not answer"))
    groups = {(group.field, group.value): group for group in score_records(records, tasks).groups}
    # All are hard, so the level tells nothing apart.
    assert list(groups) == [("hops", "2"), ("hops", "3"), ("type", "bridge"), ("type", "comparison")]
    assert [group.questions for group in groups.values()] == [2, 1, 2, 1]
    assert [group.means["em"] for group in groups.values()] == [0.5, 0.0, 0.5, 0.0]
    assert groups["type", "comparison"].means["answer_precision"] == 0.5
    assert score_records(records, tasks[:1]).groups == ()
