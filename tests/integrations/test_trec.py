"""A run's retrieval in TREC's formats."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from raggym_env.cli import app
from raggym_env.core import Fact, Passage, Question, Search, Task, title_key
from raggym_env.errors import RunError
from raggym_env.evaluation import evaluate
from raggym_env.evaluation.scored_run import ScoredRun
from raggym_env.integrations.trec import QRELS, RUN, export_trec, qrels_lines, run_lines
from raggym_env.mdp.records import Episode, Step
from towns import Reader, write_towns


def rows(file):
    return [line.split() for line in file.read_text(encoding="utf-8").splitlines()]


def recalls(folder):
    """Return the recall of each judged query, computed from the two files alone."""
    relevant, retrieved = {}, {}
    for query, _, document, _ in rows(folder / QRELS):
        relevant.setdefault(query, set()).add(document)
    for query, _, document, *_ in rows(folder / RUN):
        retrieved.setdefault(query, set()).add(document)
    return {query: len(gold & retrieved.get(query, set())) / len(gold) for query, gold in relevant.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synth") / "run"
    return evaluate("RAGGym-Synth-v0", "lexical", out=folder, limit=20)[0].path


def test_the_files_have_the_recall_of_the_leaderboard_for_every_question(run, tmp_path):
    counts = export_trec(run, tmp_path / "trec")
    scored = ScoredRun.read(run)
    expected = {id: scores["recall"] for id, scores in scored.by_question.items() if "recall" in scores}
    assert len(expected) == counts.questions >= 10
    assert {unquote(query): recall for query, recall in recalls(tmp_path / "trec").items()} == pytest.approx(expected)
    assert counts.left_out == 20 - counts.questions


def test_a_ranking_is_that_of_the_episode_without_repeats_and_its_scores_fall(run, tmp_path):
    export_trec(run, tmp_path / "trec")
    lines = rows(tmp_path / "trec" / RUN)
    scored = ScoredRun.read(run)
    for id, episode in scored.episodes.items():
        titles = dict.fromkeys(title_key(passage.title) for step in episode.steps for passage in step.passages)
        ranking = [line for line in lines if unquote(line[0]) == id]
        assert [unquote(line[2]) for line in ranking] == list(titles)
        assert [int(line[3]) for line in ranking] == list(range(1, len(ranking) + 1))
        assert [int(line[4]) for line in ranking] == list(range(len(ranking), 0, -1))
    assert {line[5] for line in lines} == {"lexical"}


def test_ir_measures_reads_the_files_and_agrees(run, tmp_path):
    ir_measures = pytest.importorskip("ir_measures")
    export_trec(run, tmp_path / "trec")
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "trec" / QRELS)))
    ranking = list(ir_measures.read_trec_run(str(tmp_path / "trec" / RUN)))
    measured = ir_measures.calc_aggregate([ir_measures.R @ 1000], qrels, ranking)[ir_measures.R @ 1000]
    assert measured == pytest.approx(ScoredRun.read(run).scores.metrics["recall"].mean)


def test_failed_episodes_are_in_neither_file_and_counted(tmp_path):
    card = write_towns(tmp_path / "towns")
    run = evaluate(card, Reader(fails=("q1", "q2")), out=tmp_path / "run")[0].path
    counts = export_trec(run, tmp_path / "trec")
    assert (counts.questions, counts.left_out) == (10, 2)
    queries = {line[0] for name in (RUN, QRELS) for line in rows(tmp_path / "trec" / name)}
    assert queries == {f"q{number}" for number in range(12)} - {"q1", "q2"}


def test_a_run_with_nothing_to_judge_an_existing_folder_and_no_run_are_refused(run, tmp_path):
    card = write_towns(tmp_path / "towns")
    file = tmp_path / "towns" / "questions.jsonl"
    questions = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**row, "supporting_facts": []}) + "\n" for row in questions))
    bare = evaluate(card, Reader(), out=tmp_path / "bare")[0].path
    with pytest.raises(RunError, match="none of its 12 questions has both"):
        export_trec(bare, tmp_path / "trec")
    with pytest.raises(RunError, match="exists"):
        export_trec(run, bare)
    with pytest.raises(RunError):
        export_trec(tmp_path / "towns", tmp_path / "trec")
    assert not (tmp_path / "trec").exists()


@given(st.lists(st.text(), min_size=1, max_size=5), st.text(), st.lists(st.text(), max_size=5))
def test_any_ids_and_titles_make_lines_of_as_many_fields_that_are_read_back(titles, id, gold):
    passages = tuple(Passage(f"{number} {title}", title, "") for number, title in enumerate(titles))
    episode = Episode(id, "", (Step(Search("x"), passages),), "", "answer")
    task = Task(Question(id, ""), ("",), supporting=tuple(map(Fact, gold)))
    lines = [line.split() for line in run_lines([episode], "tag")]
    assert {len(line) for line in lines} == {6}
    assert not any('"' in field for line in lines for field in line)  # pandas would read on after one
    keys = list(
        dict.fromkeys(title_key(title) or f"%{passage.id}" for title, passage in zip(titles, passages, strict=True))
    )
    documents = [line[2] for line in lines]
    assert len(documents) == len(set(documents)) == len(keys)
    assert [unquote(document, errors="surrogatepass") for document in documents] == keys
    judged = [line.split() for line in qrels_lines([task])]
    assert {len(line) for line in judged} <= {4}
    assert {line[0] for line in judged} <= {lines[0][0]}
    # A gold title is the document of that title, and no other.
    expected = {title_key(title) for title in gold} & {title_key(title) for title in titles} - {""}
    assert {unquote(line[2], errors="surrogatepass") for line in judged if line[2] in documents} == expected


def test_the_command_says_what_it_wrote(run, tmp_path):
    result = CliRunner().invoke(app, ["export", str(run), "--to", "trec", "--out", str(tmp_path / "trec")])
    assert result.exit_code == 0, result.output
    lines = len(rows(tmp_path / "trec" / RUN))
    assert f"{lines} documents for" in result.output
    again = CliRunner().invoke(app, ["export", str(run), "--to", "trec", "--out", str(tmp_path / "trec")])
    assert again.exit_code == 1
    assert "exists" in again.output
