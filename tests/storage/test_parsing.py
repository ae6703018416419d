"""The reader of JSON and TOML: every text gives a value that can be used everywhere, or one ParseError."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.storage.parsing import ParseError, check_value, json_decoder, parse_json, parse_toml, read_file

HOSTILE = {
    "deep list": "[" * 100_000,
    "deep list, closed": "[" * 100 + "]" * 100,
    "deep object": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "wide and deep": "[" + "[]," * 1_000 + "[" * 70 + "]" * 70 + "]",
    "integer of 400 digits": "1" + "0" * 400,
    "integer of 10,000 digits": "9" * 10_000,
    "negative integer": f"-{2**64}",
    "large exponent": "[1e999]",
    "large negative exponent of a large number": "[-1E+400]",
    "not a number": "[NaN]",
    "infinity": '{"a": -Infinity}',
    "cut off": '{"a": ',
    "two values": "{} {}",
    "empty": "",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("as_bytes", [False, True], ids=["text", "bytes"])
def test_hostile_json_is_one_error_of_one_line(text: str, as_bytes: bool) -> None:
    with pytest.raises(ParseError) as caught:
        parse_json(text.encode() if as_bytes else text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        "a = 1" + "0" * 400,
        "a." * 5_000 + "b = 1",
        "a = inf",
        "a = -nan",
        "a = 1e999",
        "a = " + "[" * 50_000,
        "a =",
        "a = 1\na = 2",
        '"\x00"',
    ],
)
def test_hostile_toml_is_one_error_of_one_line(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_toml(text)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf_8_and_texts_that_are_too_long_are_refused() -> None:
    with pytest.raises(ParseError, match="not UTF-8"):
        parse_json(b'"\xff"')
    with pytest.raises(ParseError, match="the limit is 10"):
        parse_json(" " * 11, max_bytes=10)


def test_a_byte_order_mark_is_dropped() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == parse_json('\ufeff{"a": 1}') == {"a": 1}


def test_surrogates_are_joined_or_replaced_in_values_and_keys() -> None:
    assert parse_json(r'{"\ud83d\ude00": ["\ud83d", "\uDE00", {"a": "\uD83D\uDE00"}]}') == {
        "😀": ["�", "�", {"a": "😀"}]
    }


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans())
def test_every_value_that_json_can_hold_is_read_and_can_be_written_as_utf_8(value: object, escaped: bool) -> None:
    parsed = parse_json(json.dumps(value, ensure_ascii=escaped))
    json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
    if "\\ud" not in json.dumps(value):
        assert parsed == value


@given(st.text() | st.text('[]{}":,0123456789eE+-.\\ud'))
def test_every_text_is_a_value_or_one_error(text: str) -> None:
    for parse in (parse_json, parse_toml):
        with contextlib.suppress(ParseError):
            json.dumps(parse(text), default=str).encode()


def test_values_of_a_stream_are_checked_as_those_of_a_document() -> None:
    text = '[1e999] {"a": 1}'
    value, end = json_decoder().raw_decode(text)
    with pytest.raises(ParseError, match="infinite"):
        check_value(value, text[:end])
    with pytest.raises(ParseError):
        json_decoder().decode("[NaN]")


def test_files_that_are_not_regular_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ParseError, match="not a regular file"):
        read_file(pipe)
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"12345")
    link.symlink_to(target)
    assert read_file(link) == b"12345"
    with pytest.raises(ParseError, match="symbolic link"):
        read_file(link, follow_links=False)
    with pytest.raises(ParseError, match="limit is 4"):
        read_file(target, max_bytes=4)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "missing")
