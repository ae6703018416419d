import httpx
import pytest

from raggym_env.errors import OptionError
from raggym_env.network import HubUnreachable, client_options, is_plain_url, require_hub, retry_after

BEARER = "secret-0123"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "3", "retry-after-ms": "400"}, 0.4),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
    ],
)
def test_retry_after_is_seconds_to_wait_from_now(headers, seconds):
    assert retry_after(headers) == seconds


def sent_through(url, token_env=None):
    """The request that a client with these options sends, and whether it uses the environment's proxies."""
    requests = []
    transport = httpx.MockTransport(
        lambda request: requests.append(request) or httpx.Response(307, headers={"location": "/"})
    )
    settings = client_options(url, token_env, timeout=1, connections=1)
    with httpx.Client(transport=transport, **settings) as client:
        assert client.get("path").status_code == 307
    return requests, settings["trust_env"]


def test_a_client_sends_the_token_and_follows_no_redirect(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", BEARER)
    ((request,), _) = sent_through("http://host/v1", "SOME_TOKEN")
    assert (str(request.url), request.headers["authorization"]) == ("http://host/v1/path", f"Bearer {BEARER}")
    monkeypatch.delenv("SOME_TOKEN")
    for token_env in ("SOME_TOKEN", None):
        ((request,), _) = sent_through("http://host/v1", token_env)
        assert "authorization" not in request.headers


@pytest.mark.parametrize(
    ("host", "proxied"), [("example.org", True), ("localhost", False), ("127.0.0.2", False), ("[::1]", False)]
)
def test_proxies_are_used_except_for_this_machine(host, proxied):
    assert sent_through(f"http://{host}:8000/v1")[1] is proxied


@pytest.mark.parametrize("token", ["secret\n", "sécret"])
def test_a_token_that_no_header_can_have_is_refused_without_repeating_it(token, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", token)
    with pytest.raises(OptionError, match=r"SOME_TOKEN .* line break") as caught:
        client_options("http://host", "SOME_TOKEN", timeout=1, connections=1)
    assert token not in str(caught.value)


def test_a_plain_url_has_a_host_and_no_secret():
    assert is_plain_url("http://host:8000/v1")
    assert is_plain_url("https://[::1]")
    wrong = ["ftp://host", "host:8000", "http://", "http://host:port", "http://host:0", "http://[", 7, None]
    secret = ["http://user@host", "http://user:pass@host", "http://host/?key=x", "http://host/#x"]
    assert [url for url in wrong + secret if is_plain_url(url)] == []


def test_a_hub_that_does_not_answer_is_an_error_within_seconds(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachable, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        require_hub()


def test_an_offline_hub_gets_no_request(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    require_hub()
