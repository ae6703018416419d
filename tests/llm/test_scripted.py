import json
import re

import pytest

from raggym_env import llm
from raggym_env.core import Usage
from raggym_env.errors import LLMError, OptionError
from raggym_env.llm import LLM, Completion, Sampling
from raggym_env.llm.scripted import ScriptedLLM


def ask(*texts):
    return [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}] for text in texts]


def reply_texts(model, *texts, n=1):
    return [[completion.text for completion in row] for row in model.generate(ask(*texts), Sampling(n=n))]


def test_a_function_gets_the_messages_and_returns_a_reply_for_all_samples_or_one_for_each():
    model = ScriptedLLM(lambda messages: messages[-1]["content"].upper())
    assert reply_texts(model, "a", "b", n=2) == [["A", "A"], ["B", "B"]]
    assert reply_texts(ScriptedLLM(lambda messages: ["x", "y", "z"]), "a", n=2) == [["x", "y"]]


def test_the_first_key_of_a_mapping_that_matches_the_last_user_message_counts():
    model = ScriptedLLM({"capital": "Paris", re.compile(r"\bking\b"): ["Louis", "Charles"], "": "What?"})
    assert reply_texts(model, "the capital", "a king", "brief", n=2) == [
        ["Paris"] * 2,
        ["Louis", "Charles"],
        ["What?"] * 2,
    ]


def test_only_the_last_user_message_is_searched():
    model = ScriptedLLM({"first": "no", "second": "yes"})
    chat = [
        {"role": role, "content": text}
        for role, text in (("user", "first"), ("assistant", "first"), ("user", "second"))
    ]
    assert model.generate([chat], Sampling())[0][0].text == "yes"


def test_a_list_is_used_in_order_prompt_by_prompt_and_sample_by_sample():
    model = ScriptedLLM(["1", "2", "3", "4", "5"])
    assert reply_texts(model, "a", "b", n=2) == [["1", "2"], ["3", "4"]]
    assert reply_texts(model, "a") == [["5"]]
    with pytest.raises(LLMError, match="has 5 replies, and reply 6"):
        reply_texts(model, "a")


def test_a_prompt_without_a_reply_is_an_error_that_lists_the_keys():
    with pytest.raises(LLMError, match=r"no reply to 'the queen'.*'king', 'b\.d'"):
        reply_texts(ScriptedLLM({"king": "x", re.compile("b.d"): "y"}), "the queen")


def test_fewer_replies_than_samples_are_an_error():
    with pytest.raises(LLMError, match="2 replies to 'a', which are too few for n=3"):
        reply_texts(ScriptedLLM({"a": ["x", "y"]}), "a", n=3)


def test_every_prompt_is_recorded():
    model = ScriptedLLM({"": "x"})
    assert isinstance(model, LLM)
    reply_texts(model, "a", "b", n=2)
    assert [call.text for call in model.calls] == ["a", "b"]
    assert model.calls[0].messages == ask("a")[0]
    assert model.calls[0].params == Sampling(n=2)


def test_usage_counts_words_and_a_prompt_once():
    [row] = ScriptedLLM({"": "one two three"}).generate(ask("four words are here"), Sampling(n=2))
    assert sum((completion.usage for completion in row), Usage()) == Usage(
        calls=1, prompt_tokens=6, completion_tokens=6
    )


def test_a_completion_in_the_script_is_returned_as_it_is():
    failure = Completion("", failure="the server is down")
    assert ScriptedLLM({"": failure}).generate(ask("a"), Sampling())[0][0] is failure


@pytest.mark.parametrize("script", ["just a text", 3, None])
def test_an_object_that_is_no_script_is_refused(script):
    with pytest.raises(OptionError, match="A script is a function, a mapping or a list"):
        ScriptedLLM(script)


def write(path, *lines):
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines),
        encoding="utf-8",
    )
    return llm.make(f"scripted:{path}")


def test_a_json_file_holds_a_list_or_an_object(tmp_path):
    assert reply_texts(write(tmp_path / "a.json", ["1", "2"]), "a", "b") == [["1"], ["2"]]
    assert reply_texts(write(tmp_path / "b.json", {"a": "1", "b": ["2", "3"]}), "a b", "b", n=2) == [
        ["1", "1"],
        ["2", "3"],
    ]


def test_a_jsonl_file_holds_replies_in_order_or_rules(tmp_path):
    assert reply_texts(write(tmp_path / "a.jsonl", '"one\u2028line"', "", '"two"'), "a", "b") == [
        ["one\u2028line"],
        ["two"],
    ]
    rules = [{"contains": "a.c", "reply": "text"}, {"pattern": "a.c", "reply": ["x", "y"]}]
    assert reply_texts(write(tmp_path / "b.jsonl", *rules), "abc", "a.c", n=2) == [["x", "y"], ["text", "text"]]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.json", ["{"], "not JSON"),
        ("a.json", ["3"], "a list or an object, got 3"),
        ("a.json", [["x", 3]], "in order, a text; got 3"),
        ("a.json", [{"k": []}], "'k': a reply is a text or a list of texts"),
        ("a.jsonl", [], "is empty"),
        ("a.jsonl", ['"good"', "{"], "line 2: not JSON"),
        ("a.jsonl", ['"good"', {"contains": "x", "reply": "y"}], "line 2: expected a reply to use in order"),
        ("a.jsonl", [{"contains": "x", "reply": "y"}, '"z"'], "line 2: expected an object"),
        ("a.jsonl", [{"contain": "x", "reply": "y"}], "line 1: expected an object with `contains` or `pattern`"),
        ("a.jsonl", [{"contains": "x", "reply": 3}], "line 1: a reply is a text"),
        ("a.jsonl", [{"pattern": 3, "reply": "y"}], "line 1: expected a text to search for, got 3"),
        ("a.jsonl", [{"pattern": "(", "reply": "y"}], "line 1: '\\(' is not a regular expression"),
        ("a.jsonl", ["[" * 100_000], "line 1: not JSON"),
    ],
)
def test_a_file_that_is_no_script_is_refused_with_the_line(tmp_path, name, lines, message):
    with pytest.raises(LLMError, match=message):
        write(tmp_path / name, *lines)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LLMError, match=r"nothing\.json cannot be read"):
        llm.make(f"scripted:{tmp_path / 'nothing.json'}")
