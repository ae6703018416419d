import contextlib
import json
import math
import os
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Answer, Passage, Question, Search, State, StopReason, Turn, Usage
from raggym_env.errors import DataError, MalformedData
from raggym_env.mdp import records
from raggym_env.mdp.records import (
    Candidate,
    Episode,
    RecordWriter,
    Step,
    action_from_json,
    append_record,
    damaged_lines,
    numbered_records,
    read_episodes,
    read_records,
    repair,
)
from raggym_env.storage.parsing import parse_json

START = State(Question("1", "q?"), (), 2)
FOUND = State(Question("1", "q?"), (Turn("x", (Passage("7", "T", "long text"),)),), 1)


def test_a_step_records_the_ids_and_titles_of_its_passages():
    step = Step.of(START, Search("x", "d"), FOUND, 0.0, 0.5)
    record = step.to_json()
    assert record == {"search": "x", "draft": "d", "outcome": 0.0, "process_reward": 0.5, "passages": [["7", "T"]]}


def test_an_answer_has_no_passages_even_after_a_search():
    ended = State(FOUND.question, FOUND.history, 1, "a", StopReason.ANSWER)
    assert Step.of(FOUND, Answer("a"), ended, 1.0, 0.0).passages == ()


def test_candidates_scores_text_and_usage_are_recorded():
    candidates = (Candidate(Answer("a"), 0.5, "raw"), Candidate(None))
    record = Step(Answer("a"), text="raw", score=0.5, candidates=candidates, usage=Usage(calls=1)).to_json()
    assert record["candidates"] == [{"answer": "a", "score": 0.5, "text": "raw"}, {"score": None}]
    assert (record["text"], record["usage"]["calls"]) == ("raw", 1)


@pytest.mark.parametrize(("score", "recorded"), [(np.float32(0.5), 0.5), (-math.inf, None), (math.nan, None)])
def test_any_score_can_be_recorded(tmp_path, score, recorded):
    append_record(
        tmp_path / "e.jsonl", Step(Answer("a"), score=score, candidates=(Candidate(Answer("a"), score),)).to_json()
    )
    (record,) = read_records(tmp_path / "e.jsonl")
    assert record.get("score") == record["candidates"][0]["score"] == recorded


def test_a_failed_episode_has_no_stop_reason():
    ended = State(FOUND.question, (), 1, "a", StopReason.ANSWER)
    assert Episode.of(ended, ()).to_json()["stop"] == "answer"
    assert Episode.of(START, (), error="RetrievalError: down").to_json()["stop"] is None


def test_appended_records_are_read_back_whatever_their_text(tmp_path):
    records = [{"id": "1", "text": 'line\u2028break "é" \ud800'}, {"id": "2"}]
    for record in records:
        append_record(tmp_path / "e.jsonl", record)
    # Half of a surrogate pair is mended: nothing that is computed from a record could be written as UTF-8 otherwise.
    records[0]["text"] = 'line\u2028break "é" \ufffd'
    assert list(read_records(tmp_path / "e.jsonl")) == records


@pytest.mark.parametrize("torn", ['{"id": "2', '{"id": "2"}', "\x00"])
def test_a_torn_last_line_is_skipped_and_cut_off_by_repair(tmp_path, torn):
    path = tmp_path / "e.jsonl"
    append_record(path, {"id": "1"})
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    assert [record["id"] for record in read_records(path)] == ["1"]
    repair(path)
    assert path.read_bytes() == whole


def test_repair_empties_a_single_torn_line_and_ignores_a_missing_file(tmp_path):
    (tmp_path / "e.jsonl").write_text('{"id"')
    repair(tmp_path / "e.jsonl")
    repair(tmp_path / "missing.jsonl")
    assert (tmp_path / "e.jsonl").read_bytes() == b""
    assert not (tmp_path / "missing.jsonl").exists()


@pytest.mark.parametrize("line", ["{]", "[1]", "3", '{"id": ' + "[" * 100_000])
def test_a_finished_line_that_is_not_a_record_is_named(tmp_path, line):
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps({"id": "1"}) + "\n" + line + "\n")
    with pytest.raises(MalformedData, match=r"e\.jsonl, line 2"):
        list(read_records(path))


# -- typed records, both ways -------------------------------------------------------------------------------------

PASSAGE = Passage("7", "T", "long text")
SEARCHED = Step(
    Search("x", "d"),
    (PASSAGE, Passage("8", "U", "")),
    process_reward=0.5,
    text="raw \ud800",
    score=-1.5,
    candidates=(
        Candidate(Search("x", "d"), 0.5, "raw"),
        Candidate(Answer("a"), -math.inf, outcome=1.0),
        Candidate(None),
    ),
    messages=({"role": "user", "content": "q?"},),
    usage=Usage(calls=2, prompt_tokens=10, completion_tokens=3, seconds=0.25),
)
EPISODES = [
    Episode("1", "q?", (SEARCHED, Step(Answer("a"), outcome=1.0)), "a", "answer", seconds=1.23456789),
    Episode("1", "q?", (), None, None, error="RetrievalError: down", usage=Usage(calls=1)),
    Episode("1", "q?", (), None, "no_action", output="I do not know."),
    Episode("", "", (Step(Search("x")), Step(Search("y"))), None, "cut short by a wrapper"),
]


def written(episode, **options):
    return json.loads(json.dumps(episode.to_json(**options)))


@pytest.mark.parametrize("episode", EPISODES)
@pytest.mark.parametrize("full", [False, True])
def test_a_record_that_is_read_is_written_as_it_was(episode, full):
    record = written(episode, full=full)
    assert written(Episode.from_json(record), full=full) == record
    # What was left out of a run's record is not made up.
    assert written(Episode.from_json(written(episode)), full=full) == written(episode)


def test_a_full_record_holds_all_of_an_episode():
    episode = Episode("1", "q?", (Step(Search("x"), (PASSAGE,), messages=SEARCHED.messages),), None, "answer")
    assert Episode.from_json(written(episode, full=True)) == episode
    (step,) = Episode.from_json(written(episode)).steps
    assert (step.passages, step.messages) == ((Passage("7", "T", ""),), ())


def test_fields_that_process_data_adds_are_ignored():
    record = written(EPISODES[0], full=True)
    assert Episode.from_json({**record, "options": [], "max_searches": 4}).to_json(full=True) == record


def test_episodes_are_read_from_a_file(tmp_path):
    for episode in EPISODES:
        append_record(tmp_path / "e.jsonl", episode.to_json())
    episodes = list(read_episodes(tmp_path / "e.jsonl"))
    # As `written`, with half of a surrogate pair mended.
    expected = [parse_json(json.dumps(episode.to_json())) for episode in EPISODES]
    assert [episode.to_json() for episode in episodes] == expected
    append_record(tmp_path / "e.jsonl", {"id": "5"})
    with pytest.raises(MalformedData, match=r"e\.jsonl, line 5: field 'question' is missing"):
        list(read_episodes(tmp_path / "e.jsonl"))


DEEP = json.loads("[" * 500 + "]" * 500)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", 3),
        ("question", None),
        ("answer", 5),
        ("stop", ["answer"]),
        ("error", False),
        ("seconds", "1"),
        ("seconds", None),
        ("seconds", 10**400),
        ("output", None),
        ("usage", None),
        ("usage.calls", 1.5),
        ("usage.seconds", math.inf),
        ("steps", None),
        ("steps", {}),
        ("steps[0].search", None),
        ("steps[0].draft", 0),
        ("steps[0].answer", "both"),
        ("steps[0].outcome", True),
        ("steps[0].outcome", math.nan),
        ("steps[0].process_reward", "0.5"),
        ("steps[0].score", None),
        ("steps[0].text", DEEP),
        ("steps[0].passages", {}),
        ("steps[0].passages[0]", "7T"),
        ("steps[0].passages[0]", ["7"]),
        ("steps[0].passages[1]", ["7", "T", None]),
        ("steps[0].candidates", "x"),
        ("steps[0].candidates[0].score", "high"),
        ("steps[0].candidates[1].outcome", None),
        ("steps[0].candidates[1].answer", {}),
        ("steps[0].candidates[2].text", 1),
        ("steps[0].messages[0].content", None),
        ("steps[0].usage.calls", DEEP),
    ],
)
def test_a_field_of_the_wrong_type_is_named_by_its_path(path, value):
    record = written(EPISODES[0], full=True) | {"usage": written(EPISODES[1])["usage"]}
    *parents, last = path.replace("[", ".").replace("]", "").split(".")
    parent = record
    for name in parents:
        parent = parent[int(name) if name.isdigit() else name]
    parent[int(last) if last.isdigit() else last] = value
    with pytest.raises(DataError) as error:
        Episode.from_json(record)
    assert str(error.value).startswith(f"field '{path}' ")


@pytest.mark.parametrize("name", ["id", "question", "answer", "stop", "error", "steps"])
def test_a_missing_field_is_named(name):
    record = written(EPISODES[0])
    del record[name]
    with pytest.raises(DataError, match=f"field '{name}' is missing"):
        Episode.from_json(record)


@pytest.mark.parametrize("step", [{}, None, [], {"draft": "x", "outcome": 0.0, "process_reward": 0.0}])
def test_a_step_without_an_action_is_refused(step):
    with pytest.raises(DataError, match=r"field 'steps\[0\]\.search'"):
        Episode.from_json({**written(EPISODES[0]), "steps": [step]})


@pytest.mark.parametrize("record", [None, [], "x", 3])
def test_a_record_that_is_not_an_object_is_refused(record):
    for read in (Episode.from_json, Step.from_json, Candidate.from_json, action_from_json):
        with pytest.raises(DataError, match="not an object"):
            read(record)


# -- values of plug-ins -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "seconds"), [(Usage(calls=np.int64(2), seconds=np.float32(0.5)), 0.5), (Usage(calls=2, seconds=3), 3)]
)
def test_numbers_of_numpy_are_recorded_as_numbers(usage, seconds):
    record = written(Episode("1", "q?", (), None, "no_action", usage=usage))
    assert (record["usage"]["calls"], record["usage"]["seconds"]) == (2, seconds)
    assert Episode.from_json(record).usage == usage


@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf, 2**64, 10**400, True, "1", None, [1]])
@pytest.mark.parametrize("name", ["calls", "prompt_tokens", "cached_tokens", "completion_tokens", "seconds"])
def test_costs_are_numbers_of_0_or_more(name, value):
    record = {**written(EPISODES[1]), "usage": {**written(EPISODES[1])["usage"], name: value}}
    with pytest.raises(DataError, match=rf"^field 'usage\.{name}' must be a .*number of 0 or more, got "):
        Episode.from_json(record)


@pytest.mark.parametrize("value", [math.nan, object(), {1, 2}, b"x"])
def test_a_record_without_a_json_form_is_refused_whole(tmp_path, value):
    with RecordWriter(tmp_path / "e.jsonl") as writer, pytest.raises(DataError, match="'2' cannot be written"):
        writer.append([{"id": "1"}, {"id": "2", "x": value}])
    assert not (tmp_path / "e.jsonl").exists()


# -- files from somebody else, and after a power cut -----------------------------------------------------------------

WHOLE = b"".join(json.dumps({"id": str(number), "text": "x" * number}).encode() + b"\n" for number in range(5))


def ids(path):
    return [record["id"] for record in read_records(path)]


@given(st.integers(0, len(WHOLE)), st.integers(0, 9000), st.text("\n\r \0", max_size=4))
def test_whatever_a_power_cut_leaves_at_the_end_is_cut_off_and_nothing_else(cut, zeros, blanks):
    whole = WHOLE[: WHOLE.rfind(b"\n", 0, cut) + 1]
    # Half of a line directly before a line break would be a damaged line: nobody could tell that it was the last.
    tail = WHOLE[len(whole) : cut] + b"\0" * zeros + (blanks.encode() if zeros else b"")
    with TemporaryDirectory() as folder:
        path = Path(folder, "e.jsonl")
        path.write_bytes(whole + tail)
        repair(path)
        assert path.read_bytes() == whole
        with RecordWriter(path) as writer:
            writer.append([{"id": "new"}])
        assert ids(path) == [*(str(number) for number in range(whole.count(b"\n"))), "new"]


@pytest.mark.parametrize(
    "tail", [b"", b"\n", b"\n \n\r\n", b"\0" * 5000, b'{"id": "9\0\0', b"\0\n", b'{"i\0\n\n', b"{}"]
)
def test_a_torn_end_is_repaired_with_every_record_kept(tmp_path, tail):
    path = tmp_path / "e.jsonl"
    path.write_bytes(WHOLE + tail)
    if b"i\0\n" not in tail:  # a finished line with zeros in it is an error where nothing is repaired
        assert ids(path) == list("01234")
    repair(path)
    assert path.read_bytes() == WHOLE


def test_blank_lines_and_zeros_between_records_are_skipped_and_lines_keep_their_numbers(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_bytes(b'{"id": "1"}\n\n\0\0\0\n{"id": "2"}\n')
    assert list(numbered_records(path)) == [(1, {"id": "1"}), (4, {"id": "2"})]
    path.write_bytes(b'{"id": "1"}\n\n{]\n')
    with pytest.raises(MalformedData, match="line 3"):
        list(read_records(path))


def test_a_record_too_long_to_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_BYTES", 1000)
    for length in (900, 989, 990, 5000):
        with RecordWriter(tmp_path / "e.jsonl") as writer, contextlib.suppress(DataError):
            writer.append([{"id": "x" * length}])
    assert [len(name) for name in ids(tmp_path / "e.jsonl")] == [900, 989]
    with pytest.raises(DataError, match="1,000 can be read"):
        append_record(tmp_path / "e.jsonl", {"id": "x" * 1000})


def test_a_line_of_absurd_length_is_named_and_the_others_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_BYTES", 1000)
    path = tmp_path / "e.jsonl"
    for length in (999, 1000, 1001, 1002, 2000, 2001, 5000):
        path.write_bytes(b'{"id": "1"}\n' + b"[" * length + b'\n{"id": "3"}\n{"id": "x')
        assert damaged_lines(path) == [1, 2, 3]  # none is an episode, and none is torn apart
        with pytest.raises(MalformedData, match="line 2"):
            ids(path)
        repair(path)
        assert path.read_bytes().endswith(b'{"id": "3"}\n')
        path.write_bytes(b'{"id": "1"}\n' + b"\0" * length)
        repair(path)
        assert path.read_bytes() == b'{"id": "1"}\n'


def test_a_terabyte_of_zeros_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_BYTES", 1 << 16)
    path = tmp_path / "e.jsonl"
    path.write_bytes(WHOLE)
    os.truncate(path, 1 << 30)  # smaller here, so that the test does not take minutes
    tracemalloc.start()
    try:
        assert ids(path) == list("01234")
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def linked(path):
    target = path.with_name("target")
    target.write_bytes(WHOLE + b"torn")
    path.symlink_to(target)


@pytest.mark.parametrize("make", [linked, os.mkfifo, os.mkdir], ids=["link", "pipe", "folder"])
def test_only_a_regular_file_is_read_repaired_or_written(tmp_path, make):
    path = tmp_path / "e.jsonl"
    make(path)
    for use in (ids, lambda path: list(read_episodes(path)), damaged_lines, repair):
        with pytest.raises(DataError, match=r"e\.jsonl cannot be read: (a symbolic link|not a regular file)"):
            use(path)
    if make is linked:
        with RecordWriter(path) as writer, pytest.raises(DataError, match="symbolic link"):
            writer.append([{"id": "1"}])
        assert (tmp_path / "target").read_bytes() == WHOLE + b"torn"


def test_a_dangling_link_creates_no_file(tmp_path):
    (tmp_path / "e.jsonl").symlink_to(tmp_path / "created")
    with RecordWriter(tmp_path / "e.jsonl") as writer, pytest.raises(DataError, match="symbolic link"):
        writer.append([{"id": "1"}])
    assert not (tmp_path / "created").exists()


def test_records_are_written_to_disk_in_batches_and_at_the_end(tmp_path, monkeypatch):
    now, synced = [0.0], []
    monkeypatch.setattr(records.time, "monotonic", lambda: now[0])
    path = tmp_path / "e.jsonl"
    monkeypatch.setattr(records.os, "fsync", lambda _: synced.append(path.read_bytes().count(b"\n")))
    with RecordWriter(path) as writer:
        for moment, number in ((0.0, 3), (0.1, 1), (0.19, 1), (0.21, 2), (5.0, 1), (5.1, 1)):
            now[0] = moment
            writer.append([{"id": str(index)} for index in range(number)])
            assert ids(path)[-1] == str(number - 1)  # what a killed process leaves
    # First the folder, for the name of the new file; then at most every 0.2 s; at last what is left.
    assert synced == [0, 3, 7, 8, 9]
