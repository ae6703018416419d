"""What a server does with a key that it was sent reaches no message, and a key reaches no server it is not for."""

import base64
import gzip
import html
import json
import pickle
import time
import traceback
from urllib.parse import quote

import pytest

from fake_server import FakeServer, raw, replies, says, status
from raggym_env import llm
from raggym_env.errors import LLMError, OptionError
from raggym_env.llm import Sampling
from raw_server import head, raw_server

KEY = "sk-very/secret+0123456789&'x"
PROMPT = [[{"role": "user", "content": "a"}]]

ECHOES = {
    "as it is": KEY,
    "in quotes": repr(KEY),
    "JSON in JSON": json.dumps(json.dumps(KEY)),
    "URL": quote(KEY, safe=""),
    "HTML": html.escape(KEY),
    "base64 of a header": base64.b64encode(f"Authorization: Bearer {KEY}\r\n".encode()).decode(),
    "hexadecimal": KEY.encode().hex(),
    "at the cut of the message": "x" * 480 + KEY,
    "at the cut of a body": "x" * 1985 + KEY,
}


@pytest.fixture
def connect(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    models = []

    def connect(url, **options):
        models.append(llm.make(f"openai:m@{url}", **{"backoff": 0.001, "timeout": 5, "retries": 0, **options}))
        return models[-1]

    yield connect
    for model in models:
        model.close()


def shows_the_key(text):
    pieces = [
        KEY[:9],
        KEY[-9:],
        quote(KEY, safe="")[:14],
        KEY.encode().hex()[:16],
        base64.b64encode(KEY.encode()).decode()[4:16],
    ]
    return [piece for piece in pieces if piece in text]


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("number", [400, 401, 402, 403, 404, 422, 429, 500])
def test_an_error_that_echoes_the_key_is_masked(connect, echo, number):
    with FakeServer(after=status(number, f"bad {ECHOES[echo]} sent")) as server:
        try:
            [[completion]] = connect(server.url).generate(PROMPT, Sampling())
            text = completion.failure
        except LLMError as error:
            text = "".join(traceback.format_exception(error)) + repr(error.__context__)
    assert shows_the_key(text) == []


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize(
    "form",
    [
        lambda echo: raw(echo.encode()),
        lambda echo: raw(json.dumps({"choices": echo}).encode()),
        lambda echo: raw(f"<html>{echo}</html>".encode()),
        lambda echo: status(307, "moved", {"Location": f"http://elsewhere/?key={echo}".replace("\n", "")}),
        lambda echo: says(None, finish="stop", refusal=echo),
    ],
    ids=["text", "JSON", "page", "redirect", "refusal"],
)
def test_a_reply_that_echoes_the_key_is_masked(connect, echo, form):
    with FakeServer(replies(), form(ECHOES[echo])) as server:
        model = connect(server.url)
        model.generate(PROMPT, Sampling())
        [[completion]] = model.generate(PROMPT, Sampling())
    assert completion.failure
    assert shows_the_key(completion.failure) == []


def test_a_model_that_repeats_the_key_does_not_bring_it_into_the_record(connect):
    with FakeServer(after=says(f'{{"answer": "{KEY}"}}')) as server:
        [[completion]] = connect(server.url).generate(PROMPT, Sampling())
    assert completion.text == '{"answer": "[key]"}'


def test_a_key_that_looks_like_a_word_leaves_replies_as_they_are(connect, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not-needed")
    with FakeServer(after=says("Proof is not-needed.")) as server:
        [[completion]] = connect(server.url).generate(PROMPT, Sampling())
    assert completion.text == "Proof is not-needed."


@pytest.mark.parametrize(
    "value", [KEY + "\n", "\n" + KEY, KEY + "\r\n", " " + KEY, KEY + " ", KEY[:9] + "\n" + KEY[9:], KEY + "é"]
)
@pytest.mark.parametrize("name", ["m@http://127.0.0.1:9/v1", "m@https://api.openai.com/v1", "m"])
def test_a_key_that_no_header_can_have_is_refused_before_anything_is_sent(name, value, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", value)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(LLMError, match="line break") as caught:
        llm.make(f"openai:{name}")
    assert shows_the_key("".join(traceback.format_exception(caught.value))) == []


def test_a_key_that_breaks_after_the_model_was_made_is_refused_too(connect, monkeypatch):
    with FakeServer() as server:
        model = connect(server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
        with pytest.raises(LLMError, match="line break") as caught:
            model.generate(PROMPT, Sampling())
    assert shows_the_key("".join(traceback.format_exception(caught.value))) == []
    assert server.bodies == []


def test_a_pickled_model_holds_no_key(connect):
    with FakeServer() as server:
        model = connect(server.url)
        model.generate(PROMPT, Sampling())
        assert shows_the_key(repr(pickle.dumps(model)) + repr(vars(model)) + repr(vars(model._session))) == []


NO_SCHEME = [
    "m@localhost:8000/v1",
    "m@localhost",
    "m@127.0.0.1:8000",
    "m@[::1]:8000/v1",
    "m@gpu-box/v1",
    "m@host.example.org",
    "m@user:hunter2@host/v1",
    "m@//host/v1",
    "m@/v1",
    "m@",
    "m@ http://host/v1",
    "m@http:/host/v1",
    "m@http:host",
    "m@https//host/v1",
    "m@ttp://host/v1",
    "m@ftp://host/v1",
    "m@file:///etc/passwd",
    "m@unix:///var/run/x",
    "org/m@main",
    "@cf/meta/llama",
    "http://host/v1",
    "m http://host/v1",
]


@pytest.mark.parametrize("name", NO_SCHEME)
def test_a_server_that_is_not_given_as_a_url_is_refused_and_never_taken_for_openais(name, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for default in (None, "http://127.0.0.1:9/v1"):
        if default:
            monkeypatch.setenv("OPENAI_BASE_URL", default)
        else:
            monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
        with pytest.raises(OptionError, match=r"is named like openai:[\w/]+@http://\S+") as caught:
            llm.make(f"openai:{name}")
        assert "hunter2" not in str(caught.value)


def test_the_name_that_lacks_a_scheme_is_shown_with_one():
    with pytest.raises(OptionError, match=r"named like openai:org/m:free@http://localhost:8000/v1, with"):
        llm.make("openai:org/m:free@localhost:8000/v1")


@pytest.mark.parametrize(
    "url",
    [
        "http://user@host/v1",
        "http://user:hunter2@host/v1",
        "http://:hunter2@host",
        "http://host/v1?key=hunter2",
        "http://host/#hunter2",
        "http://host\\@evil/v1",
        "http://ho st/v1",
        "http://host:0/v1",
        "http://host:99999/v1",
        "http://",
        "http:///v1",
        "http://[::1/v1",
        "http://a@http://b/v1",
        "http://host/v1\n",
        "http://host/v1?",
        "http://good.org\t.evil.org/v1",
    ],
)
def test_a_url_that_is_unclear_or_holds_a_secret_is_refused_wherever_it_is_given(url, monkeypatch):
    with pytest.raises(OptionError) as caught:
        llm.make(f"openai:m@{url}")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(OptionError, match=r"^\$OPENAI_BASE_URL must be") as caught:
        llm.make("openai:m")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "model", "url"),
    [
        ("m@http://host:1/v1", "m", "http://host:1/v1"),
        ("m@HTTPS://host/v1/", "m", "HTTPS://host/v1"),
        ("@cf/meta/llama@https://host/v1", "@cf/meta/llama", "https://host/v1"),
        ("claude@20240620@https://host/v1", "claude@20240620", "https://host/v1"),
        ("org/m:free@http://[::1]:8/v1", "org/m:free", "http://[::1]:8/v1"),
    ],
)
def test_a_name_has_a_model_and_a_url(name, model, url):
    server = llm.make(f"openai:{name}").server
    assert (server.model, server.url) == (model, url)


# Bodies and time.


def test_a_reply_that_is_too_long_is_not_read_and_is_an_outage(connect):
    sent = 0

    def endless(connection):
        nonlocal sent
        connection.sendall(head("Transfer-Encoding: chunked"))
        while True:
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            sent += 0x10000

    with raw_server(endless) as server:
        [[completion]] = connect(server.url, max_bytes=1 << 20).generate(PROMPT, Sampling())
    assert "longer than 1,048,576 bytes" in completion.failure
    assert completion.outage
    assert sent < 30 << 20


def test_a_reply_of_250_mb_is_refused_by_its_announced_length(connect):
    with raw_server(lambda connection: connection.sendall(head(length=250 << 20))) as server:
        [[completion]] = connect(server.url).generate(PROMPT, Sampling())
    assert "longer than 33,554,432 bytes" in completion.failure
    assert completion.outage


def test_a_compressed_reply_is_read(connect):
    body = json.dumps(
        {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}
    )
    packed = gzip.compress(body.encode())
    answer = head("Content-Encoding: gzip", "Connection: close", length=len(packed)) + packed
    with raw_server(lambda connection: connection.sendall(answer)) as server:
        [[completion]] = connect(server.url).generate(PROMPT, Sampling())
    assert completion.text == "hi"


def test_a_head_that_drips_is_a_time_out(connect):
    def drips(connection):
        while not server.closing.wait(0.05):
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    with raw_server(drips) as server:
        start = time.monotonic()
        [[completion]] = connect(server.url, timeout=0.3).generate(PROMPT, Sampling())
        assert time.monotonic() - start < 10
    assert "no reply within 0.3 s" in completion.failure
    assert completion.outage


@pytest.mark.parametrize("value", ["inf", "1e400", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_server_can_make_the_client_wait_for_ever(connect, value):
    with FakeServer(after=status(429, "later", {"Retry-After": value})) as server:
        start = time.monotonic()
        [[completion]] = connect(server.url, retries=3).generate(PROMPT, Sampling())
        assert time.monotonic() - start < 10
    assert completion.outage


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://user:hunter2@host:port"])
def test_a_proxy_that_cannot_be_used_is_one_clear_error(connect, monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(LLMError, match="ALL_PROXY") as caught:
        connect("http://server.invalid/v1").generate(PROMPT, Sampling())
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    with FakeServer() as server:  # this machine needs no proxy
        assert connect(server.url).generate(PROMPT, Sampling())[0][0].failure is None
