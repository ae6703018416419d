import asyncio
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from fake_server import FakeServer, cut, drip, hang, question, raw, replies, says, status, when
from raggym_env import llm
from raggym_env.core import Usage
from raggym_env.errors import LLMError, OptionError
from raggym_env.llm import LLM, Sampling

KEY = "sk-very-secret-0123456789"
WARM = {"temperature": 1.0, "seed": 7}


def ask(*texts):
    return [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}] for text in texts]


@pytest.fixture
def connect(monkeypatch):
    """`connect(server, **options)`: a model there, with a key, that loses no time between retries."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    models = []

    def connect(server, **options):
        url = server if isinstance(server, str) else server.url
        model = llm.make(f"openai:some/model@{url}", **{"backoff": 0.001, "timeout": 5, "retries": 2, **options})
        models.append(model)
        return model

    yield connect
    for model in models:
        model.close()


def texts(completions):
    return [[completion.text for completion in row] for row in completions]


def test_prompts_are_answered_in_order_and_the_request_has_their_fields(connect):
    with FakeServer() as server:
        model = connect(server)
        rows = model.generate(ask("a", "b", "c"), Sampling(max_tokens=9, top_p=0.5, stop=("\n",), **WARM))
    assert isinstance(model, LLM)
    assert texts(rows) == [["a/7/0"], ["b/7/0"], ["c/7/0"]]
    body = next(body for body in server.bodies if question(body) == "a")
    assert body == {
        "model": "some/model",
        "messages": ask("a")[0],
        "temperature": 1.0,
        "top_p": 0.5,
        "max_tokens": 9,
        "stop": ["\n"],
        "seed": 7,
    }


def test_no_prompts_need_no_server(connect):
    assert connect("http://127.0.0.1:1/v1").generate([], Sampling()) == []


def test_one_request_gives_n_samples_where_the_server_can(connect):
    with FakeServer() as server:
        [row] = connect(server).generate(ask("a"), Sampling(n=3, **WARM))
    assert [completion.text for completion in row] == ["a/7/0", "a/7/1", "a/7/2"]
    assert [body["n"] for body in server.bodies] == [3]


def test_usage_adds_up_to_what_the_prompt_cost(connect):
    with FakeServer() as server:
        [row] = connect(server).generate(ask("a"), Sampling(n=3, **WARM))
    total = sum((completion.usage for completion in row), Usage())
    assert (total.calls, total.prompt_tokens, total.cached_tokens, total.completion_tokens) == (1, 10, 4, 6)
    assert 0 < total.seconds < 5


def test_a_server_that_ignores_n_gets_requests_for_the_rest_and_is_remembered(connect):
    with FakeServer(after=replies(most=1)) as server:
        model = connect(server)
        params = Sampling(n=3, **WARM)
        first = model.generate(ask("a"), params)
        second = model.generate(ask("a"), params)
    assert texts(first) == texts(second) == [["a/7/0", "a/8/0", "a/9/0"]]
    assert [body.get("n", 1) for body in server.bodies] == [3, 1, 1, 1, 1, 1]


def test_a_server_that_refuses_n_gets_one_request_per_sample_and_is_remembered(connect):
    with FakeServer(after=when(lambda body: "n" in body, status(400, "n must be 1"))) as server:
        model = connect(server)
        first = model.generate(ask("a"), Sampling(n=2, **WARM))
        second = model.generate(ask("b"), Sampling(n=2, **WARM))
    assert texts(first + second) == [["a/7/0", "a/8/0"], ["b/7/0", "b/8/0"]]
    assert len(server.bodies) == 5
    assert sum(completion.usage.calls for row in first + second for completion in row) == 5


def test_n_requests_are_sent_at_once_to_a_server_that_does_not_support_n(connect):
    with FakeServer() as server:
        rows = connect(server, n_supported=False).generate(ask("a"), Sampling(n=2, **WARM))
    assert texts(rows) == [["a/7/0", "a/8/0"]]
    assert not any("n" in body for body in server.bodies)


def test_greedy_samples_take_one_request(connect):
    with FakeServer() as server:
        [row] = connect(server).generate(ask("a"), Sampling(n=4))
    assert len(row) == 4
    assert len({completion.text for completion in row}) == 1
    assert len(server.bodies) == 1
    assert "seed" not in server.bodies[0]
    assert sum((completion.usage for completion in row), Usage()).prompt_tokens == 10


@pytest.mark.parametrize(
    "fault",
    [
        status(429, "slow down"),
        status(500, "oops"),
        status(503, "loading"),
        cut,
        raw(b'{"choices": [{"mes'),
        raw(b"<html>a proxy's page</html>"),
        raw(b"[" * 100_000),
        raw(b'{"choices": []}'),
        raw(b'{"choices": null}'),
        raw(b"null"),
    ],
)
def test_a_passing_fault_is_retried_and_counted(connect, fault):
    with FakeServer(fault, fault) as server:
        [[completion]] = connect(server).generate(ask("a"), Sampling())
    assert (completion.text, completion.failure) == ("a/None/0", None)
    assert completion.usage.calls == 3


@pytest.mark.parametrize("fault", [status(429, "slow down"), status(500, "oops"), cut, raw(b"{"), hang, drip])
def test_a_lasting_fault_fails_its_prompt_only_and_the_same_model_works_afterwards(connect, fault):
    with FakeServer(after=when(lambda body: question(body) == "bad", fault)) as server:
        model = connect(server, timeout=1.0 if fault in (hang, drip) else 20, retries=1)
        good, bad, last = model.generate(ask("good", "bad", "last"), Sampling(n=2, **WARM))
        server.after = replies()
        [again] = model.generate(ask("bad"), Sampling(n=2, **WARM))
    assert [c.failure for c in good + last + again] == [None] * 6
    assert len(bad) == 2
    assert all(c.failure and "after 2 tries" in c.failure and c.text == "" for c in bad)
    assert sum(c.usage.calls for c in bad) == 2


@pytest.mark.parametrize("fault", [hang, drip])
def test_a_try_takes_no_longer_than_the_timeout(connect, fault):
    with FakeServer(after=fault) as server:
        started = time.monotonic()
        [[completion]] = connect(server, timeout=0.2, retries=0).generate(ask("a"), Sampling())
        assert time.monotonic() - started < 10  # the server hangs for 20 s
    assert "no reply within 0.2 s" in completion.failure


@pytest.mark.parametrize("header", ["0.4", "date", "ms"])
def test_retry_after_is_honoured(connect, header):
    def busy(handler, body):
        soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # cut to whole seconds
        headers = {"0.4": {"Retry-After": "0.4"}, "date": {"Retry-After": soon}, "ms": {"retry-after-ms": "400"}}
        status(429, headers=headers[header])(handler, body)

    with FakeServer(busy) as server:
        [[completion]] = connect(server).generate(ask("a"), Sampling())
    assert completion.failure is None
    assert server.times[1] - server.times[0] >= 0.4


def test_a_very_long_retry_after_is_not_waited_for(connect):
    with FakeServer(status(429, "tomorrow", {"Retry-After": "86400"})) as server:
        [[completion]] = connect(server).generate(ask("a"), Sampling())
    assert "tomorrow" in completion.failure
    assert len(server.bodies) == 1


def test_pauses_grow_with_each_retry(connect):
    with FakeServer(*[status(500)] * 3) as server:
        connect(server, retries=3, backoff=0.1).generate(ask("a"), Sampling())
    waits = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert [wait >= least for wait, least in zip(waits, (0.05, 0.1, 0.2), strict=True)] == [True] * 3


@pytest.mark.slow
def test_a_server_that_does_not_keep_up_gets_fewer_requests_at_a_time_until_it_does(connect):
    one_by_one, slow = threading.Lock(), iter([0.6] * 4)

    def in_turn(handler, body):
        with one_by_one:  # and to the end, whether or not the client still waits
            time.sleep(next(slow, 0.05))
        replies()(handler, body)

    prompts = ask(*map(str, range(16)))
    with FakeServer(after=in_turn) as server:
        model = connect(server, concurrency=16, timeout=0.5, retries=5)
        rows = model.generate(prompts, Sampling())
        assert [row[0].failure for row in rows] == [None] * 16
        tries = len(server.bodies)
        assert tries > 16
        model.generate(prompts, Sampling())
        assert len(server.bodies) < tries + 20


def test_after_a_time_out_fast_replies_bring_the_concurrency_back(connect):
    four = threading.Barrier(4)

    def together(handler, body):
        four.wait(20)  # breaks unless three others are under way
        replies()(handler, body)

    with FakeServer(replies(seconds=1.8), *[replies()] * 8, after=together) as server:
        model = connect(server, concurrency=4, timeout=1.6, retries=0)
        model.generate(ask("a"), Sampling())
        rows = model.generate(ask(*"bcdefghijklm"), Sampling())
    assert [row[0].failure for row in rows] == [None] * 12


def test_the_concurrency_limit_is_reached_and_holds_across_threads(connect):
    three = threading.Barrier(3)

    def together(handler, body):
        three.wait(20)  # breaks unless two others are under way
        replies()(handler, body)

    with FakeServer(after=together) as server:
        model = connect(server, concurrency=3, timeout=60)
        threads = [threading.Thread(target=model.generate, args=(ask(*"abcdef"), Sampling(**WARM))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.bodies) == 12
    assert server.most_at_once == 3


def test_a_prompt_that_waits_for_its_retry_takes_no_slot(connect):
    fault = when(lambda body: question(body) == "bad", status(429, headers={"Retry-After": "0.5"}))
    with FakeServer(after=fault) as server:
        connect(server, concurrency=1, retries=1).generate(ask("bad", "a", "b"), Sampling())
    assert [question(body) for body in server.bodies] == ["bad", "a", "b", "bad"]


def test_it_can_be_called_inside_a_running_event_loop(connect):
    async def notebook(model):
        return model.generate(ask("a"), Sampling())

    with FakeServer() as server:
        assert texts(asyncio.run(notebook(connect(server)))) == [["a/None/0"]]


def test_a_context_that_is_too_long_fails_its_prompt_at_once(connect):
    too_long = status(400, "maximum context length is 8192 tokens")
    with FakeServer(after=when(lambda body: question(body) == "long", too_long)) as server:
        model = connect(server)
        model.generate(ask("short"), Sampling())  # until the server has answered once, a refusal is probed
        long, short = model.generate(ask("long", "short"), Sampling(n=2, **WARM))
    assert [c.failure for c in short] == [None, None]
    assert all("maximum context length" in c.failure for c in long)
    sent = [(question(body), body.get("n", 1)) for body in server.bodies[1:]]
    assert sorted(sent) == [("long", 1), ("long", 2), ("short", 2)]  # tried once more with n=1, and no more


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (says(None), "no text"),
        (says(None, refusal="I would rather not."), "rather not"),
        (says("half an ans", "content_filter"), "content filter"),
        (says(None, "length"), "'length'"),
        (says("", refusal="I would rather not."), "rather not"),
        (says([{"type": "refusal", "refusal": "I would rather not."}]), "rather not"),
        (says([{"type": "image_url", "image_url": {}}]), "no text"),
        (says(None, "tool_calls", tool_calls=[{"function": {"name": "weather", "arguments": "{}"}}]), "tool call"),
    ],
)
def test_a_reply_without_text_is_a_failure_and_not_an_empty_answer(connect, reply, reason):
    with FakeServer(after=reply) as server:
        [[completion]] = connect(server).generate(ask("a"), Sampling())
    assert reason in completion.failure
    assert completion.text == ""
    assert len(server.bodies) == 1


def test_one_filtered_sample_leaves_the_others(connect):
    good, bad = ({"message": {"content": "x"}, "finish_reason": reason} for reason in ("stop", "content_filter"))
    with FakeServer(replies(choices=[good, bad, good])) as server:
        [row] = connect(server).generate(ask("a"), Sampling(n=3, **WARM))
    assert [completion.failure is None for completion in row] == [True, False, True]


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        *((name, "stop") for name in ("stop", "eos", None, "", "STOP", "end_turn", "eos_token", "tool_calls")),
        *((name, "length") for name in ("length", "MAX_TOKENS", "max_tokens", "model_length", "FinishReason.LENGTH")),
        ({"type": "stop", "matched": 7}, "stop"),
    ],
)
def test_finish_reasons_are_stop_or_length(connect, finish, expected):
    with FakeServer(after=says("text", finish)) as server:
        [[completion]] = connect(server).generate(ask("a"), Sampling())
    assert (completion.text, completion.finish) == ("text", expected)


def test_text_from_a_stop_on_is_cut_where_the_server_leaves_it_in(connect):
    with FakeServer(after=says("one</s>two", "length")) as server:
        [[completion]] = connect(server).generate(ask("a"), Sampling(stop=("two", "</s>")))
    assert (completion.text, completion.finish) == ("one", "stop")


def test_lone_surrogates_go_neither_out_nor_in(connect):
    with FakeServer(says("caf\ud800")) as server:
        [[completion]] = connect(server).generate(ask("x\udfff"), Sampling())
    assert completion.text == "caf\ufffd"  # as the one reader of JSON mends it
    assert question(server.bodies[0]) == "x?"


def test_missing_usage_is_warned_about_once(connect):
    with FakeServer(after=replies(usage=None)) as server:
        model = connect(server)
        with pytest.warns(UserWarning, match="no token usage"):
            [[completion]] = model.generate(ask("a"), Sampling())
        model.generate(ask("a"), Sampling())
    assert completion.usage.prompt_tokens == 0
    assert completion.usage.calls == 1


@pytest.mark.parametrize("code", [401, 403])
def test_a_wrong_key_is_one_error_at_once_that_does_not_repeat_it(connect, code):
    refuse = status(code, f"Incorrect API key provided: {KEY}.")
    message = r"refuses the key in \$OPENAI_API_KEY"
    with FakeServer(after=refuse) as server, pytest.raises(LLMError, match=message) as caught:
        connect(server, concurrency=1).generate(ask(*"abcdef"), Sampling(n=2, **WARM))
    assert len(server.bodies) <= 2  # one may have been on its way
    assert "[key]" in str(caught.value)


def test_the_error_says_that_the_key_is_missing(connect, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with FakeServer(after=status(401, "no key")) as server, pytest.raises(LLMError, match="KEY is not set"):
        connect(server).generate(ask("a"), Sampling())


def test_a_prompt_that_a_gateway_forbids_fails_alone_once_the_server_has_answered(connect):
    with FakeServer(replies(), status(403, "flagged")) as server:
        model = connect(server)
        model.generate(ask("a"), Sampling())
        [[completion]] = model.generate(ask("b"), Sampling())
    assert "flagged" in completion.failure


def test_an_unknown_model_is_one_error_that_lists_the_servers_models(connect):
    with (
        FakeServer(after=status(404, "gone")) as server,
        pytest.raises(LLMError, match=r"no model 'some/model'.*served-model"),
    ):
        connect(server).generate(ask("a", "b"), Sampling())


@pytest.mark.parametrize("fault", [status(402, "pay"), status(429, "pay", code="insufficient_quota")])
def test_used_up_credit_ends_the_run_at_once(connect, fault):
    with FakeServer(after=fault) as server:
        with pytest.raises(LLMError, match="no credit"):
            connect(server).generate(ask("a"), Sampling())
        assert len(server.bodies) == 1


def test_a_server_that_never_answered_is_an_error_that_says_what_was_tried(connect):
    with FakeServer() as server:
        url = server.url
    with pytest.raises(LLMError, match=rf"Nothing answers at {url}.*after 3 tries"):
        connect(url).generate(ask("a", "b"), Sampling())


def test_a_server_that_dies_fails_the_prompts_and_works_again_when_it_is_back(connect):
    with FakeServer() as server:
        model = connect(server)
        model.generate(ask("a"), Sampling())
        port = server._http.server_address[1]
    dead = model.generate(ask("a", "b"), Sampling(n=2, **WARM))
    assert all("connection failed" in completion.failure for row in dead for completion in row)
    with FakeServer(port=port):
        assert texts(model.generate(ask("a"), Sampling())) == [["a/None/0"]]


def test_the_key_is_sent_and_never_shown(connect):
    with FakeServer(replies(), status(400, f"bad {KEY}")) as server:
        model = connect(server)
        model.generate(ask("a"), Sampling())
        [[completion]] = model.generate(ask("b"), Sampling())
    assert server.keys == [f"Bearer {KEY}"] * 2
    assert "bad [key]" in completion.failure
    assert KEY not in repr(model) + repr(vars(model)) + repr(model.server)
    assert KEY.encode() not in pickle.dumps(model)


def test_a_key_that_a_server_echoes_is_removed_from_the_message(connect):
    with FakeServer(after=raw(b"x" * 1990 + KEY.encode())) as server:
        [[completion]] = connect(server, retries=0).generate(ask("a"), Sampling())
    assert "not a chat completion" in completion.failure
    assert KEY[:9] not in completion.failure


def test_a_stand_in_for_a_key_is_not_removed_from_words(connect, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a")
    with FakeServer(replies(), status(400, "a bad idea")) as server:
        model = connect(server)
        model.generate(ask("a"), Sampling())
        [[completion]] = model.generate(ask("a"), Sampling())
    assert "a bad idea" in completion.failure


def test_errors_carry_no_exception_of_the_client(connect):
    with FakeServer(after=status(401, "wrong")) as server, pytest.raises(LLMError) as caught:
        connect(server).generate(ask("a"), Sampling())
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_another_variable_or_no_key_at_all_can_be_chosen(connect, monkeypatch):
    names = ("RAGGYM_OTHER", "GROQ_API_KEY", "MY_OWN")
    for name in names:
        monkeypatch.setenv(name, name.lower())
    monkeypatch.setenv("RAGGYM_KEY_ENVS", "X, MY_OWN")
    with FakeServer() as server:
        for name in (*names, None, ""):
            connect(server, key_env=name).generate(ask("a"), Sampling())
    assert server.keys == ["Bearer raggym_other", "Bearer groq_api_key", "Bearer my_own", "", ""]


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PATH", "openai_api_key", "X_API_KEY"])
def test_a_variable_that_is_not_known_to_hold_a_key_is_never_sent(connect, monkeypatch, name):
    monkeypatch.setenv(str(name), "wJalrXUtnFEMI")
    with FakeServer() as server, pytest.raises(OptionError, match="RAGGYM_KEY_ENVS=NAME") as caught:
        connect(server, key_env=name)
    assert "wJalrXUtnFEMI" not in str(caught.value)
    assert server.bodies == []


def test_a_redirect_is_not_followed_so_the_key_reaches_no_other_server(connect):
    with FakeServer() as other:
        elsewhere = status(307, headers={"Location": f"{other.url}/chat/completions"})
        with FakeServer(after=elsewhere) as server, pytest.raises(LLMError, match=rf"redirects .*{other.url}"):
            connect(server).generate(ask("a"), Sampling())
    assert other.bodies == []


def test_a_key_that_no_header_can_have_is_refused_without_repeating_it(connect, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    with FakeServer() as server, pytest.raises(LLMError, match="line break") as caught:
        connect(server).generate(ask("a"), Sampling())
    assert KEY not in str(caught.value)
    assert server.bodies == []


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with FakeServer() as server:
        assert texts(connect(server).generate(ask("a"), Sampling())) == [["a/None/0"]]


def test_a_pickled_copy_works(connect):
    with FakeServer() as server:
        copy = pickle.loads(pickle.dumps(connect(server)))  # noqa: S301
        assert texts(copy.generate(ask("a"), Sampling())) == [["a/None/0"]]
        copy.close()


def test_a_closed_model_opens_again(connect):
    with FakeServer() as server:
        model = connect(server)
        model.generate(ask("a"), Sampling())
        model.close()
        assert texts(model.generate(ask("a"), Sampling())) == [["a/None/0"]]


def test_closing_a_model_during_a_request_is_an_error_that_says_so(connect):
    arrived = threading.Event()

    def arrives(handler, body):
        arrived.set()
        hang(handler, body)

    with FakeServer(after=arrives) as server, ThreadPoolExecutor(1) as pool:
        model = connect(server, timeout=60)
        reply = pool.submit(model.generate, ask("a"), Sampling())
        assert arrived.wait(60)
        model.close()
        with pytest.raises(LLMError, match="was closed while a request was under way"):
            reply.result()


def test_a_garbage_collected_model_leaves_no_thread(connect, monkeypatch):
    with FakeServer() as server:
        model = llm.make(f"openai:m@{server.url}")
        model.generate(ask("a"), Sampling())
        thread = model._session.thread
        del model
        thread.join(60)
    assert not thread.is_alive()


def test_fields_can_be_added_overridden_and_omitted(connect):
    with FakeServer() as server:
        options = {"extra_body": {"min_p": 0.1, "max_tokens": 3}, "omit": ["temperature"]}
        connect(server, **options).generate(ask("a"), Sampling())
    [body] = server.bodies
    assert (body["min_p"], body["max_tokens"], "temperature" in body) == (0.1, 3, False)


def test_a_model_name_may_have_an_at_sign_and_a_url_a_slash_at_its_end():
    server = llm.make("openai:@cf/meta/llama@https://host:1/v1/").server
    assert (server.model, server.url) == ("@cf/meta/llama", "https://host:1/v1")


def test_without_a_url_the_environment_says_where_the_server_is(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here:1/v1/")
    assert llm.make("openai:m").server.url == "http://here:1/v1"


def test_openai_itself_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(LLMError, match="set OPENAI_API_KEY"):
        llm.make("openai:gpt")


@pytest.mark.parametrize(
    "name", ["m@http://user:hunter2@host/v1", "m@http://host/v1?key=hunter2", "m@http://host:hunter2/v1", "http://h/v1"]
)
def test_a_url_that_is_wrong_or_holds_a_secret_is_refused_without_repeating_it(name):
    with pytest.raises(OptionError) as caught:
        llm.make(f"openai:{name}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"concurrency": 0},
        {"concurrency": "many"},
        {"timeout": 0},
        {"retries": -1},
        {"backoff": -1},
        {"n_supported": "maybe"},
        {"extra_body": {"x": {1}}},
        {"extra_body": {"x": float("nan")}},
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option):
    with pytest.raises(OptionError, match=next(iter(option))):
        llm.make("openai:m@http://host/v1", **option)
