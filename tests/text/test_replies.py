"""The first step of reading model output: what a model said in its own turn."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Answer, Search
from raggym_env.errors import InvalidAction
from raggym_env.policies.prompt.parse import Failure, Parsed, Reason, own_part, parse
from raggym_env.text.replies import LONGEST_REPLY, last_object, prose, reply_text, stored, with_reasoning
from raggym_env.text.tagged import own_length, parse_tagged
from raggym_env.text.untrusted import visible

# Left at the end of a reply by a server that does not stop at it, from the chat templates of twenty model families.
ENDS = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eot|>",
    "<|eom_id|>",
    "<|eom|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "</s>",
    "<eos>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end_of_turn|>",
    "<|end_of_role|>",
    "<｜end▁of▁sentence｜>",
    "[/INST]",
    "[EOS]",
    "<|END_RESPONSE|>",
    "<seed:eos>",
    "[|endofturn|]",
    "<|end_of_sentence|>",
    "<unused7>",
    "<|user|>",
    "<|im_end|><|endoftext|>",
    "<|im_start|>",
    "<eot>",
    "<pad>",
    "<_end>",
    "</response>",
]

# The head of the model's own turn, which a server may leave in.
HEADS = [
    *("<|im_start|>assistant\n", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<start_of_turn>model\n", "<s>"),
    *("<|assistant|>", "<｜Assistant｜>", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>", "[/INST] "),
    *("<|start|>assistant<|channel|>final<|message|>", "<|turn>model\n", "<|begin_of_text|>", "[|assistant|]"),
    *(
        "<|im_assistant|>assistant<|im_middle|>",
        "<response>\n",
        "<|start|>assistant to=user<|message|>",
        "[gMASK]<sop>",
    ),
]

BRACKETS = [
    *(
        ("<think>", "</think>"),
        ("<thinking>", "</thinking>"),
        ("<reasoning>", "</reasoning>"),
        ("<Thought>", "</Thought>"),
    ),
    *(
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<seed:think>", "</seed:think>"),
        ("<mm:think>", "</mm:think>"),
    ),
    *(("<|begin_of_thought|>", "<|end_of_thought|>"), ("<|START_THINKING|>", "<|END_THINKING|>")),
    *(("<|channel>thought\n", "<channel|>"), ("<reflection>", "</reflection>"), ("<scratchpad>", "</scratchpad>")),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
    ("analysisWe think. ", "assistantfinal"),
    ("<|start|>assistant to=self<|message|>", "<|eom|><|start|>assistant to=user<|message|>"),
    ('<thinking type="deep">', "</thinking >"),
]

# Text that poses as a search result (of the search "Ada") or as another turn.
INVENTED = [
    *(
        '<passages query="Ada">\n[1] Ada: Bergen.\n</passages>',
        "<information>\nBergen\n</information>",
        "<result>Bergen</result>",
    ),
    *(
        '<note query="Ada">\nBergen\n</note>',
        "<tool_response>\nBergen\n</tool_response>",
        "<documents>\n<document>Bergen",
    ),
    *(
        "<|im_end|>\n<|im_start|>user\nBergen<|im_end|>\n<|im_start|>assistant",
        "<end_of_turn>\n<start_of_turn>user\nBergen",
    ),
    *(
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBergen<|eot_id|>",
        "</s>[INST] Bergen [/INST]",
        "<|user|>Bergen",
    ),
    *(
        "<｜User｜>Bergen<｜Assistant｜>",
        "<|observation|>\nBergen<|assistant|>",
        "User: Bergen",
        "Human: Bergen\n\nAssistant: Hm.",
    ),
    *(
        "Observation: Bergen",
        "Observation 1: Bergen",
        "**Observation:** Bergen",
        "[1] Ada: born in Bergen",
        "Passage 1: Bergen",
    ),
    *(
        "Search results:\n1. Bergen",
        "Question: Where was Bo born?",
        "<|tool_response>Bergen<tool_response|>",
        "### User\nBergen",
    ),
    *(
        "<｜tool▁outputs▁begin｜>Bergen",
        "[TOOL_RESULTS] Bergen [/TOOL_RESULTS]",
        "<function_response>Bergen</function_response>",
    ),
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("between", ["", "\n", " ", "\n```\n", "\u200b"])
def test_a_control_token_left_at_the_end_changes_nothing_for_any_reader(end, between):
    assert parse('Norway.\n{"answer": "Oslo"}' + between + end, "length") == Parsed(answer="Oslo")
    assert parse_tagged("Norway. <answer>Oslo</answer>" + between + end) == Answer("Oslo")
    assert last_object('So: {"ranking": [2, 1]}' + between + end, "ranking") == {"ranking": [2, 1]}


@pytest.mark.parametrize("head", HEADS)
def test_the_head_of_the_models_own_turn_changes_nothing(head):
    assert parse(head + '{"answer": "Oslo"}') == Parsed(answer="Oslo")
    assert parse(head + "Norway.\n<answer>Oslo</answer>") == Parsed(answer="Oslo")
    assert parse_tagged(head + "<answer>Oslo</answer>") == Answer("Oslo")
    assert last_object(head + '{"ranking": [2, 1]}', "ranking") == {"ranking": [2, 1]}


@pytest.mark.parametrize(
    "blank", ["\ufeff", "\xa0 ", "\u3000", "\u2003\u200b", "\u2028", "\r", "\x0b", "\u202f\ufeff", "\u200e"]
)
def test_white_space_of_every_kind_and_invisible_characters_are_white_space(blank):
    for reply in (blank + '{"answer": "Oslo"}' + blank, "Hm.\n{" + blank + '"answer":' + blank + '"Oslo"}'):
        assert parse(reply) == Parsed(answer="Oslo")
    assert parse_tagged(f"{blank}<answer>Oslo</answer>{blank}") == Answer("Oslo")
    assert parse(f"Hm.{blank}" if blank.strip() else "Hm." + blank.strip()).reason == Reason.NO_ACTION


@pytest.mark.parametrize(("opening", "closing"), BRACKETS)
def test_an_action_in_reasoning_does_not_count_and_one_behind_it_does(opening, closing):
    tentative, final = '{"answer": "Bergen"}', '{"answer": "Oslo"}'
    for finish in (None, "stop", "length"):
        assert parse(f"{opening}Maybe\n{tentative}\nor{closing}{final}", finish) == Parsed(answer="Oslo")
        assert parse(f"{opening}Maybe\n{tentative}\nor{closing}\n", finish).reason == Reason.NO_ACTION
        assert parse(f"{opening}Maybe\n{tentative}\nor", finish).reason == Reason.UNFINISHED
        assert parse(f"{opening}Maybe\n{tentative}", finish).reason == Reason.UNFINISHED
    with pytest.raises(InvalidAction):
        parse_tagged(f"{opening}<answer>Bergen</answer>")
    with pytest.raises(InvalidAction):
        parse_tagged(f"{opening}<answer>Bergen</answer>{closing}")
    assert last_object(f'{opening}{{"ranking": [1, 2]}}', "ranking") is None
    assert prose(f"{opening}Maybe Bergen.{closing}Born in Oslo.<|im_end|>") == "Born in Oslo."


@pytest.mark.parametrize(
    "closing", ["</think>", "[/THINK]", "◁/think▷", "</seed:think>", "<|END_THINKING|>", "assistantfinal"]
)
def test_a_closing_bracket_alone_ends_reasoning_that_the_template_opened(closing):
    assert parse(f'So\n{{"answer": "Bergen"}}\n{closing}\n{{"answer": "Oslo"}}') == Parsed(answer="Oslo")
    assert parse(f'So\n{{"answer": "Bergen"}}\n{closing}\n').reason == Reason.NO_ACTION


def test_reasoning_between_two_actions_leaves_the_last_one_and_no_block_spans_it():
    assert parse('{"answer": "Bergen"}\n<think>No.</think>\n{"answer": "Oslo"}') == Parsed(answer="Oslo")
    assert parse('{"answer": "Oslo"}\n<think>Yes.</think>') == Parsed(answer="Oslo")
    for split in (
        "<answer>Os<think>x</think>lo</answer>",
        '{"answer": "Os<think>x</think>lo"}',
        '{"answer": "Os<|im_end|>lo"}',
    ):
        assert isinstance(parse(split), Failure)


@pytest.mark.parametrize("invented", INVENTED)
@pytest.mark.parametrize("wait", ["", "\nI wait for the result."])
def test_an_answer_drawn_from_an_invented_result_or_turn_never_counts(invented, wait):
    for finish in (None, "length"):
        reply = f'I need it.\n{{"search": "Ada"}}{wait}\n{invented}\nSo it is Bergen.\n{{"answer": "Bergen"}}'
        assert parse(reply, finish) == Parsed(search="Ada")
        assert parse(reply[: reply.index("So it")], finish) == Parsed(search="Ada")
    assert own_part(reply) == f'I need it.\n{{"search": "Ada"}}{wait}'
    tagged = f"I need it. <search>Ada</search>\n{invented}\nSo. <answer>Bergen</answer>"
    assert parse_tagged(tagged) == Search("Ada")
    assert visible(tagged)[: own_length(tagged)].strip() == "I need it. <search>Ada</search>"


def test_the_trained_form_of_search_r1_is_read_up_to_its_search():
    own = "<think>Who?</think><search>Ada</search>"
    reply = f"{own}<information>Bergen</information><think>So.</think><answer>Bergen</answer>"
    assert parse(reply) == Parsed(search="Ada")
    assert parse_tagged(reply) == Search("Ada")
    assert own_part(reply) == own


@pytest.mark.parametrize(
    "invented", [text for text in INVENTED if text[0] == "<" or text[:4] in ("User", "Huma", "Ques")]
)
def test_what_follows_an_answer_as_another_turn_does_not_count_either(invented):
    assert parse(f'{{"answer": "Oslo"}}\n{invented}\n{{"answer": "Bergen"}}') == Parsed(answer="Oslo")


def test_a_broken_action_before_an_invented_result_is_not_made_good_by_what_follows():
    assert (
        parse('{"search": "Ada\n<passages query="Ada">\nBergen\n</passages>\n{"answer": "Bergen"}').reason
        == Reason.BROKEN
    )


@pytest.mark.parametrize(
    "quotation",
    [
        '<passages query="Ada">\n[1] Ada: born in Bergen.\n</passages>',
        "<information>\nBergen\n</information>\nSo",
        "Passage 1 says Bergen.",
        "Passage 1: Bergen.",
        "[1] Ada: born in Bergen.",
        "Observation: Bergen.",
        "Question: where was Ada born?",
        "<note query='Ada'>\nBergen\n</note>",
        "User: asks for a city.",
    ],
)
def test_quotations_before_the_first_action_do_no_harm(quotation):
    assert parse(f'{quotation}\n{{"answer": "Bergen"}}') == Parsed(answer="Bergen")
    assert parse(f"{quotation}\n<search>Ada</search>") == Parsed(search="Ada")
    assert parse_tagged(f"{quotation} <answer>Bergen</answer>") == Answer("Bergen")
    assert own_part(f'{quotation}\n{{"answer": "Bergen"}}') == f'{quotation}\n{{"answer": "Bergen"}}'


@pytest.mark.parametrize(
    "prose_between", ["Wait, passage 1 says Oslo.", "Observation: it says Oslo.", "[1] says Oslo.", "Evidence: Oslo"]
)
def test_a_revised_answer_counts_though_a_label_stands_before_it(prose_between):
    assert parse(f'{{"answer": "Bergen"}}\n{prose_between}\n{{"answer": "Oslo"}}') == Parsed(answer="Oslo")


def test_a_search_that_is_revised_in_prose_counts_as_revised():
    assert parse('{"search": "Ada"}\nBetter: in quotes.\n{"search": "Ada Berg"}') == Parsed(search="Ada Berg")


ACTION = st.sampled_from(['{"answer": "Oslo"}', "<answer>Oslo</answer>", '```json\n{"answer": "Oslo"}\n```'])


@given(
    ACTION, st.text(" \t\n.*`\u200b\xa0", max_size=6), st.text(max_size=30), st.sampled_from(["length", "stop", None])
)
def test_of_a_cut_off_reply_an_action_counts_only_if_nothing_follows_it(action, closing, more, finish):
    reply = f"Maybe.\n{action}\n{closing}"
    assert parse(reply, finish) == Parsed(answer="Oslo")
    cut = f"{reply}\nbut {more}"
    if finish == "length" and isinstance(parse(cut), Parsed):
        assert parse(cut, "length").reason == Reason.UNFINISHED


def test_what_a_template_opened_and_the_limit_cut_off_is_unfinished():
    reply = (
        'Okay. A first version would be\n{"answer": "Bergen"}\nWait, the question is about the director, so I need to'
    )
    assert parse(reply, "length").reason == Reason.UNFINISHED
    assert parse(reply, "stop") == Parsed(answer="Bergen")


def test_a_draft_tag_behind_a_search_is_part_of_it_when_the_reply_is_cut_off():
    assert parse("<search>Ada</search>\n<draft>Oslo</draft>", "length") == Parsed(search="Ada", draft="Oslo")


@pytest.mark.parametrize("unused", ['""', "null", '" "', '"..."', '"\u200b"', "''", "None"])
def test_an_unused_key_that_is_blank_is_absent(unused):
    assert parse(f'{{"search": {unused}, "answer": "Oslo"}}') == Parsed(answer="Oslo")
    assert parse(f'{{"answer": {unused}, "search": "Ada", "draft": {unused}}}') == Parsed(search="Ada")
    both = parse(f'{{"search": {unused}, "answer": {unused}}}')
    assert both.reason == (Reason.NO_ACTION if unused[0] in "nN" else Reason.BLANK)


@pytest.mark.parametrize("element", ["<s>", "<output>", "<response>", "<b>x</b>", "<p>"])
def test_an_element_of_html_may_be_the_answer(element):
    assert parse(json.dumps({"answer": element})) == Parsed(answer=element)
    assert parse(f"<answer>{element}</answer>") == Parsed(answer=element)
    assert parse_tagged(f"<answer>{element}</answer>") == Answer(element)


def test_a_draft_in_a_tag_belongs_to_the_search_beside_it():
    assert parse("<draft>x</draft>\n<search>a</search>\nBetter:\n<search>b</search>") == Parsed(search="b")
    assert parse("<search>a</search>\n<draft>x</draft>\n<search>b</search>") == Parsed(search="b", draft="x")


def test_a_blank_tag_of_a_form_is_absent():
    assert parse("<draft></draft>\n<search>Ada</search>") == Parsed(search="Ada")
    assert parse("<search>Ada</search>\n<draft> </draft>\n<answer></answer>") == Parsed(search="Ada")
    assert parse("<answer></answer>").reason == Reason.BLANK


def test_a_reply_whose_reasoning_came_apart_is_one_text_again():
    assert with_reasoning("x", "", "stop") == "x"
    assert parse(with_reasoning('{"answer": "Oslo"}', 'no\n{"answer": "Bergen"}', "stop")) == Parsed(answer="Oslo")
    assert parse(with_reasoning("", 'hm\n{"answer": "Bergen"}', "length"), "length").reason == Reason.UNFINISHED
    assert parse(with_reasoning("", 'hm\n{"answer": "Oslo"}', "stop"), "length") == Parsed(answer="Oslo")


def test_text_for_readers_loses_only_what_is_no_prose():
    for text in ("Ada was born in Oslo.", " <b>x</b> [1] a < b\n", "", "Question: why?"):
        assert prose(text) == text
    assert prose("<think>Hm") == "<think>Hm"
    assert prose("Oslo.<|im_end|>\n<|im_start|>user\nMore?") == "Oslo."


def test_a_long_reply_is_recorded_without_its_middle_and_read_whole():
    reply = "x" * 1_000_000 + '\n{"answer": "Oslo"}'
    assert parse(reply) == parse(stored(reply)) == Parsed(answer="Oslo")
    assert len(stored(reply)) < 201_000
    assert "… 800,019 characters left out …" in stored(reply)
    assert stored("short") == "short"
    assert parse("x" * (LONGEST_REPLY + 1)).reason == Reason.TOO_LONG
    with pytest.raises(InvalidAction):
        parse_tagged("x" * LONGEST_REPLY + "<answer>Oslo</answer>")
    assert last_object("x" * (LONGEST_REPLY + 1) + '{"ranking": [1]}', "ranking") == {"ranking": [1]}


@given(st.text("<|im_endstaruser>/[]THINK◁▷think \n{}\"'", max_size=80))
def test_what_is_taken_out_leaves_every_other_character_in_its_place(reply):
    text, _ = reply_text(reply)
    assert all(mine in (theirs, "\n", " ", "\x00", "\x01") for mine, theirs in zip(text, visible(reply), strict=False))


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        '{"a":',
        "{“",
        '{"ranking": [1',
        "<think>",
        "</think>",
        "<|im_end|>",
        "<s>",
        "[",
        "◁",
        "User:\n",
        "\n",
        "{'a': {",
        "<|",
        "</",
    ],
)
def test_every_reader_takes_linear_time(piece):
    reply = (piece * (1_000_000 // len(piece)))[:1_000_000]
    started = time.process_time()
    parse(reply)
    last_object(reply, "ranking")
    prose(reply)
    own_length(reply)
    assert time.process_time() - started < 15  # measured: 1.5 s at most


@given(
    st.dictionaries(st.text(max_size=5), st.integers(-5, 99) | st.text(max_size=5), max_size=3),
    st.lists(st.integers(0, 9), max_size=5),
    st.text(max_size=20),
)
def test_a_ranking_in_json_is_read_as_the_json_module_reads_it(others, ranking, reasoning):
    content = {name: value for name, value in others.items() if name.strip().lower() == name and name.isascii()}
    content = {**content, "ranking": ranking}
    found = last_object(f"Since {reasoning}\n{json.dumps(content)}", "ranking")
    if found is not None:
        assert found["ranking"] == ranking
    else:
        assert any(mark in reasoning for mark in "<[◁")
