"""Runs are paired question by question, and only on the same questions."""

from __future__ import annotations

import json

import pytest

from raggym_env.core import Answer
from raggym_env.errors import OptionError, RunError
from raggym_env.evaluation import build_leaderboard, compare, evaluate
from raggym_env.evaluation.statistics import mcnemar
from raggym_env.protocols import Proposal
from towns import Reader, write_towns


class Guesser(Reader):
    """Answers with its own list, right or wrong."""

    name = "guesser"

    def __init__(self, answers, **options):
        super().__init__(**options)
        self.answers = answers

    def _proposal(self, state):
        if state.question.id in self.fails:
            return super()._proposal(state)
        return Proposal(Answer(self.answers.get(state.question.id, "no idea")))


@pytest.fixture
def towns(tmp_path):
    return write_towns(tmp_path / "towns")


@pytest.fixture
def runs(towns, tmp_path):
    """Returns a function from the indices of the questions that a run has right to its folder."""

    def make(*right, **options):
        guesser = Guesser({f"q{index}": f"River{index}" for index in right}, **options.pop("policy", {}))
        folder = tmp_path / f"run-{'-'.join(map(str, right))}-{len(options)}"
        return evaluate(towns, guesser, out=folder, **options)[0].path

    return make


def test_wins_losses_and_means_are_those_of_the_paired_questions(runs):
    (comparison,) = compare([runs(0, 1, 2), runs(2, 3, 4, 5, 6)])
    em = comparison.main
    assert (em.metric, em.wins, em.ties, em.losses) == ("em", 4, 6, 2)
    assert (em.first, em.second, em.difference.mean) == pytest.approx((3 / 12, 5 / 12, 2 / 12))
    assert em.difference.low < 2 / 12 < em.difference.high
    assert em.mcnemar == mcnemar(4, 2)
    assert 0 < em.p_value <= 1
    assert (comparison.won, comparison.lost) == (("q3", "q4", "q5", "q6"), ("q0", "q1"))
    assert (comparison.questions, comparison.left_out) == (12, 0)


def test_a_run_equals_itself(runs):
    folder = runs(0, 3)
    (comparison,) = compare([folder, folder])
    assert all(part.difference.mean == 0 and part.p_value == 1 for part in comparison.differences)
    assert comparison.won == comparison.lost == ()


def test_the_means_are_those_of_the_leaderboard(runs):
    folders = [runs(0, 1), runs(1, 2, 3)]
    (comparison,) = compare(folders)
    board = {row.source: row for row in build_leaderboard(folders).boards[0].rows}
    for part in comparison.differences:
        assert part.first == board[str(folders[0])].scores.metrics[part.metric].mean
        assert part.second == board[str(folders[1])].scores.metrics[part.metric].mean


def test_several_runs_are_compared_with_the_first_and_corrected(runs):
    first, *others = compare([runs(0), runs(*range(8)), runs(0, 1), runs(0, 2)])
    assert first.corrected == pytest.approx(min(1, 3 * first.main.p_value))
    assert all(comparison.corrected >= comparison.main.p_value for comparison in [first, *others])
    assert {comparison.first for comparison in [first, *others]} == {"guesser"}


def test_questions_that_failed_in_one_run_are_left_out_and_counted(runs):
    (comparison,) = compare([runs(0, 1, policy={"fails": {"q5"}}), runs(0, 5)])
    assert (comparison.questions, comparison.left_out) == (11, 1)
    assert comparison.main.second == pytest.approx(1 / 11)


def test_runs_on_different_questions_are_refused(runs, towns, tmp_path):
    with pytest.raises(RunError, match="number of questions 12 and 5"):
        compare([runs(0), runs(1, limit=5)])
    other = write_towns(tmp_path / "other")
    lines = (other.parent / "questions.jsonl").read_text().replace("Town1", "Town2")
    (other.parent / "questions.jsonl").write_text(lines)
    changed = evaluate(other, Reader(), out=tmp_path / "changed")[0].path
    with pytest.raises(RunError, match="different questions"):
        compare([runs(0), changed])


def test_one_run_and_runs_without_a_common_question_are_refused(runs):
    with pytest.raises(OptionError, match="at least two"):
        compare([runs(0)])
    everything = {f"q{index}" for index in range(12)}
    with pytest.raises(RunError, match="share no question"):
        compare([runs(0), runs(1, policy={"fails": everything})])


def test_a_comparison_is_plain_data(runs):
    (comparison,) = compare([runs(0), runs(1)])
    record = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert record["differences"][0]["difference"] == list(comparison.main.difference)
