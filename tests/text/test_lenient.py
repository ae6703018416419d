"""JSON as models write it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raggym_env.text.lenient import LONGEST, Number, Refused, read_object

keys = st.text("abcdefgh_", min_size=1, max_size=4)
plain = st.none() | st.booleans() | st.text(max_size=12)
lists = st.lists(plain, max_size=3)
values = plain | lists | st.dictionaries(keys, plain | lists, max_size=3)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(keys, values, max_size=4), st.sampled_from([None, 2]), st.booleans())
def test_json_is_read_as_the_json_module_reads_it(content, indent, ascii_only):
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    members, end = read_object(text + "}{ more")
    assert (_paired(members), end) == (_paired(content), len(text))


def _paired(value: object) -> object:
    """Without the difference between a character and its surrogate pair."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": "Oslo",}',
        "{'answer': 'Oslo'}",
        "{answer: 'Oslo'}",
        "{“answer”: “Oslo”}",
        '{"answer": "Oslo" // the capital\n}',
        '{"answer": /* of Norway */ "Oslo"}',
        '# a comment\n{"answer": "Oslo"}',
        '{\n  "Answer" : "Oslo"\n}',
        '{"answer": "\\u004fslo"}',
    ],
)
def test_almost_json_with_one_reading_is_read(text):
    assert read_object(text)[0] == {"answer": "Oslo"}


def test_the_constants_of_json_and_of_python_are_read():
    assert read_object('{"a": null, "b": None, "c": True, "d": false}')[0] == {
        "a": None,
        "b": None,
        "c": True,
        "d": False,
    }


@pytest.mark.parametrize("number", ["5", "-3", "1.50", "6e23", "007"])
def test_a_number_stays_as_it_was_written(number):
    assert read_object(f'{{"answer": {number}}}')[0] == {"answer": Number(number)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no object"),
        ("[1]", "no object"),
        ('{"answer": "Oslo"', "missing at the end"),
        ('{"answer": "Oslo', "not closed"),
        ('{"answer": Oslo}', "without quotes"),
        ('{"answer": "a" "b"}', "comma"),
        ('{"answer": 1,000}', "missing"),
        ('{"answer": 1.2.3}', "missing"),
        ("{'answer': 'Arthur's Magazine'}", "comma"),
        ('{"answer": "a", "answer": "b"}', "twice"),
        ('{"answer": "a", "Answer": "b"}', "twice"),
        ('{"answer" "Oslo"}', "colon"),
        ('{"answer": "\\q"}', "no escape"),
        ('{"answer": __import__("os")}', "without quotes"),
        ('{"a":' * 50 + "1" + "}" * 50, "too deeply"),
        ('{"answer": "' + "x" * LONGEST + '"}', "not closed"),
    ],
)
def test_a_text_without_exactly_one_reading_is_refused_with_the_place(text, problem):
    with pytest.raises(Refused, match=problem):
        read_object(text)
