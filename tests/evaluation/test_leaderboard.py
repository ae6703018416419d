import json
import re

import pytest

from raggym_env.errors import DataError, MalformedData, RunError
from raggym_env.evaluation import build_leaderboard, evaluate
from towns import Reader, write_jsonl, write_towns


@pytest.fixture
def towns(tmp_path):
    return write_towns(tmp_path / "towns")


class Guesser(Reader):
    """Right on the two first questions only."""

    name = "guesser"

    def _proposal(self, state):
        from raggym_env.core import Answer
        from raggym_env.protocols import Proposal

        return Proposal(Answer({"q0": "River0", "q1": "River1"}.get(state.question.id, "no idea")))


def run(towns, policy, folder, **options):
    return evaluate(towns, policy, out=folder, **options)[0].path


def test_runs_are_ranked_by_the_environments_metric(towns, tmp_path):
    folders = [run(towns, Guesser(), tmp_path / "a"), run(towns, Reader(), tmp_path / "b")]
    (board,) = build_leaderboard(folders).boards
    assert [row.policy for row in board.rows] == ["reader", "guesser"]
    assert board.rows[1].scores.metrics["em"].mean == pytest.approx(2 / 12)
    assert (board.environment, board.split, board.questions, board.metric) == ("Towns-v0", "test", 12, "em")


def test_a_run_in_which_not_all_questions_are_scored_is_not_ranked_above_complete_ones(towns, tmp_path):
    """Means over finished episodes only would put a run that crashed on the hard questions first."""
    crashed = run(towns, Reader(fails={f"q{i}" for i in range(2, 12)}), tmp_path / "a")
    board = build_leaderboard([crashed, run(towns, Guesser(), tmp_path / "b")])
    assert [row.policy for row in board.boards[0].rows] == ["guesser", "reader"]
    text = board.to_markdown()
    assert "|  | reader | 1.000 [1.000, 1.000]" in text
    assert "2/12, 10 failed" in text
    assert "are not ranked" in text


def test_tampered_records_are_scored_again(towns, tmp_path):
    folder = run(towns, Guesser(), tmp_path / "a")
    records = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    write_jsonl(
        folder / "episodes.jsonl",
        [{**r, "em": 1.0, "steps": [{**s, "outcome": 1.0} for s in r["steps"]]} for r in records],
    )
    assert build_leaderboard([folder]).boards[0].rows[0].scores.metrics["em"].mean == pytest.approx(2 / 12)


def test_different_question_sets_are_different_boards(towns, tmp_path):
    folders = [run(towns, Reader(), tmp_path / "a"), run(towns, Reader(), tmp_path / "b", limit=3)]
    assert [board.questions for board in build_leaderboard(folders).boards] == [3, 12]


def test_settings_are_shown_where_they_differ(towns, tmp_path):
    folders = [run(towns, Reader(), tmp_path / "a"), run(towns, Reader(), tmp_path / "b", settings={"retrieval.k": 2})]
    text = build_leaderboard(folders).to_markdown()
    assert "| bm25, k=2, 8 searches, corpus " in text
    assert "Setting: bm25, k=5" in build_leaderboard(folders[:1]).to_markdown()


def test_a_run_on_questions_that_have_changed_is_refused(towns, tmp_path):
    folder = run(towns, Reader(), tmp_path / "a")
    rows = [json.loads(line) for line in (towns.parent / "questions.jsonl").read_text().splitlines()]
    write_jsonl(towns.parent / "questions.jsonl", [{**row, "golden_answers": ["no idea"]} for row in rows])
    with pytest.raises(RunError, match="other questions"):
        build_leaderboard([folder])


def test_a_predictions_file_is_scored_on_the_whole_split(towns, tmp_path):
    write_jsonl(
        tmp_path / "mine.jsonl", [{"id": f"q{i}", "prediction": f"the River{i % 7}", "em": 0} for i in range(12)]
    )
    (board,) = build_leaderboard([tmp_path / "mine.jsonl"], card=towns).boards
    assert (board.rows[0].policy, board.rows[0].scores.metrics["em"].mean, board.rows[0].scores.complete) == (
        "mine",
        1,
        True,
    )


def test_missing_predictions_leave_a_file_unranked(towns, tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", [{"id": "q0", "prediction": "River0"}])
    scores = build_leaderboard([tmp_path / "mine.jsonl"], card=towns).boards[0].rows[0].scores
    assert (scores.scored, scores.missing, scores.complete) == (1, 11, False)


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [
        ({"id": "q0"}, MalformedData, "line 1: field 'prediction'"),
        ({"id": "q0", "prediction": None}, MalformedData, "line 1: field 'prediction'"),
        ({"id": 3, "prediction": "x"}, MalformedData, "line 1: field 'id'"),
        ({"id": "zz", "prediction": "x"}, DataError, "none of its ids"),
    ],
)
def test_malformed_predictions_name_line_and_field(towns, tmp_path, row, error, said):
    write_jsonl(tmp_path / "mine.jsonl", [row])
    with pytest.raises(error, match=said):
        build_leaderboard([tmp_path / "mine.jsonl"], card=towns)


def test_predictions_without_an_environment_and_missing_sources_are_clear_errors(tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", [{"id": "q0", "prediction": "x"}])
    with pytest.raises(DataError, match="--env"):
        build_leaderboard([tmp_path / "mine.jsonl"])
    with pytest.raises(RunError, match="neither a run folder nor a predictions file"):
        build_leaderboard([tmp_path / "gone"])


def test_published_results_are_shown_as_cited_and_never_ranked(towns, tmp_path):
    published = tmp_path / "published.toml"
    published.write_text(
        '[[result]]\nenvironment = "Towns-v0"\npolicy = "Giant"\nsource = "arXiv:1"\nem = 0.99\n'
        '[[result]]\nenvironment = "Other-v0"\npolicy = "Nobody"\nsource = "arXiv:1"\nem = 0.99\n'
    )
    text = build_leaderboard([run(towns, Guesser(), tmp_path / "a")], published=published).to_markdown()
    assert text.index("| 1 | guesser") < text.index("|  | Giant (cited: arXiv:1) | 0.990 |")
    assert "Nobody" not in text


def test_a_malformed_published_file_is_named(tmp_path):
    (tmp_path / "p.toml").write_text("[[result]]\npolicy = 3\n")
    with pytest.raises(DataError, match=r"p\.toml"):
        build_leaderboard([], published=tmp_path / "p.toml")


def test_json_holds_every_figure_unrounded(towns, tmp_path):
    rows = json.loads(json.dumps(build_leaderboard([run(towns, Guesser(), tmp_path / "a")]).to_json()))
    assert rows[0]["rows"][0]["scores"]["metrics"]["em"][0] == pytest.approx(2 / 12)


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "q0", "prediction": "River0"}',
        '{"id": "q0", "prediction": "River0"}\n\n',
        '[{"id": "q0", "prediction": "River0"}]',
    ],
)
def test_predictions_are_read_without_a_final_newline_with_blank_lines_or_as_an_array(towns, tmp_path, text):
    (tmp_path / "mine.jsonl").write_text(text)
    assert build_leaderboard([tmp_path / "mine.jsonl"], card=towns).boards[0].rows[0].scores.scored == 1


def test_two_predictions_for_one_question_are_refused(towns, tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", [{"id": "q0", "prediction": "River0"}, {"id": "q0", "prediction": "River1"}])
    with pytest.raises(MalformedData, match="line 2: id 'q0' occurred before"):
        build_leaderboard([tmp_path / "mine.jsonl"], card=towns)


def test_runs_ranked_by_another_metric_are_another_board_whatever_the_order(towns, tmp_path):
    folders = [
        run(towns, Reader(), tmp_path / "a"),
        run(towns, Reader(), tmp_path / "b", settings={"episode.metric": "f1"}),
    ]
    for order in (folders, folders[::-1]):
        assert sorted(board.metric for board in build_leaderboard(order).boards) == ["em", "f1"]


def test_rows_that_differ_in_options_are_told_apart(towns, tmp_path):
    folders = [
        run(towns, "lexical", tmp_path / "a"),
        run(towns, "lexical", tmp_path / "b", settings={"policy.options.searches": 1}),
        run(towns, "lexical", tmp_path / "c", seed=4, settings={"retrieval.options.k1": 0.5}),
    ]
    (board,) = build_leaderboard(folders).boards
    assert {row.policy for row in board.rows} == {"lexical", "lexical (searches=1)", "lexical (seed 4)"}
    settings = {row.setting.rpartition(", corpus")[0] for row in board.rows}
    assert settings == {"bm25, k=5, 8 searches", "bm25, k=5, k1=0.5, 8 searches"}


def test_runs_over_different_passages_show_it(towns, tmp_path):
    folders = [run(towns, Reader(), tmp_path / "a")]
    rows = [json.loads(line) for line in (towns.parent / "corpus.jsonl").read_text().splitlines()]
    write_jsonl(towns.parent / "corpus.jsonl", rows[:-1])
    folders.append(run(towns, Reader(), tmp_path / "b"))
    (board,) = build_leaderboard(folders).boards
    assert len({row.setting for row in board.rows}) == 2


def test_names_and_options_are_plain_text_in_markdown(towns, tmp_path):
    class Named(Reader):
        name = fingerprint = "a|b\\|c\n| d | <img src=x> ![i](http://e.example) single_search\x1b[2J"

    folders = [run(towns, Named(), tmp_path / "a"), run(towns, Reader(), tmp_path / "b")]
    lines = build_leaderboard(folders).to_markdown().splitlines()
    assert r"| a\|b\\\|c \| d \| &lt;img src=x> !\[i](http://e.example) single_search\[2J |" in lines[4]
    assert {len(re.findall(r"(?<!\\)\|", line.replace(r"\\", ""))) for line in lines[2:6]} == {9}


def test_a_name_of_a_policy_cannot_leave_the_folder_of_the_runs(towns, tmp_path, monkeypatch):
    class Named(Reader):
        name = fingerprint = "../../\x1b[2J" + "ø" * 300

    monkeypatch.chdir(tmp_path)
    path = run(towns, Named(), None)
    assert path.parent.resolve() == tmp_path / "runs"
    assert len(path.name.encode()) < 255
