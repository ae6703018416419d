"""Servers that refuse what is sent: a configuration error ends the run, a single bad prompt does not."""

import itertools
import json
import re
import threading
import time

import pytest

from fake_server import FakeServer, hang, question, replies, status, when
from raggym_env import llm
from raggym_env.cards import override, policy_card
from raggym_env.cli._options import parse_settings
from raggym_env.errors import LLMError
from raggym_env.llm import Sampling

WARM = {"temperature": 1.0, "seed": 7}
REFUSALS = [400, 405, 410, 413, 415, 418, 422, 431, 451]


def ask(*texts):
    return [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}] for text in texts]


@pytest.fixture
def connect(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-0123456789")
    models = []

    def connect(server, **options):
        options = {"backoff": 0.001, "timeout": 5, "retries": 2, **options}
        models.append(llm.make(f"openai:some/model@{server.url}", **options))
        return models[-1]

    yield connect
    for model in models:
        model.close()


def is_long(body):
    return question(body) == "long"


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize("params", [Sampling(), Sampling(n=3, **WARM)], ids=["greedy", "three samples"])
def test_a_server_that_refuses_every_request_ends_the_run_with_its_words(connect, number, params):
    words = rf"refuses every request \({number}: We have no such thing\.\)"
    with FakeServer(after=status(number, "We have no such thing.")) as server, pytest.raises(LLMError, match=words):
        connect(server, concurrency=4).generate(ask(*"abcdefgh"), params)
    assert len(server.bodies) <= 17  # each prompt with `n` and without, and one probe


@pytest.mark.parametrize("number", REFUSALS)
def test_once_the_server_has_answered_a_refused_prompt_fails_alone(connect, number):
    with FakeServer(replies(), after=status(number, "too long")) as server:
        model = connect(server)
        model.generate(ask("a"), Sampling())
        [[completion]] = model.generate(ask("b"), Sampling())
    assert "too long" in completion.failure
    assert not completion.outage
    assert len(server.bodies) == 2


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("first", ["long", "short"])
def test_a_prompt_that_is_too_long_fails_alone_wherever_it_stands(connect, concurrency, first):
    prompts = ask("long", "b", "c") if first == "long" else ask("b", "c", "long")
    with FakeServer(after=when(is_long, status(400, "maximum context length is 8192 tokens"))) as server:
        rows = connect(server, concurrency=concurrency).generate(prompts, Sampling())
    failures = [row[0].failure for row in rows]
    assert [failure is not None for failure in failures] == [prompt == ask("long")[0] for prompt in prompts]
    assert len(server.bodies) <= 4


def test_many_long_prompts_before_the_first_answer_take_one_probe(connect):
    with FakeServer(after=when(is_long, status(400, "too long"))) as server:
        rows = connect(server, concurrency=8).generate(ask(*["long"] * 8), Sampling())
    assert all("too long" in row[0].failure and not row[0].outage for row in rows)
    assert len(server.bodies) == 9


def test_a_probe_has_the_fields_and_roles_of_the_refused_request_and_no_text_of_it(connect):
    with FakeServer(after=when(is_long, status(400, "too long"))) as server:
        model = connect(server, extra_body={"min_p": 0.5}, omit=["top_p"])
        model.generate(ask("long"), Sampling(max_tokens=77, stop=("x",)))
    refused, probe = server.bodies
    assert refused.keys() == probe.keys()
    assert {**refused, "messages": 0} == {**probe, "messages": 0}
    assert [turn["role"] for turn in refused["messages"]] == [turn["role"] for turn in probe["messages"]]
    assert len(json.dumps(probe["messages"])) < 200
    assert "long" not in json.dumps(probe["messages"])


def test_what_the_probe_costs_is_counted(connect):
    with FakeServer(after=when(is_long, status(400, "too long"))) as server:
        [[completion]] = connect(server).generate(ask("long"), Sampling())
    assert completion.usage.calls == len(server.bodies) == 2
    assert completion.usage.prompt_tokens == 10


@pytest.mark.parametrize("trouble", [status(503, "gone"), status(429, "busy"), hang])
def test_where_the_probe_tells_nothing_the_prompt_may_be_tried_again(connect, trouble):
    with FakeServer(status(400, "too long"), after=trouble) as server:
        [[completion]] = connect(server, retries=1, timeout=1.0).generate(ask("a"), Sampling())
    assert "too long" in completion.failure
    assert completion.outage


def test_an_answer_that_came_meanwhile_needs_no_probe(connect):
    answered = threading.Event()

    def late(handler, body):
        answered.wait(60)
        time.sleep(0.5)  # until the client has read that answer
        status(400, "too long")(handler, body)

    def soon(handler, body):
        replies()(handler, body)
        answered.set()

    with FakeServer(after=when(is_long, late, soon)) as server:
        rows = connect(server, timeout=60).generate(ask("long", "b"), Sampling())
    assert [row[0].failure is None for row in rows] == [False, True]
    assert len(server.bodies) == 2


@pytest.mark.parametrize("number", [301, 302, 307, 500, 501, 505, 599])
def test_what_is_not_the_prompts_fault_is_an_outage(connect, number):
    answer = status(number, "not now", {"x-should-retry": "false", "Location": "https://login.invalid/"})
    with FakeServer(replies(), answer) as server:
        model = connect(server, retries=0)
        model.generate(ask("a"), Sampling())
        [[completion]] = model.generate(ask("b"), Sampling())
    assert completion.failure
    assert completion.outage


WORDS = {
    "temperature": {
        "error": {
            "message": "Unsupported value: 'temperature' does not support 0 with this model.",
            "param": "temperature",
        }
    },
    "max_tokens": {
        "error": {
            "code": 400,
            "message": 'Invalid JSON payload received. Unknown name "max_tokens": Cannot find field.',
        }
    },
    "seed": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
    "top_p": {"object": "error", "message": "`top_p` is not supported by some/model", "type": "BadRequestError"},
    "stop": {"error": "unknown parameter: stop"},
    "frequency_penalty": {"error": {"message": "frequency_penalty is not allowed"}},
}


@pytest.mark.parametrize("field", WORDS)
def test_a_refused_field_is_named_with_the_option_that_leaves_it_out(connect, field):
    """The option is applied as the message gives it, by the command line's own parser, and the server then answers."""
    reply = json.dumps(WORDS[field]).encode()
    refuse = when(lambda body: field in body, lambda handler, _: handler.send(400, reply))
    params = Sampling(temperature=0.5, top_p=0.5, seed=1, stop=("x",))
    extra = {"extra_body": {"frequency_penalty": 1}} if field == "frequency_penalty" else {}
    with FakeServer(after=refuse) as server:
        with pytest.raises(LLMError, match=rf"If the model takes no {field}: --set '.*'") as caught:
            connect(server, **extra).generate(ask("a"), params)
        options = options_of(str(caught.value))
        assert options == {"omit": [field]}
        [[completion]] = connect(server, **extra, **options).generate(ask("a"), params)
    assert completion.failure is None


def options_of(message):
    """The options that a message recommends, as a policy card has them after `--set`."""
    settings = parse_settings(re.findall(r"--set '(.*?)'(?=[. ]|$)", message))
    changes = {key.removeprefix("policy."): value for key, value in settings.items()}
    return override(policy_card("react"), changes).options["llm_options"]


def test_the_newer_name_of_max_tokens_is_recommended_with_its_value(connect):
    words = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    with FakeServer(after=when(lambda body: "max_tokens" in body, status(400, words))) as server:
        with pytest.raises(LLMError) as caught:
            connect(server, omit=["seed"], extra_body={"min_p": 0.5}).generate(ask("a"), Sampling(max_tokens=99))
        options = options_of(str(caught.value))
        assert options == {"omit": ["seed", "max_tokens"], "extra_body": {"max_completion_tokens": 99}}
        [[completion]] = connect(server, **options).generate(ask("a"), Sampling(max_tokens=99))
    assert completion.failure is None
    assert server.bodies[-1]["max_completion_tokens"] == 99


ROLES = [
    "System role not supported",
    "Only user and assistant roles are supported!",
    "Conversation roles must alternate user/assistant/user/assistant/...",
    "Developer instruction is not enabled for models/gemma-3",
    "This model does not accept a system prompt",
    "messages[0].role: unsupported value 'system' (system message)",
]


@pytest.mark.parametrize("words", ROLES)
def test_a_refused_system_role_is_named_with_the_option_that_avoids_it(connect, words):
    refuse = when(lambda body: body["messages"][0]["role"] == "system", status(400, words))
    with FakeServer(after=refuse) as server:
        with pytest.raises(LLMError, match="takes no system message") as caught:
            connect(server).generate(ask("a"), Sampling())
        options = options_of(str(caught.value))
        assert options == {"system_role": False}
        [[completion]] = connect(server, **options).generate(ask("a"), Sampling())
    assert completion.failure is None
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "Be brief.\n\na"}]


def test_a_refused_n_is_named_where_the_user_said_that_it_is_supported(connect):
    with FakeServer(after=when(lambda body: "n" in body, status(422, "n must be 1"))) as server:
        with pytest.raises(LLMError) as caught:
            connect(server, n_supported=True).generate(ask("a"), Sampling(n=2, **WARM))
        assert options_of(str(caught.value)) == {"n_supported": False}


def test_without_a_system_role_its_text_goes_to_the_users_next_message(connect):
    turns = [("system", "A"), ("system", "B"), ("user", "c"), ("assistant", "d"), ("system", "E"), ("user", "f")]
    prompt = [{"role": role, "content": text} for role, text in turns]
    alone = [{"role": "system", "content": "A"}]
    before_assistant = [{"role": "system", "content": "A"}, {"role": "assistant", "content": "b"}]
    with FakeServer() as server:
        model = connect(server, system_role=False, concurrency=1)
        model.generate([prompt, alone, before_assistant, ask("x")[0][1:]], Sampling())
    sent = [[(turn["role"], turn["content"]) for turn in body["messages"]] for body in server.bodies]
    assert sent == [
        [("user", "A\n\nB\n\nc"), ("assistant", "d"), ("user", "E\n\nf")],
        [("user", "A")],
        [("user", "A"), ("assistant", "b")],
        [("user", "x")],
    ]


def test_prompts_from_several_threads_agree_that_the_server_refuses_all(connect):
    errors = []

    def work(model, text):
        try:
            model.generate(ask(text), Sampling())
        except LLMError as error:
            errors.append(str(error))

    with FakeServer(after=status(400, "no")) as server:
        model = connect(server)
        threads = [threading.Thread(target=work, args=(model, str(i))) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(errors) == 4
    assert all("refuses every request" in error for error in errors)


def test_a_model_that_flips_between_accepting_and_refusing_keeps_what_it_answered(connect):
    flips = itertools.cycle([replies(), status(400, "moderation")])
    with FakeServer(after=lambda handler, body: next(flips)(handler, body)) as server:
        rows = connect(server, concurrency=1).generate(ask(*"abcd"), Sampling())
    assert [row[0].failure is None for row in rows] == [True, False, True, False]
