from __future__ import annotations

import bz2
import gzip
import json
import os
from pathlib import Path

import pytest

from raggym_env.data import files
from raggym_env.data.files import json_records, tsv_records
from raggym_env.errors import DataError, DataNotFound, MalformedData


def written(folder: Path, content: bytes, name: str = "file.json") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def fields(path: Path) -> list[dict]:
    return [record.fields for record in json_records(path)]


@pytest.mark.parametrize(
    "content",
    [
        b'[{"a": 1}, {"a": 2}]',
        b'\xef\xbb\xbf[{"a": 1},\r\n {"a": 2}]\r\n',
        b'  [ {"a": 1} ,\n\n{"a": 2} ] ',
        b'{"a": 1}\n{"a": 2}',
        b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}\r\n',
    ],
)
def test_json_arrays_and_json_lines_are_recognised_and_white_space_is_ignored(tmp_path, content):
    assert fields(written(tmp_path, content)) == [{"a": 1}, {"a": 2}]
    assert fields(written(tmp_path, gzip.compress(content), "file.json.gz")) == [{"a": 1}, {"a": 2}]


def test_an_empty_array_has_no_records(tmp_path):
    assert fields(written(tmp_path, b" [ ] ")) == []


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_records_do_not_depend_on_where_the_chunks_of_a_file_end(tmp_path, monkeypatch, chunk):
    rows = [{"text": "ä" * size, "n": [size, {"x": "]},{"}]} for size in (0, 1, 50, 300)]
    path = written(tmp_path, json.dumps(rows, ensure_ascii=False).encode())
    monkeypatch.setattr(files, "_CHUNK", chunk)
    assert fields(path) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: the file is empty"),
        (b"\n \n", "line 1: the file is empty"),
        (b'{"a": 1}\n{"a": NaN}', "line 2: NaN is not a JSON value"),
        (b'[{"a": 1}, {"a": -Infinity}]', "record 2: -Infinity is not a JSON value"),
        (b'{"a": 1}\n\n{"a": ', "line 3: not JSON"),
        (b'[{"a": 1}, {"a": ', "record 2: not JSON"),
        (b'[{"a": 1}', "record 2: not JSON: expected one of ',]', found 'the end of the file'"),
        (b'[{"a": 1} {"a": 2}]', "record 2: not JSON: expected one of ',]', found '{'"),
        (b'[{"a": 1}] {}', "record 2: not JSON: '{' after the end of the array"),
        (b'{"a": 1}\n[1]', "line 2: expected a JSON object, found [1]"),
        (b'[{"a": 1}, "text"]', "record 2: expected a JSON object, found 'text'"),
        (b'{"a": 1}\n{"a": "\xff"}', "line 2: not UTF-8"),
        (b'[{"a": "\xff"}]', "record 1 or later: not UTF-8"),
        (b"[" * 100_000, "record 1: not readable JSON: nested too deeply"),
        (b'{"a": ' * 100_000, "line 1: not readable JSON: nested"),
        (b'{"a": ' + b"[" * 90 + b"]" * 90 + b"}", "line 1: nested more than 64 deep"),
        (b'[{"a": ' + b"[" * 90 + b"]" * 90 + b"}]", "record 1: nested more than 64 deep"),
        (b'{"a": 1' + b"0" * 400 + b"}", "line 1: a number is beyond 64 bits"),
        (b'[{}, {"a": 1e999}]', "record 2: a number is beyond 64 bits"),
        (b'[{"a": ' + b"1" * 5000 + b"}]", "record 1: not JSON"),
    ],
)
def test_the_error_for_a_faulty_file_names_the_place_and_the_fault(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(MalformedData) as caught:
        fields(path)
    assert str(caught.value).startswith(f"{path}, ")
    assert message in str(caught.value)


def test_a_cut_off_gzip_file_is_malformed(tmp_path):
    lines = b"".join(b'{"a": "%d"}\n' % number for number in range(5000))
    with pytest.raises(MalformedData, match="compressed stream: damaged or cut off"):
        fields(written(tmp_path, gzip.compress(lines)[:-200], "cut.jsonl.gz"))


def test_a_gz_file_that_is_not_gzip_is_malformed(tmp_path):
    with pytest.raises(MalformedData, match="compressed stream"):
        fields(written(tmp_path, b'{"a": 1}', "plain.jsonl.gz"))


COMPRESSORS = {"gz": gzip.compress, "bz2": bz2.compress}


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("form", ["%s\n%s\n\n", "[%s, %s]"])
def test_compressed_files_are_read_and_faulty_ones_are_malformed(tmp_path, suffix, form):
    content = (form % ('{"a": "é"}', '{"a": 2}')).encode()
    packed = COMPRESSORS[suffix](content)
    name = f"x.json.{suffix}"
    assert fields(written(tmp_path, packed, name)) == [{"a": "é"}, {"a": 2}]
    for wrong in (content, packed[:-4], packed[:10], packed[:20] + b"\0\xff" + packed[22:]):
        with pytest.raises(MalformedData, match="compressed stream: damaged or cut off"):
            fields(written(tmp_path, wrong, name))


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("start", [b"", b"[", b'[{"a": "', b'{"a": "', b'[{"a": 1},', b'{"a": 1}'])
@pytest.mark.parametrize("filling", [b"\n", b" ", b"a", b"[", b'{"a": 1}\n'])
def test_a_small_file_that_expands_without_end_is_refused_early(tmp_path, monkeypatch, suffix, start, filling):
    monkeypatch.setattr(files, "_EXPANDED", 1 << 16)
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 18)
    packed = COMPRESSORS[suffix](start + filling * (3_000_000 // len(filling)))
    with pytest.raises(MalformedData):
        fields(written(tmp_path, packed, f"bomb.json.{suffix}"))


@pytest.mark.parametrize("content", [b'{"a": "%s"}\n', b'[{"a": 1}, {"a": "%s"}]', b'[{"a": "%s'])
def test_a_record_larger_than_the_limit_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.setattr(files, "MAX_BYTES", 100_000)
    monkeypatch.setattr(files, "_CHUNK", 1000)
    fields(written(tmp_path, content.replace(b"%s", b"x" * 90_000) if content.endswith((b"]", b"\n")) else b"{}"))
    with pytest.raises(MalformedData, match=r"longer than 100,000 bytes|no record ends within 100,000 characters"):
        fields(written(tmp_path, content.replace(b"%s", b"x" * 400_000)))


def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", Path("/dev/zero")):
        with pytest.raises(DataError, match=r"cannot be read: not a regular file"):
            fields(path)


def test_a_missing_file_is_not_found_and_a_folder_cannot_be_read(tmp_path):
    with pytest.raises(DataNotFound, match=r"No file at .*none\.json"):
        fields(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        fields(tmp_path)


def test_tsv_columns_without_a_name_are_left_out_and_short_rows_lack_the_rest(tmp_path):
    path = written(tmp_path, b'Q\t\tA\tB\r\n"q" 1?\tx\ta\r\n\r\nq2\t\t\tb\r\n', "file.tsv")
    rows = [(record.number, record.index, record.fields) for record in tsv_records(path)]
    assert rows == [(2, 0, {"Q": '"q" 1?', "A": "a"}), (4, 1, {"Q": "q2", "A": "", "B": "b"})]


def test_a_tsv_row_with_more_cells_than_columns_is_malformed(tmp_path):
    with pytest.raises(MalformedData, match="line 2: 3 cells in a table of 2 columns"):
        list(tsv_records(written(tmp_path, b"Q\tA\nq\ta\tb\n", "file.tsv")))


@pytest.mark.parametrize("form", ["%s", "[%s]"])
def test_half_of_a_surrogate_pair_is_mended_in_keys_and_values(tmp_path, form):
    text = form % '{"a": "x\\ud83d", "b\\udc00": ["\\ud83d\\ude00"]}'
    assert fields(written(tmp_path, text.encode())) == [{"a": "x\ufffd", "b\ufffd": ["😀"]}]


@pytest.mark.parametrize(("value", "expected"), [(7, "7"), ("x", "x")])
def test_an_identifier_is_a_text_or_an_integer(tmp_path, value, expected):
    record = next(json_records(written(tmp_path, json.dumps({"id": value}).encode())))
    assert record.identifier("id") == expected


@pytest.mark.parametrize("value", [True, 1.5, None, "", []])
def test_other_values_are_refused_as_an_identifier(tmp_path, value):
    record = next(json_records(written(tmp_path, json.dumps({"id": value}).encode())))
    with pytest.raises(MalformedData, match="field 'id'"):
        record.identifier("id")
