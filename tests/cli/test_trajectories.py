import io

from rich.console import Console

from raggym_env.cli._trajectories import render, sample, summarise
from raggym_env.core import Answer, Passage, Question, Search, State, Turn
from raggym_env.mdp.records import Candidate
from raggym_env.training.process_data.collect import collect
from raggym_env.training.process_data.trajectories import Trajectory, TrajectoryStep
from towns import write_towns

QUESTION = Question("q7", "Where was [bold]Ada\x1b[31m Berg born?")
SEARCHED = State(QUESTION, (Turn("Ada", (Passage("1", "Ada Berg", "Oslo."), Passage("2", "Dawn", "x"))),), 1)
DRAFTED = Search("Ada", draft="Rome")
BORN = Trajectory(
    QUESTION,
    (
        TrajectoryStep(
            State(QUESTION, (), 2), (Candidate(Search("Ada", draft="Rome"), 0.5),), Search("Ada", draft="Rome")
        ),
        TrajectoryStep(
            SEARCHED,
            (Candidate(Answer("Oslo"), 0.25, outcome=1.0), Candidate(Answer("Rome"), -0.5, outcome=0.0)),
            Answer("Rome"),
        ),
    ),
    "Rome",
    0.0,
)


def printed(trajectory):
    console = Console(file=io.StringIO(), width=100)
    console.print(render(trajectory))
    return console.file.getvalue()


def test_a_person_sees_candidates_with_scores_and_the_executed_one_marked():
    lines = [" ".join(line.split()) for line in printed(BORN).splitlines()]
    assert "▶ +0.500 search Ada (draft: Rome)" in lines
    assert "found: Ada Berg · Dawn" in lines
    assert "+0.250 answer Oslo outcome 1.00" in lines
    assert "▶ -0.500 answer Rome outcome 0.00" in lines
    assert "Answered 'Rome', outcome 0.00" in lines


def test_texts_are_printed_as_they_are_without_markup_or_escapes():
    assert "Where was [bold]Ada[31m Berg born?" in printed(BORN)


def test_a_sample_is_spread_over_all():
    assert sample(range(10), 3) == [0, 3, 6]
    assert sample(range(2), 3) == [0, 1]
    assert sample([], 3) == sample(range(2), 0) == []


def test_a_summary_counts_what_training_can_use(tmp_path):
    towns = write_towns(tmp_path / "data")
    summary = summarise(collect(towns, "lexical", critic="evidence", n=4, out=tmp_path / "run"))
    assert (summary.trajectories, summary.kept_trajectories, summary.failed, summary.outcome) == (12, 12, 0, 1.0)
    assert summary.states >= 24
    assert 1 < summary.candidates_per_state <= 4
    assert 0 < summary.preferences <= summary.states < summary.pairs
    assert dict(summary.rows())["trajectories"] == "12"
