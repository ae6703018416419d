from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from raggym_env.core import Passage
from raggym_env.data.passages import read_passages
from raggym_env.errors import MalformedData

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
    ],
    ids=["ours", "beir", "medrag", "pyserini", "search-r1"],
)
def test_the_form_is_detected_from_the_first_row(tmp_path, row):
    assert list(read_passages(written(tmp_path, row))) == [TITLED]


def test_quotes_of_a_pyserini_title_stay_where_the_corpus_does_not_quote_titles(tmp_path):
    path = written(tmp_path, {"id": "1", "contents": "A\nx"}, {"id": "2", "contents": '"Heroes"\ny'})
    assert [passage.title for passage in read_passages(path)] == ["A", '"Heroes"']


def test_contents_of_one_line_have_no_title(tmp_path):
    assert list(read_passages(written(tmp_path, {"id": "1", "contents": "Only text."}))) == [
        Passage("1", "", "Only text.")
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "2", "contents": "A\nx"}, "line 2: field 'title' is missing or null, unlike in the first row"),
        ({"id": "2", "title": "A", "text": 5}, "line 2: field 'text' should be a string, found 5"),
        ({"id": "2", "title": None, "text": "x"}, "line 2: field 'title' is missing or null"),
        ({"title": "A", "text": "x"}, "line 2: field 'id' is missing"),
        ({"id": "", "title": "A", "text": "x"}, "line 2: field 'id' should be a string that is not blank"),
        ({"id": "2", "title": "A", "text": "\ud800"}, "line 2: field 'text' should be valid Unicode"),
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
