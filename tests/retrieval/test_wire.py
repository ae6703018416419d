from __future__ import annotations

import contextlib
import json
import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Passage
from raggym_env.retrieval import Hit
from raggym_env.retrieval.wire import BadRequest, Limits, read_request, read_results, write_results

ODD = [
    Passage("1", "Plain", "A plain text."),
    Passage("2", "", "No title."),
    Passage("3", "", 'First line\nand "second"'),
    Passage("4", '"Quoted" and \\ "', ""),
    Passage("5", "Two\nlines", "\n\nleading\nlines\n"),
    Passage("6", " spaces  within ", "\ttab"),
    Passage("7", "Zażółć 日本 \U0001f600", "\x00\u2028"),
    Passage("8", "(Title: x) y", "(Title: x) y"),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
HITS = st.lists(st.builds(Passage, TEXT, TEXT, TEXT), max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["result", "document", "score", "id", "title", "text", "contents", "content", "type", "error"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("passage", ODD, ids=lambda passage: repr(passage.title))
@pytest.mark.parametrize("scores", [True, False])
def test_a_passage_is_read_as_it_was_written(passage, scores):
    ((hit,),) = read_results(write_results([[Hit(passage, 0.1)]], scores=scores), 1, 1)
    assert hit == Hit(passage, 0.1 if scores else 1.0)


@given(st.lists(HITS, max_size=3), st.booleans())
def test_all_results_are_read_as_they_were_written(rows, scores):
    results = [[Hit(passage, 1.0 / rank) for rank, passage in enumerate(row, 1)] for row in rows]
    assert read_results(write_results(results, scores=scores), len(rows), 4) == results


def test_half_a_surrogate_pair_is_read_as_a_replacement_character():
    """Every reader of JSON does so, and no corpus file can hold one."""
    ((hit,),) = read_results(write_results([[Hit(Passage("1", "\ud800", "x\udc00"), 1.0)]], scores=True), 1, 1)
    assert hit.passage == Passage("1", "\ufffd", "x\ufffd")


DUNE = Passage("7", "Dune", "A novel.")


@pytest.mark.parametrize(
    ("document", "passage"),
    [
        ({"id": "7", "contents": '"Dune"\nA novel.\nBy Herbert.'}, Passage("7", "Dune", "A novel.\nBy Herbert.")),
        ({"id": 7, "contents": "Dune\nA novel."}, DUNE),
        ({"_id": "7", "title": "Dune", "text": "A novel."}, DUNE),
        ({"id": "7", "contents": "A novel."}, Passage("7", "", "A novel.")),
        ({"id": "7", "title": "Dune", "text": "A novel.", "contents": "other"}, DUNE),
        ({"id": "7", "title": "Dune", "contents": '"dune"\nA novel.'}, DUNE),
        ({"id": "7", "title": "Dune", "contents": "Dune\nA novel."}, DUNE),
        (
            {"id": "7", "title": "Dune", "contents": "A novel.\nBy Herbert."},
            Passage("7", "Dune", "A novel.\nBy Herbert."),
        ),
        ({"id": "7", "title": None, "contents": '"Dune"\nA novel.'}, DUNE),
        ({"id": "7", "title": None, "text": "A novel."}, Passage("7", "", "A novel.")),
        ({"id": "7", "text": "A novel.", "contents": '"Dune"\nA novel.'}, DUNE),
        ({"id": "7", "text": "A novel."}, Passage("7", "", "A novel.")),
        # MedRAG
        ({"id": "7", "title": "Dune", "content": "A novel.", "contents": "Dune. A novel."}, DUNE),
        ({"id": "7", "title": "Dune", "content": "A novel."}, DUNE),
        ({"id": "7", "title": "Dune", "text": "", "contents": ""}, Passage("7", "Dune", "")),
    ],
    ids=str,
)
def test_documents_of_other_servers_are_read(document, passage):
    body = json.dumps({"result": [[{"document": document, "score": 2}], [document]]}).encode()
    assert read_results(body, 2, 1) == [[Hit(passage, 2.0)], [Hit(passage, 1.0)]]


@pytest.mark.parametrize(
    ("text", "title", "rest"),
    [
        ('"Dune"\nA novel.', "Dune", "A novel."),
        ("Dune\nA novel.", "Dune", "A novel."),
        ("A novel.", "", "A novel."),
        ("", "", ""),
        # Search-R1's reranker
        ('(Title: "Dune") A novel.', "Dune", "A novel."),
        ('(Title: "Dune (film)") A film.\nBy Lynch.', "Dune (film)", "A film.\nBy Lynch."),
        ("(Title: Dune) A novel (long).", "Dune", "A novel (long)."),
        ("(Title: Dune (film)) A film.", "Dune (film)", "A film."),
        ("(Title: ) A novel.", "", "A novel."),
    ],
)
def test_a_document_may_be_a_text(text, title, rest):
    rows = [[text], [{"document": text, "score": 2}]]
    (plain,), (scored,) = read_results(json.dumps({"result": rows}).encode(), 2, 1)
    assert plain.passage == scored.passage == Passage(plain.passage.id, title, rest)
    assert (plain.score, scored.score) == (1.0, 2.0)


@pytest.mark.parametrize("name", ["result", "results", None])
def test_the_list_of_results_has_one_of_two_names_or_none(name):
    rows = [[{"id": "7", "title": "Dune", "text": "A novel."}]]
    body = json.dumps(rows if name is None else {name: rows}).encode()
    assert read_results(body, 1, 1) == [[Hit(DUNE, 1.0)]]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([3, 2.5, 1], [3.0, 2.5, 1.0]),
        (["3", "2.5", "-1e2"], [3.0, 2.5, -100.0]),
        ([None, None, None], [1, 1 / 2, 1 / 3]),
        ([3, None, 5], [1, 1 / 2, 1 / 3]),
        ([0, 0, 0], [0.0, 0.0, 0.0]),
    ],
)
def test_scores_may_be_texts_or_missing(scores, expected):
    row = [{"document": {"id": str(i), "contents": "x"}, "score": score} for i, score in enumerate(scores)]
    flat = [{"id": str(i), "contents": "x", "score": score} for i, score in enumerate(scores)]
    for hits in read_results(json.dumps({"result": [row, flat]}).encode(), 2, 3):
        assert [hit.score for hit in hits] == expected


@pytest.mark.parametrize("k", [1, 2, 5])
def test_of_more_passages_than_asked_for_the_first_count(k):
    row = [{"document": {"id": str(i), "contents": "x"}, "score": 9 - i} for i in range(5)]
    (hits,) = read_results(json.dumps({"result": [row]}).encode(), 1, k)
    assert [hit.passage.id for hit in hits] == list("01234"[:k])


def test_a_document_without_an_id_gets_one_that_depends_on_its_content():
    """Search-R1's own server gives none for BM25."""
    rows = [[{"title": "A", "text": text, "contents": ""} for text in ("x", "y", "x")]]
    ids = [hit.passage.id for hit in read_results(json.dumps({"result": rows}).encode(), 1, 3)[0]]
    assert ids[0] == ids[2] != ids[1]


DOCUMENT = {"id": "1", "contents": "x"}


def scored(score):
    return f'{{"result": [[{{"document": {{"id": "1", "contents": "x"}}, "score": {score}}}]]}}'.encode()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>", "not JSON"),
        (b"", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested more than 64 deep"),
        (b'{"result": ' + b"[" * 100 + b"]" * 100 + b"}", "nested more than 64 deep"),
        ({}, "no list named result"),
        ("text", "no list named result"),
        (None, "no list named result"),
        ([], "0 results for 1 queries"),
        ({"result": None}, "no list named result"),
        ({"result": {"0": []}}, "no list named result"),
        ({"result": []}, "0 results for 1 queries"),
        ({"result": [[], []]}, "2 results for 1 queries"),
        ({"result": [None]}, "not a list"),
        ({"result": ["x"]}, "not a list"),
        ({"result": [DOCUMENT]}, "not a list"),
        ({"result": [[7]]}, "neither an object nor a text"),
        ({"result": [[None]]}, "neither an object nor a text"),
        ({"result": [[{"document": ["x"], "score": 1}]]}, "neither an object nor a text"),
        ({"result": [[{"document": DOCUMENT, "score": True}]]}, "not a finite number"),
        ({"result": [[{"document": DOCUMENT, "score": [1]}]]}, "not a finite number"),
        ({"result": [[{"document": DOCUMENT, "score": "high"}]]}, "not a finite number"),
        ({"result": [[{"document": DOCUMENT, "score": "nan"}]]}, "not a finite number"),
        ({"result": [[{"document": DOCUMENT, "score": "1e400"}]]}, "not a finite number"),
        ({"result": [[{"document": DOCUMENT, "score": 10**400}]]}, "beyond 64 bits"),
        (scored("NaN"), "NaN is not a JSON value"),
        (scored("-Infinity"), "-Infinity is not a JSON value"),
        (scored("1e400"), "infinite"),
        (scored("9" * 5000), "not JSON"),
        ({"result": [[{"document": DOCUMENT, "score": s} for s in (1, 2)]]}, "not best first"),
        ({"result": [[{"document": DOCUMENT, "score": s} for s in ("1", "2")]]}, "not best first"),
        ({"result": [[{"contents": "x", "id": 1.5}]]}, "neither a text nor a whole number"),
        ({"result": [[{"contents": "x", "id": True}]]}, "neither a text nor a whole number"),
        ({"result": [[{"contents": "x", "id": ["1"]}]]}, "neither a text nor a whole number"),
        ({"result": [[{"id": "1"}]]}, "without title and text"),
        ({"result": [[{"id": "1", "title": "x"}]]}, "without title and text"),
        ({"result": [[{"id": "1", "title": 7, "text": "x"}]]}, "a title that is not a text"),
        ({"result": [[{"id": "1", "title": "t" * 70_000, "text": "x"}]]}, "70,000 characters of title"),
        ({"result": [[{"id": "1", "title": "t", "text": "x" * 5_000_000}]]}, "5,000,000 of text"),
        ({"result": [[]], "error": "index not loaded"}, "tells of a failure"),
        ({"result": [[]], "status": "error"}, "tells of a failure"),
        ({"result": [[]], "success": False}, "tells of a failure"),
        ({"result": [[{"document": {"contents": "quota"}, "type": "error"}]]}, "an error in place of a passage"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_malformed_answer_is_refused(answer, message):
    with pytest.raises(ValueError, match=re.escape(message)) as failure:
        read_results(answer if isinstance(answer, bytes) else json.dumps(answer).encode(), 1, 2)
    assert len(str(failure.value)) < 500


@given(JSON)
def test_any_json_is_read_or_refused_with_one_kind_of_error(content):
    body = json.dumps(content).encode()
    for answer in (body, b'{"result":[' + body + b"]}", b'{"result":[[' + body + b"]]}"):
        try:
            (hits,) = read_results(answer, 1, 2)
        except ValueError:
            continue
        assert all(math.isfinite(hit.score) and all(isinstance(part, str) for part in hit.passage) for hit in hits)


def test_a_damaged_answer_is_read_or_refused_with_one_kind_of_error():
    generator = random.Random(7)
    results = [[Hit(passage, 1.0 / rank) for rank, passage in enumerate(ODD, 1)]] * 2
    good = write_results(results, scores=True)
    for _ in range(500):
        body = bytearray(good)
        for _ in range(generator.randint(1, 4)):
            body[generator.randrange(len(body))] = generator.randrange(256)
        length = generator.choice([len(body), generator.randrange(len(body))])
        with contextlib.suppress(ValueError):
            read_results(bytes(body[:length]), 2, 8)


@given(JSON, st.sampled_from(["topk", "return_scores", "queries", "query"]))
def test_any_request_is_read_or_refused_with_one_kind_of_error(value, name):
    try:
        request = read_request(json.dumps({"query": "a", **{name: value}}).encode(), Limits(), 3)
    except BadRequest:
        return
    assert all(isinstance(query, str) for query in request.queries)
    assert 1 <= request.k <= 1000
    assert type(request.scores) is bool


@given(st.integers(0, 5000), st.integers(1, 1000))
def test_the_number_of_passages_in_an_answer_is_bounded(queries, topk):
    limits = Limits()
    body = json.dumps({"queries": ["a"] * queries, "topk": topk}).encode()
    if queries <= limits.queries and queries * topk <= limits.passages:
        assert len(read_request(body, limits, 3).queries) == queries
    else:
        with pytest.raises(BadRequest, match=rf"{queries:,} queries"):
            read_request(body, limits, 3)
