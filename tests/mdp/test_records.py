import json
import math

import numpy as np
import pytest

from raggym_env.core import Answer, Passage, Question, Search, State, StopReason, Turn, Usage
from raggym_env.errors import MalformedData
from raggym_env.mdp.records import Candidate, Episode, Step, append_record, read_records, repair

START = State(Question("1", "q?"), (), 2)
FOUND = State(Question("1", "q?"), (Turn("x", (Passage("7", "T", "long text"),)),), 1)


def test_a_step_keeps_ids_and_titles_of_what_it_found():
    step = Step.of(START, Search("x", "d"), FOUND, 0.0, 0.5)
    record = step.to_json()
    assert record == {"search": "x", "draft": "d", "outcome": 0.0, "process_reward": 0.5, "passages": [["7", "T"]]}


def test_an_answer_found_nothing_even_after_a_search():
    ended = State(FOUND.question, FOUND.history, 1, "a", StopReason.ANSWER)
    assert Step.of(FOUND, Answer("a"), ended, 1.0, 0.0).passages == ()


def test_candidates_scores_text_and_usage_are_kept():
    candidates = (Candidate(Answer("a"), 0.5, "raw"), Candidate(None))
    record = Step(Answer("a"), text="raw", score=0.5, candidates=candidates, usage=Usage(calls=1)).to_json()
    assert record["candidates"] == [{"answer": "a", "score": 0.5, "text": "raw"}, {"score": None}]
    assert (record["text"], record["usage"]["calls"]) == ("raw", 1)


@pytest.mark.parametrize(("score", "kept"), [(np.float32(0.5), 0.5), (-math.inf, None), (math.nan, None)])
def test_any_score_can_be_recorded(tmp_path, score, kept):
    append_record(
        tmp_path / "e.jsonl", Step(Answer("a"), score=score, candidates=(Candidate(Answer("a"), score),)).to_json()
    )
    (record,) = read_records(tmp_path / "e.jsonl")
    assert record["score"] == record["candidates"][0]["score"] == kept


def test_a_failed_episode_has_no_stop_reason():
    ended = State(FOUND.question, (), 1, "a", StopReason.ANSWER)
    assert Episode.of(ended, ()).to_json()["stop"] == "answer"
    assert Episode.of(START, (), error="RetrievalError: down").to_json()["stop"] is None


def test_what_is_appended_is_read_back_whatever_the_text(tmp_path):
    records = [{"id": "1", "text": 'line\u2028break "é" \ud800'}, {"id": "2"}]
    for record in records:
        append_record(tmp_path / "e.jsonl", record)
    assert list(read_records(tmp_path / "e.jsonl")) == records


@pytest.mark.parametrize("torn", ['{"id": "2', '{"id": "2"}', "\x00"])
def test_a_torn_last_line_is_passed_over_and_cut_off_by_repair(tmp_path, torn):
    path = tmp_path / "e.jsonl"
    append_record(path, {"id": "1"})
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    assert [record["id"] for record in read_records(path)] == ["1"]
    repair(path)
    assert path.read_bytes() == whole


def test_repair_of_a_single_torn_line_and_of_no_file(tmp_path):
    (tmp_path / "e.jsonl").write_text('{"id"')
    repair(tmp_path / "e.jsonl")
    repair(tmp_path / "missing.jsonl")
    assert (tmp_path / "e.jsonl").read_bytes() == b""
    assert not (tmp_path / "missing.jsonl").exists()


@pytest.mark.parametrize("line", ["{]", "[1]", "3"])
def test_a_finished_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps({"id": "1"}) + "\n" + line + "\n")
    with pytest.raises(MalformedData, match=r"e\.jsonl, line 2"):
        list(read_records(path))
