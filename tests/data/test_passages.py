from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pytest

from raggym_env.core import Passage
from raggym_env.data.passages import read_passages
from raggym_env.data.prepare import prepare_corpus
from raggym_env.errors import DataNotFound, MalformedData

TITLED = Passage("1", "Ant & Dec", "Two men.")


def written(folder: Path, *rows: dict) -> Path:
    path = folder / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode()))
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"id": "1", "title": "Ant &amp; Dec", "text": "Two men."},
        {"_id": "1", "title": "Ant & Dec", "text": "Two men.", "metadata": {}},
        {"id": 1, "title": "Ant & Dec", "content": "Two men.", "contents": "Ant & Dec. Two men."},
        {"id": "1", "contents": "Ant &amp; Dec\nTwo men."},
        {"id": "1", "contents": '"Ant & Dec"\nTwo men.'},
        {"id": "1", "title": "Ant & Dec", "contents": "Two men."},
        {"id": "1", "title": "Ant & Dec", "contents": '"Ant & Dec"\nTwo men.'},
        {"id": "1", "title": "Ant &amp; Dec", "text": ["Two", " men."], "charoffset": [[[0, 3]]], "url": "u"},
        {"id": "1", "title": "Ant & Dec", "text": [["Two "], ["", " men."]], "text_with_links": ["..."]},
    ],
    ids=["ours", "beir", "medrag", "pyserini", "search-r1", "titled", "titled twice", "abstracts", "whole pages"],
)
def test_the_form_is_detected_from_the_first_row(tmp_path, row):
    assert list(read_passages(written(tmp_path, row))) == [TITLED]


def test_quotes_of_a_pyserini_title_stay_where_the_corpus_does_not_quote_titles(tmp_path):
    path = written(tmp_path, {"id": "1", "contents": "A\nx"}, {"id": "2", "contents": '"Heroes"\ny'})
    assert [passage.title for passage in read_passages(path)] == ["A", '"Heroes"']


@pytest.mark.parametrize("body", ["text", "content"])
@pytest.mark.parametrize("first", [{}, {"title": None}, {"title": ""}, {"title": "A"}])
@pytest.mark.parametrize("second", [{}, {"title": None}, {"title": ""}, {"title": "A"}])
def test_a_title_may_be_missing_null_or_empty_in_any_row(tmp_path, body, first, second):
    path = written(tmp_path, {"id": "1", **first, body: "x"}, {"id": "2", **second, body: "y"})
    titles = [row.get("title") or "" for row in (first, second)]
    assert list(read_passages(path)) == [Passage("1", titles[0], "x"), Passage("2", titles[1], "y")]


def test_a_folder_of_compressed_files_is_one_corpus_in_the_order_of_their_paths(tmp_path):
    rows = {"AA/wiki_00.bz2": ["a", "b"], "AA/wiki_01.bz2": ["c"], "AB/wiki_00.bz2": ["d"], "AC/more.jsonl.gz": ["e"]}
    for name, titles in rows.items():
        file = tmp_path / "dump" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{json.dumps({'id': t, 'title': t.upper(), 'text': [t, ' .']})}\n" for t in titles).encode()
        file.write_bytes(bz2.compress(lines) if name.endswith("bz2") else gzip.compress(lines))
    (tmp_path / "dump" / "README.txt").write_text("not a passage")
    expected = [Passage(title, title.upper(), f"{title} .") for title in "abcde"]
    assert list(read_passages(tmp_path / "dump")) == expected
    with prepare_corpus(tmp_path / "dump") as corpus:
        assert list(corpus) == expected
    (tmp_path / "dump" / "AA" / "wiki_01.bz2").unlink()
    with prepare_corpus(tmp_path / "dump") as corpus:
        assert [passage.id for passage in corpus] == ["a", "b", "d", "e"]


def test_a_folder_without_a_corpus_and_a_fault_in_one_of_its_files_are_named(tmp_path):
    with pytest.raises(DataNotFound, match="no file of a corpus"):
        list(read_passages(tmp_path))
    written(tmp_path, {"id": "1", "text": "x"}, {"id": "2"})
    with pytest.raises(MalformedData, match=r"corpus\.jsonl\.gz, line 2: field 'text' is missing"):
        list(read_passages(tmp_path))


def test_contents_of_one_line_have_no_title(tmp_path):
    assert list(read_passages(written(tmp_path, {"id": "1", "contents": "Only text."}))) == [
        Passage("1", "", "Only text.")
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "2", "contents": "A\nx"}, "line 2: field 'text' is missing or null, unlike in the first row"),
        ({"id": "2", "title": "A", "text": None}, "line 2: field 'text' is missing or null, unlike in the first row"),
        ({"id": "2", "title": ["A"], "text": "x"}, "line 2: field 'title' should be a string, found ['A']"),
        ({"id": "2", "title": "A", "text": ["x", 5]}, "line 2: field 'text' should be a string, found 5"),
        ({"id": "2", "title": "A", "text": [["x"], [["y"]]]}, "line 2: field 'text' should be a string, found ['y']"),
        ({"id": "2", "title": "A", "text": 5}, "line 2: field 'text' should be a string, found 5"),
        ({"title": "A", "text": "x"}, "line 2: field 'id' is missing"),
        ({"id": "", "title": "A", "text": "x"}, "line 2: field 'id' should be a string that is not blank"),
    ],
)
def test_every_row_must_have_the_form_of_the_first(tmp_path, row, message):
    path = written(tmp_path, {"id": "1", "title": "A", "text": "x"}, row)
    with pytest.raises(MalformedData) as caught:
        list(read_passages(path))
    assert message in str(caught.value)


def test_rows_of_an_unknown_form_are_refused_with_their_fields(tmp_path):
    with pytest.raises(MalformedData, match=r"line 1: not a passage: .* found \['body', 'id'\]"):
        list(read_passages(written(tmp_path, {"id": "1", "body": "x"})))
