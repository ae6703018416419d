"""What servers return with status 200, in every form that is known of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raggym_env.core import Usage
from raggym_env.llm.openai.replies import Reply, Trouble, read_error, read_reply
from raggym_env.protocols import Completion

ANSWER = '{"answer": "Oslo"}'
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def body(finish="stop", usage=USAGE, error=None, **message):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps({"choices": [{**choice, "error": error} if error else choice], "usage": usage})


def only(text, stop=()):
    reply = read_reply(text, stop)
    assert isinstance(reply, Reply), reply
    (completion,) = reply.completions
    return completion


@pytest.mark.parametrize("finish", ["abort", "error", "ABORT", "insufficient_system_resource", "network_error", 7, []])
@pytest.mark.parametrize("content", ["", "I think that the", ANSWER, None])
def test_a_reply_that_the_server_did_not_finish_is_tried_again_whatever_it_says(finish, content):
    reply = read_reply(body(finish, content=content), ())
    assert isinstance(reply, Trouble)
    assert (reply.retry, reply.fatal) == (True, False)


@pytest.mark.parametrize("error", [{"code": 502, "message": "Provider returned error"}, "upstream died", ["x"]])
def test_an_error_inside_a_200_is_tried_again_wherever_it_stands(error):
    inside = [body(content=ANSWER, error=error), json.dumps({"error": error}), body(content=ANSWER, error=error)]
    inside.append(json.dumps({"choices": json.loads(body(content=ANSWER))["choices"], "error": error}))
    for text in inside:
        reply = read_reply(text, ())
        assert isinstance(reply, Trouble)
        assert reply.retry
        assert "error" in reply.message
    assert only(json.dumps({**json.loads(body(content=ANSWER)), "error": None})).text == ANSWER


def test_one_unfinished_choice_of_several_is_tried_again():
    choices = [json.loads(body(finish, content=ANSWER))["choices"][0] for finish in ("stop", "abort")]
    assert isinstance(read_reply(json.dumps({"choices": choices}), ()), Trouble)


@pytest.mark.parametrize(
    "content",
    [
        ANSWER,
        [{"type": "text", "text": ANSWER}],
        [{"type": "output_text", "text": ANSWER[:6]}, {"type": "output_text", "text": ANSWER[6:]}],
        [ANSWER],
        {"type": "text", "text": {"value": ANSWER, "annotations": []}},
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": ANSWER}],
        [{"type": "reasoning", "summary": [{"text": "hm"}]}, {"text": ANSWER}, {"type": "image_url"}, 5, None],
    ],
)
def test_the_text_parts_of_a_content_are_joined(content):
    completion = only(body(content=content))
    assert (completion.text, completion.failure) == (ANSWER, None)
    assert completion.reasoning in ("", "hm")


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"reasoning": "hm", "reasoning_content": "hm"},
        {"reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"reasoning_content": [{"type": "text", "text": "hm"}]},
    ],
)
@pytest.mark.parametrize("content", [None, "", ANSWER])
def test_reasoning_that_is_returned_apart_is_kept_and_is_not_the_text(fields, content):
    completion = only(body("length", content=content, **fields))
    assert completion == Completion(content or "", "length", reasoning="hm")


def test_a_message_without_a_content_field_is_read_too():
    assert only(body("length", reasoning_content="hm")).failure is None
    assert "no text" in only(body("stop")).failure


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ({"name": "search", "arguments": '{"query": "Ada"}'}, '{"search": "Ada"}'),
        ({"name": "search", "arguments": {"search": "Ada", "draft": "Oslo"}}, '{"search": "Ada", "draft": "Oslo"}'),
        ({"name": "answer", "arguments": '{"answer": "Oslo"}'}, ANSWER),
        ({"name": "answer", "arguments": '{"answer": "Os'}, None),
        ({"name": "answer", "arguments": '{"answer": "Oslo", "text": "Bergen"}'}, None),
        ({"name": "answer", "arguments": '["Oslo"]'}, None),
        ({"name": "python", "arguments": '{"answer": "Oslo"}'}, None),
        ({"name": ["answer"], "arguments": None}, None),
    ],
)
def test_a_call_of_search_or_answer_is_that_action_and_any_other_call_is_no_text(function, expected):
    for fields in ({"tool_calls": [{"type": "function", "function": function}]}, {"function_call": function}):
        completion = only(body("tool_calls", content=None, **fields))
        assert (completion.text or None, "tool call" in (completion.failure or "")) == (expected, expected is None)
        assert only(body("tool_calls", content="Hm.", **fields)).text == (
            "Hm." if expected is None else f"Hm.\n{expected}"
        )


def test_several_calls_have_no_single_reading():
    call = {"function": {"name": "search", "arguments": '{"query": "Ada"}'}}
    assert "tool call" in only(body("tool_calls", content=None, tool_calls=[call, call])).failure


@pytest.mark.parametrize("finish", ["content_filter", "SAFETY", "sensitive", "content-filter"])
def test_a_filtered_reply_is_a_failure_and_no_outage(finish):
    completion = only(body(finish, content=ANSWER))
    assert ("content filter" in completion.failure, completion.text, completion.outage) == (True, "", False)


BAD_COUNTS = ["NaN", "Infinity", "-1", "1e400", "1" + "0" * 400, '"12"', "true", "null", "[]", "0.5", "9" * 19]


@pytest.mark.parametrize("count", BAD_COUNTS)
def test_a_count_of_tokens_that_is_no_number_counts_as_not_reported(count):
    text = body(content=ANSWER, usage="USAGE").replace(
        '"USAGE"', f'{{"prompt_tokens": {count}, "completion_tokens": 5}}'
    )
    reply = read_reply(text, ())
    assert isinstance(reply, Reply)
    assert (reply.completions[0].text, reply.usage) == (ANSWER, None)


@pytest.mark.parametrize("usage", [None, {}, [], "many", 7])
def test_a_usage_of_another_type_counts_as_not_reported(usage):
    assert read_reply(body(content=ANSWER, usage=usage), ()).usage is None


def test_cached_tokens_are_a_part_of_the_prompts():
    details = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}}
    assert read_reply(body(content=ANSWER, usage=details), ()).usage == Usage(0, 10, 10, 5)
    details["prompt_tokens_details"] = ["x"]
    assert read_reply(body(content=ANSWER, usage=details), ()).usage == Usage(0, 10, 0, 5)


def test_a_number_that_is_none_in_another_field_costs_nothing():
    text = body(content=ANSWER).replace('"index": 0', '"logprobs": {"content": [{"logprob": -Infinity}]}')
    assert only(text).text == ANSWER


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(ANSWER),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "text", "thinking", "name", "arguments", "function", "error", "message", "content"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["content", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call"]), values
    ),
    values | st.sampled_from(["stop", "length"]),
    values,
)
def test_a_body_of_any_shape_is_a_reply_or_a_trouble(message, finish, usage):
    reply = read_reply(json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage}), ())
    if isinstance(reply, Reply):
        assert all(type(c.text) is str and type(c.reasoning) is str for c in reply.completions)
        assert reply.usage is None or reply.usage.prompt_tokens >= 0
    else:
        assert reply.retry
        assert len(reply.message) < 3_000


@settings(max_examples=100, deadline=None)
@given(values)
def test_any_json_at_all_is_a_reply_or_a_trouble_and_an_error_of_any_shape_is_read(value):
    assert isinstance(read_reply(json.dumps(value), ()), Reply | Trouble)
    assert read_error(500, {}, json.dumps(value), answered=True).retry
