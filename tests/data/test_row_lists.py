"""Splits that are listed rows of a complete questions file."""

from __future__ import annotations

import json
import re

import pytest

from raggym_env.cards import env_card
from raggym_env.data import load_tasks
from raggym_env.data.row_lists import listed
from raggym_env.errors import CardError, DataError, UnknownName
from raggym_env.storage.parsing import parse_toml, read_file

PAPER = ["RAGGym-MedQA-MedText-v0", "RAGGym-MedQA-Textbooks-v0"]
COMPLETE = 10_178


@pytest.fixture
def medqa(tmp_path, monkeypatch):
    """A function that writes a training file of so many questions, named by their rows, and both corpora."""
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path))
    monkeypatch.setenv("RAGGYM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "medqa"
    folder.mkdir()
    for corpus in ("medtext.jsonl", "textbooks.jsonl"):
        (folder / corpus).write_text('{"id": "1", "title": "Ant", "content": "An ant."}\n')

    def write(questions):
        rows = (
            {"question": f"Row {row}?", "answer": "Ant", "options": {"A": "Ant", "B": "Bee"}, "answer_idx": "A"}
            for row in range(questions)
        )
        path = folder / "phrases_no_exclude_train.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path

    return write


@pytest.mark.parametrize("name", PAPER)
def test_medqa_s_training_questions_are_the_paper_s_sample_of_the_complete_file(name, medqa):
    medqa(COMPLETE)
    tasks = load_tasks(name, "train").tasks
    rows = [int(re.findall(r"[0-9]+", task.question.text)[0]) for task in tasks]
    assert len(rows) == len(set(rows)) == 1_000
    assert rows[:5] == [18, 230, 540, 633, 663]
    assert (min(rows), max(rows), sum(row < 1_000 for row in rows)) == (1, 10_176, 99)
    assert {task.id for task in tasks} == {f"medqa-train-{row:04}" for row in rows}


@pytest.mark.parametrize("questions", [1, 1_000, COMPLETE - 1, COMPLETE + 1])
def test_a_file_of_another_length_is_refused_with_the_reason(questions, medqa):
    path = medqa(questions)
    with pytest.raises(DataError) as caught:
        load_tasks(PAPER[0], "train")
    message = str(caught.value)
    assert f"{path} has {questions:,} questions" in message
    assert "the complete file of 10,178" in message
    assert "other questions" in message


def test_the_test_questions_do_not_need_the_complete_training_file(medqa):
    path = medqa(3)
    path.rename(path.with_name("phrases_no_exclude_test.jsonl"))
    assert len(load_tasks(PAPER[0], "test").tasks) == 3


def test_the_lists_have_distinct_rows_of_their_file():
    from raggym_env.data import row_lists

    for content in parse_toml(read_file(row_lists._LISTS)).values():
        assert len(set(content["rows"])) == len(content["rows"])
        assert all(0 <= row < content["questions"] for row in content["rows"])


def test_an_unknown_list_is_named_with_those_that_exist(tmp_path):
    with pytest.raises(UnknownName, match="medqa_train"):
        listed("medqa_dev", [], tmp_path)


@pytest.mark.parametrize("rows", ["listed", "listed ", "listed ../x", "listed a b", "Listed medqa_train"])
def test_a_malformed_list_is_no_rows_of_a_card(tmp_path, rows):
    path = tmp_path / "Own-v0.toml"
    path.write_text(
        f'title = "T"\n[dataset]\nformat = "medqa"\n[[dataset.splits.test]]\nquestions = "q.jsonl"\nrows = "{rows}"\n'
    )
    with pytest.raises(CardError, match="rows"):
        env_card(path)
