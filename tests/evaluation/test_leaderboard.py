import bz2
import gzip
import json

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
    assert "|  | reader | 1.000 [0.342, 1.000]" in text
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


@pytest.mark.parametrize("write", [json.dumps, lambda value: json.dumps(value, indent=1)])
@pytest.mark.parametrize(
    "form",
    [
        lambda answers: {"answer": answers, "sp": {key: [["A", 0]] for key in answers}},
        lambda answers: {"answer": answers, "sp": {}, "evidence": {key: [["a", "b", "c"]] for key in answers}},
        lambda answers: answers,
        lambda answers: [{"_id": key, "prediction": answer, "f1": 0} for key, answer in answers.items()],
    ],
    ids=["HotpotQA", "2WikiMultihopQA", "SQuAD", "rows"],
)
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
def test_official_predictions_files_are_scored_and_unknown_ids_counted(towns, tmp_path, write, form, suffix):
    answers = {f"q{i}": f"the River{i % 7}" for i in range(12)}
    compress = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix]
    for extra in ({}, {"train-1": "x", "train-2": "y"}):
        path = tmp_path / f"mine.json{suffix}"
        path.write_bytes(compress(write(form({**answers, **extra})).encode()))
        board = build_leaderboard([path], card=towns)
        row = board.boards[0].rows[0]
        assert (row.scores.metrics["em"].mean, row.scores.complete, row.unknown) == (1, True, len(extra))
        assert ("2 of its predictions are for other questions and not scored." in board.to_markdown()) == bool(extra)


def test_missing_predictions_leave_a_file_unranked(towns, tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", [{"id": "q0", "prediction": "River0"}])
    scores = build_leaderboard([tmp_path / "mine.jsonl"], card=towns).boards[0].rows[0].scores
    assert (scores.scored, scores.missing, scores.complete) == (1, 11, False)


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [
        ({"id": "q0"}, MalformedData, "line 1: field 'prediction'"),
        ({"id": "q0", "prediction": None}, MalformedData, "line 1: field 'prediction'"),
        ({"id": 1.5, "prediction": "x"}, MalformedData, "line 1: field 'id'"),
        ({"id": 3, "prediction": "x"}, DataError, "none of its 1 ids is a question"),
        ({"id": "zz", "prediction": "x"}, DataError, "none of its 1 ids is a question"),
        ({"q0": 5}, MalformedData, "prediction of 'q0': an answer should be a string, found 5"),
        ({"answer": {"q0": None}}, MalformedData, "prediction of 'q0': an answer should be a string, found None"),
        ({"answer": {"zz": "x"}, "sp": {}}, DataError, "none of its 1 ids is a question"),
        ({}, DataError, "none of its 0 ids"),
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
