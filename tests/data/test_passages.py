from __future__ import annotations

import bz2
import gzip
import io
import json
import tarfile
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
        {"docid": "1", "title": "Ant & Dec", "text": "Two men.", "url": "u"},
        {"id": "1", "title": "Ant & Dec", "text": [["Two "], ["", " men."]], "text_with_links": ["..."]},
    ],
    ids=[
        "ours",
        "beir",
        "medrag",
        "pyserini",
        "search-r1",
        "titled",
        "titled twice",
        "abstracts",
        "docid",
        "whole pages",
    ],
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


DUMP = [
    {"id": "12", "url": "u", "title": "Anarchism", "text": ["It is old.", " It is new."], "charoffset": [[0, 5]]},
    {"id": "25", "url": "u", "title": "Autism &amp; more", "text": ["It is so."], "text_with_links": ["It"]},
]


def archive(path: Path, members: dict[str, bytes], mode: str = "w:bz2") -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def lines(*rows: dict) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar.bz2", "w:bz2"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar", "w")]
)
def test_the_dump_of_abstracts_is_read_as_it_is_published(tmp_path, name, mode):
    members = {
        "enwiki/AA/wiki_00.bz2": bz2.compress(lines(DUMP[0])),
        "enwiki/README": b"not JSON",
        "enwiki/AB/wiki_00.bz2": bz2.compress(lines(DUMP[1])),
    }
    expected = [Passage("12", "Anarchism", "It is old. It is new."), Passage("25", "Autism & more", "It is so.")]
    path = archive(tmp_path / name, members, mode)
    assert list(read_passages(path)) == expected
    one = tmp_path / "wiki_00.bz2"
    one.write_bytes(bz2.compress(lines(*DUMP)))
    assert list(read_passages(one)) == expected


def test_a_fault_in_an_archive_names_the_file_and_the_line(tmp_path):
    path = archive(tmp_path / "a.tar.bz2", {"AA/wiki_00": lines(DUMP[0]) + b"{]"})
    with pytest.raises(MalformedData, match=r"a\.tar\.bz2/AA/wiki_00.*line 2"):
        list(read_passages(path))
    with pytest.raises(DataNotFound, match="has no file of a corpus"):
        list(read_passages(archive(tmp_path / "b.tar.bz2", {"AA/README": b"x"})))


def test_an_archive_that_is_none_or_is_cut_off_or_holds_links_ends_in_one_error(tmp_path):
    whole = archive(tmp_path / "a.tar.bz2", {"AA/wiki_00": lines(*DUMP)}).read_bytes()
    plain = archive(tmp_path / "a.tar", {"AA/wiki_00": lines(*DUMP)}, "w").read_bytes()
    contents = {"b.tar.bz2": whole[:-20], "c.tar.bz2": b"no archive", "d.tar.bz2": bz2.compress(b"x" * 600)}
    contents |= {"e.tar": plain[:700], "f.tar.bz2": bz2.compress(plain[:600])}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MalformedData):
            list(read_passages(tmp_path / name))
    with tarfile.open(tmp_path / "g.tar", "w") as file:
        link = tarfile.TarInfo("AA/wiki_00")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    with pytest.raises(DataNotFound):
        list(read_passages(tmp_path / "g.tar"))


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + b"0" * 10_240)
    with pytest.raises(MalformedData, match="a header of more than"):
        list(read_passages(tmp_path / "a.tar"))


def test_documents_of_browsecomp_plus_have_the_title_of_their_front_matter_and_their_id(tmp_path):
    texts = {
        "7": "---\ntitle: Ant &amp; Bee\ndate: 2020-01-01\n---\nAn ant.",
        "8": '---\nauthor: X\ntitle: "Ant & Bee"\n---\nAnother.',
        "9": "No front matter.\n---\ntitle: x\n---\n",
        "10": "---\ntitle:\n---\nEmpty.",
        "11": "---\ntitle: never closed",
    }
    rows = [{"docid": docid, "text": text, "url": "u"} for docid, text in texts.items()]
    passages = list(read_passages(written(tmp_path, *rows)))
    assert [passage.title for passage in passages] == ["Ant & Bee (7)", "Ant & Bee (8)", "9", "10", "11"]
    assert {passage.id: passage.text for passage in passages} == texts
