import json
import re

import pytest

from raggym_env import llm
from raggym_env.core import Usage
from raggym_env.errors import LLMError
from raggym_env.llm import LLM, Completion, Sampling
from raggym_env.llm.scripted import ScriptedLLM


def ask(*texts):
    return [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}] for text in texts]


def said(model, *texts, n=1):
    return [[completion.text for completion in row] for row in model.generate(ask(*texts), Sampling(n=n))]


def test_a_function_is_given_the_messages_and_replies_for_all_samples_or_each():
    model = ScriptedLLM(lambda messages: messages[-1]["content"].upper())
    assert said(model, "a", "b", n=2) == [["A", "A"], ["B", "B"]]
    assert said(ScriptedLLM(lambda messages: ["x", "y", "z"]), "a", n=2) == [["x", "y"]]


def test_a_mapping_is_looked_up_in_the_last_user_message_and_the_first_that_fits_counts():
    model = ScriptedLLM({"capital": "Paris", re.compile(r"\bking\b"): ["Louis", "Charles"], "": "What?"})
    assert said(model, "the capital", "a king", "brief", n=2) == [
        ["Paris"] * 2,
        ["Louis", "Charles"],
        ["What?"] * 2,
    ]


def test_only_the_last_user_message_is_looked_at():
    model = ScriptedLLM({"first": "no", "second": "yes"})
    chat = [
        {"role": role, "content": text}
        for role, text in (("user", "first"), ("assistant", "first"), ("user", "second"))
    ]
    assert model.generate([chat], Sampling())[0][0].text == "yes"


def test_a_list_is_used_in_order_prompt_by_prompt_and_sample_by_sample():
    model = ScriptedLLM(["1", "2", "3", "4", "5"])
    assert said(model, "a", "b", n=2) == [["1", "2"], ["3", "4"]]
    assert said(model, "a") == [["5"]]
    with pytest.raises(LLMError, match="has 5 replies, and reply 6"):
        said(model, "a")


def test_a_prompt_that_the_script_does_not_know_is_an_error_that_lists_what_it_knows():
    with pytest.raises(LLMError, match=r"no reply to 'the queen'.*'king', 'b\.d'"):
        said(ScriptedLLM({"king": "x", re.compile("b.d"): "y"}), "the queen")


def test_fewer_replies_than_samples_are_an_error():
    with pytest.raises(LLMError, match="2 replies to 'a', and n=3"):
        said(ScriptedLLM({"a": ["x", "y"]}), "a", n=3)


def test_every_prompt_is_recorded():
    model = ScriptedLLM({"": "x"})
    assert isinstance(model, LLM)
    said(model, "a", "b", n=2)
    assert [call.text for call in model.calls] == ["a", "b"]
    assert model.calls[0].messages == ask("a")[0]
    assert model.calls[0].params == Sampling(n=2)


def test_usage_counts_words_and_a_prompt_once():
    [row] = ScriptedLLM({"": "one two three"}).generate(ask("four words are here"), Sampling(n=2))
    assert sum((completion.usage for completion in row), Usage()) == Usage(
        calls=1, prompt_tokens=6, completion_tokens=6
    )


def test_a_completion_in_the_script_is_given_as_it_is():
    failure = Completion("", failure="the server is down")
    assert ScriptedLLM({"": failure}).generate(ask("a"), Sampling())[0][0] is failure


@pytest.mark.parametrize("script", ["just a text", 3, None])
def test_what_is_no_script_is_refused(script):
    with pytest.raises(LLMError, match="A script is a function, a mapping or a list"):
        ScriptedLLM(script)


def write(path, *lines):
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines),
        encoding="utf-8",
    )
    return llm.make(f"scripted:{path}")


def test_a_json_file_holds_a_list_or_an_object(tmp_path):
    assert said(write(tmp_path / "a.json", ["1", "2"]), "a", "b") == [["1"], ["2"]]
    assert said(write(tmp_path / "b.json", {"a": "1", "b": ["2", "3"]}), "a b", "b", n=2) == [
        ["1", "1"],
        ["2", "3"],
    ]


def test_a_jsonl_file_holds_replies_in_order_or_rules(tmp_path):
    assert said(write(tmp_path / "a.jsonl", '"one\u2028line"', "", '"two"'), "a", "b") == [
        ["one\u2028line"],
        ["two"],
    ]
    rules = [{"contains": "a.c", "reply": "text"}, {"pattern": "a.c", "reply": ["x", "y"]}]
    assert said(write(tmp_path / "b.jsonl", *rules), "abc", "a.c", n=2) == [["x", "y"], ["text", "text"]]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.json", ["{"], "not JSON"),
        ("a.json", ["3"], "a list or an object, got 3"),
        ("a.json", [["x", 3]], "in order, a text; got 3"),
        ("a.json", [{"k": []}], "'k': a reply is a text or a list of texts"),
        ("a.jsonl", [], "is empty"),
        ("a.jsonl", ['"fine"', "{"], "line 2: not JSON"),
        ("a.jsonl", ['"fine"', {"contains": "x", "reply": "y"}], "line 2: wanted a reply to use in order"),
        ("a.jsonl", [{"contains": "x", "reply": "y"}, '"z"'], "line 2: wanted an object"),
        ("a.jsonl", [{"contain": "x", "reply": "y"}], "line 1: wanted an object with `contains` or `pattern`"),
        ("a.jsonl", [{"contains": "x", "reply": 3}], "line 1: a reply is a text"),
        ("a.jsonl", [{"pattern": 3, "reply": "y"}], "line 1: wanted a text to look for, got 3"),
        ("a.jsonl", [{"pattern": "(", "reply": "y"}], "line 1: '\\(' is no regular expression"),
        ("a.jsonl", ["[" * 100_000], "line 1: not JSON"),
    ],
)
def test_a_file_that_is_no_script_is_refused_with_the_place(tmp_path, name, lines, message):
    with pytest.raises(LLMError, match=message):
        write(tmp_path / name, *lines)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LLMError, match=r"nothing\.json cannot be read"):
        llm.make(f"scripted:{tmp_path / 'nothing.json'}")
