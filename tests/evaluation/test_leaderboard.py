import bz2
import contextlib
import gzip
import json
import os
import re
import socket
import tracemalloc
from dataclasses import replace

import pytest

from raggym_env.errors import CardError, DataError, DataNotFound, MalformedData, RAGGymError, RunError
from raggym_env.evaluation import Leaderboard, build_leaderboard, evaluate, report_page
from raggym_env.evaluation.leaderboard import Board, Row
from raggym_env.evaluation.published import read_published
from raggym_env.protocols import Proposal
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


CITED = '[[result]]\nenvironment = "Towns-v0"\npolicy = "Giant"\nsource = "arXiv:1"\nem = 0.99\n'


def board_beside(published, runs):
    published.write_text(CITED + 'model = "Big-1B"\nk = 32\ncorpus = "owner/wiki"\n')
    (board,) = build_leaderboard(runs, published=published).boards
    return board


def test_cited_rows_show_model_k_and_corpus_and_a_warning_says_in_what_runs_differ(towns, tmp_path):
    board = board_beside(tmp_path / "p.toml", [run(towns, "lexical", tmp_path / "a")])
    assert board.differences() == (
        "Warning, not comparable: the model of 1 cited rows is Big-1B, that of the runs none; the k of 1 cited rows is "
        "32, that of the runs 5; the corpus of 1 cited rows is owner/wiki, that of the runs corpus.jsonl."
    )
    text = Leaderboard((board,)).to_markdown()
    assert "| Big-1B, k=32, corpus owner/wiki |" in text
    assert "Warning, not comparable" in text


@pytest.mark.parametrize("llm", ["openai:big/Big-1B@http://localhost:1/v1", "hf:big/big-1b+adapters/dpo", "Big-1B"])
def test_a_run_with_the_published_model_k_and_corpus_has_no_warning(towns, tmp_path, llm):
    row = board_beside(tmp_path / "p.toml", [run(towns, "lexical", tmp_path / "a")]).rows[0]
    cited = Row("Giant", "arXiv:1", cited={"em": 0.99}, model="Big-1B", k=32, corpus="owner/wiki")
    same = replace(row, model=llm, k=32, corpus="owner/wiki")
    assert Board("Towns-v0", "test", 12, "em", (same, cited)).differences() == ""
    for change in ({"model": "hf:other"}, {"k": 31}, {"corpus": "wiki"}, {"model": ""}):
        (name,) = change
        assert (
            f"the {name} of 1 cited rows"
            in Board("Towns-v0", "test", 12, "em", (replace(same, **change), cited)).differences()
        )


def test_what_a_published_row_does_not_state_is_no_difference(towns, tmp_path):
    (tmp_path / "p.toml").write_text(CITED)
    (board,) = build_leaderboard([run(towns, Reader(), tmp_path / "a")], published=tmp_path / "p.toml").boards
    assert (board.rows[1].setting, board.differences()) == ("", "")


def test_predictions_and_policy_objects_have_no_recorded_model(towns, tmp_path):
    board = board_beside(tmp_path / "p.toml", [run(towns, Reader(), tmp_path / "a")])
    assert "that of the runs not recorded" in board.differences()


def test_the_paper_s_results_need_no_path_and_stand_at_its_cards_alone(towns, tmp_path):
    (board,) = build_leaderboard([run(towns, Reader(), tmp_path / "a")], published=True).boards
    assert [row.policy for row in board.rows] == ["reader"]
    renamed = towns.rename(towns.with_name("RAGGym-HotpotQA-Wiki-v0.toml"))
    (board,) = build_leaderboard([run(renamed, Reader(), tmp_path / "b")], published=True).boards
    cited = board.rows[1:]
    assert len(cited) == sum(row.environment == board.environment for row in read_published())
    assert all(row.scores is None and row.cited for row in cited)
    assert "RAG-Gym/wiki_hotpotqa, that of the runs corpus.jsonl" in board.differences()


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


# -- folders from somebody else -----------------------------------------------------------------------------------


def damaged(folder, content, name="episodes.jsonl"):
    (folder / name).write_bytes(content)


def linked(path, target):
    path.unlink(missing_ok=True)
    path.symlink_to(target)


DAMAGE = {
    "no run.json": lambda folder: (folder / "run.json").unlink(),
    "run.json is cut off": lambda folder: damaged(folder, b'{"format": 1', "run.json"),
    "run.json is deep": lambda folder: damaged(folder, b"[" * 100_000, "run.json"),
    "run.json has a huge number": lambda folder: damaged(folder, b'{"format": 1' + b"0" * 500 + b"}", "run.json"),
    "run.json is a link": lambda folder: linked(folder / "run.json", (folder / "run.json").rename(folder / "x")),
    "run.json is a pipe": lambda folder: (folder / "run.json").unlink() or os.mkfifo(folder / "run.json"),
    "an episode is no JSON": lambda folder: damaged(folder, b"{]\n"),
    "an episode is deep": lambda folder: damaged(folder, b"[" * 100_000 + b"\n"),
    "an episode is NaN": lambda folder: damaged(folder, b"NaN\n"),
    "an episode lacks fields": lambda folder: damaged(folder, b'{"id": "q0"}\n'),
    "episodes are a pipe": lambda folder: (folder / "episodes.jsonl").unlink() or os.mkfifo(folder / "episodes.jsonl"),
    "episodes are a device": lambda folder: linked(folder / "episodes.jsonl", "/dev/zero"),
    "process data": lambda folder: edit(folder, lambda content: content["config"].update(collect=COLLECT)),
    "other questions": lambda folder: edit(folder, lambda content: content["config"].update(dataset="other")),
    "no such split": lambda folder: edit(folder, lambda content: content["config"].update(split="dev")),
    "no such data": lambda folder: edit(folder, lambda content: content.update(card_path="/no/where/X-v0.toml")),
    "episodes are a folder": lambda folder: (folder / "episodes.jsonl").unlink() or (folder / "episodes.jsonl").mkdir(),
}
COLLECT = {"n": 2, "critic": "mini", "keep": "all", "execute": "best", "explore": 0.0, "metric": "em"}


def edit(folder, change):
    content = json.loads((folder / "run.json").read_text())
    change(content)
    (folder / "run.json").write_text(json.dumps(content))


def files(folder):
    return {path: (os.lstat(path).st_mtime_ns, os.lstat(path).st_size) for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_bad_run_is_named_and_left_out_and_the_others_are_ranked(towns, tmp_path, damage):
    good, bad = run(towns, Guesser(), tmp_path / "good"), run(towns, Reader(), tmp_path / "bad")
    damage(bad)
    before = files(tmp_path)
    left_out = []
    board = build_leaderboard([bad, good], on_error=lambda *row: left_out.append(row))
    assert [row.policy for row in board.boards[0].rows] == ["guesser"]
    ((source, error),) = left_out
    assert source == bad
    assert isinstance(error, RAGGymError | OSError)
    with pytest.raises(type(error), match=re.escape(str(error)[:80])):
        build_leaderboard([good, bad])
    assert files(tmp_path) == before  # reading writes nothing, no lock either


@pytest.mark.parametrize("wrong", [None, True, -1, 10**30, "x", "\ud800", [], {}, [["x"]], {"x": 1}], ids=repr)
def test_an_episode_with_anything_wrong_anywhere_is_read_or_one_typed_error(towns, tmp_path, wrong):
    folder = run(towns, "lexical", tmp_path / "run", limit=1, settings={"policy.search": CRITIC})
    record = json.loads((folder / "episodes.jsonl").read_text())
    for path in list(places(record)):
        changed = json.loads(json.dumps(record))
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        if path:
            parent[path[-1]] = wrong
        write_jsonl(folder / "episodes.jsonl", [changed if path else wrong])
        with contextlib.suppress(RAGGymError):
            board = build_leaderboard([folder])
            (board.to_markdown() + json.dumps(board.to_json()) + report_page(board)).encode()


CRITIC = {"best_of": 2, "critic": "random"}


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def test_nothing_is_downloaded_whatever_a_run_names(towns, tmp_path, monkeypatch):
    folder = run(towns, Reader(), tmp_path / "run")
    sources = [{"questions": "hub:somebody/data:test", "corpus": "hub:somebody/data:corpus"}]
    edit(folder, lambda content: content["config"]["environment"]["dataset"]["splits"].update(test=sources))

    def refuse(*arguments, **options):
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(DataNotFound, match="raggym data get"):
        build_leaderboard([folder])
    board = build_leaderboard([run(towns, Reader(), tmp_path / "other")])
    edit(tmp_path / "other", lambda content: content.update(json.loads((folder / "run.json").read_text())))
    with pytest.raises(DataNotFound):
        report_page(board)


def test_a_generated_data_set_without_end_is_refused(towns, tmp_path):
    folder = run(towns, Reader(), tmp_path / "run")
    splits = {"test": [{"questions": "test", "rows": f"first {10**8}"}]}
    edit(folder, lambda content: content["config"]["environment"]["dataset"].update(format="synth", splits=splits))
    with pytest.raises(CardError, match="at most 1,000,000 rows"):
        build_leaderboard([folder])


def test_any_number_of_records_takes_little_memory(towns, tmp_path):
    folder = run(towns, Reader(), tmp_path / "run")
    file = folder / "episodes.jsonl"
    records = file.read_bytes()
    strangers = b"".join(records.replace(b'"id": "q', b'"id": "%d-' % number) for number in range(200))
    file.write_bytes(strangers + records * 100)
    tracemalloc.start()
    try:
        (board,) = build_leaderboard([folder]).boards
        assert tracemalloc.get_traced_memory()[1] < 2e6  # as episodes in memory they would take 7 MB
    finally:
        tracemalloc.stop()
    assert (board.rows[0].scores.scored, board.rows[0].scores.metrics["em"].mean) == (12, 1.0)


class Silent(Reader):
    """Writes outputs that are no actions, for all questions but those in `speaks`."""

    name = fingerprint = "silent"

    def __init__(self, *speaks):
        super().__init__()
        self.speaks = speaks

    def _proposal(self, state):
        if state.question.id in self.speaks:
            return super()._proposal(state)
        reason = "the server refuses `temperature`\n<b>400</b>" if state.question.id != "q7" else "no block"
        return Proposal(None, text="?", failure=reason)


def test_outputs_that_were_no_action_are_counted_with_their_most_frequent_reason(towns, tmp_path):
    (board,) = build_leaderboard([run(towns, Silent("q1", "q2"), tmp_path / "a")]).boards
    scores = board.rows[0].scores
    reasons = {"the server refuses `temperature`\n<b>400</b>": 9, "no block": 1}
    assert (scores.no_action, scores.no_action_reasons, scores.ranked) == (10, reasons, True)
    text = Leaderboard((board,)).to_markdown()
    assert "| 1 | silent |" in text
    assert "silent: 10 outputs could not be read as an action and score 0. Most frequent reason: the server" in text


def test_a_run_without_a_single_action_is_not_ranked_and_the_board_says_why(towns, tmp_path):
    folders = [run(towns, Silent(), tmp_path / "a"), run(towns, Guesser(), tmp_path / "b")]
    board = build_leaderboard(folders)
    text = board.to_markdown()
    assert "|  | silent | 0.000 [0.000, 0.242]" in text
    assert "| 1 | guesser |" in text
    assert "silent: no output could be read as an action, so it is not ranked. Most frequent reason: the server" in text
    assert json.loads(json.dumps(board.to_json()))[0]["rows"][1]["scores"]["no_action"] == 12


def test_a_record_of_an_older_version_has_no_reason(towns, tmp_path):
    folder = run(towns, Silent(), tmp_path / "a")
    records = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    write_jsonl(folder / "episodes.jsonl", [{k: v for k, v in each.items() if k != "failure"} for each in records])
    assert "Most frequent reason: unknown." in build_leaderboard([folder]).to_markdown()


@pytest.mark.parametrize(
    "text", ["[[result]]\nenvironment = 'E'\npolicy = 'p'\nsource = 's'\nem = 7", "result = 3", "a = inf", "[" * 9999]
)
def test_published_results_are_checked(tmp_path, text):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(DataError, match=r"p\.toml"):
        build_leaderboard([], published=tmp_path / "p.toml")


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
