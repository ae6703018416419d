from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.network.urls import is_hub_name, is_loopback, is_plain_url, retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "3", "retry-after-ms": "400"}, 0.4),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "1e999"}, float("inf")),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 +999999999999999999"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
    ],
)
def test_retry_after_is_seconds_to_wait_from_now(headers, seconds):
    assert retry_after(headers) == seconds


def test_a_date_to_retry_after_counts_from_now():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 95 < retry_after({"retry-after": later}) <= 100


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,9} \d\d:\d\d:\d\d [+-]?\w{1,20}"))
def test_no_retry_after_header_is_more_than_a_number_from_0(value):
    assert retry_after({"retry-after": value, "retry-after-ms": value}) >= 0


def test_a_plain_url_has_a_host_and_no_secret():
    assert [is_plain_url(url) for url in ("http://host:8000/v1", "https://[::1]", "HTTPS://host", "http://ho.st./a@b")]
    wrong = [
        "ftp://host",
        "host:8000",
        "http://",
        "http://host:port",
        "http://host:0",
        "http://[",
        7,
        None,
        "http:host",
    ]
    secret = ["http://user@host", "http://user:pass@host", "http://host/?key=x", "http://host/#x", "http://@host"]
    # Parsers disagree on these: urllib drops a line break, and a backslash is a slash to some.
    unclear = [
        "http://good\\@evil/",
        "http://ho st/",
        "http://ho\nst/",
        "http://host/\r\nX: y",
        "http://host/\t",
        "http://h\0",
    ]
    empty = ["http://host/?", "http://host/#"]
    assert [url for url in wrong + secret + unclear + empty if is_plain_url(url)] == []


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "api.localhost",
        "localhost.localdomain",
        "127.0.0.1",
        "127.255.3.4",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "0.0.0.0",  # noqa: S104
        "0",
        "::1",
        "[::1]",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::1%lo",
    ],
)
def test_this_machine_is_recognised_in_every_spelling(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "example.org",
        "localhost.example.org",
        "notlocalhost",
        "128.0.0.1",
        "10.0.0.1",
        "127.0.0.1.example.org",
        "::2",
        "",
        "::ffff:10.0.0.1",
        "localhostx",
        "1.127.0.0",
        "�",
        "a\x00b",
    ],
)
def test_other_machines_are_not_this_one(host):
    assert not is_loopback(host)


@pytest.mark.parametrize("name", ["a/b", "BAAI/bge-small-en-v1.5", "HuggingFaceTB/SmolLM2-135M", "o_w/n.a-m_e"])
def test_a_name_on_the_hub_has_an_owner(name):
    assert is_hub_name(name)
    assert is_hub_name(name.partition("/")[2], owner=False)
    assert not is_hub_name(name.partition("/")[2])


DOTS = [
    "..",
    ".",
    "../..",
    "a/..",
    "../a",
    "./a",
    "a/.",
    "a/../b",
    "a/..b",
    "a/b..",
    "a/b..c",
    ".a/b",
    "a/.b",
    "a./b",
    "a/b.",
]
ODD = [
    "",
    "/",
    "a/",
    "/a",
    "a/b/c",
    "/etc/passwd",
    "a\\b",
    "~/a",
    "C:/a",
    "a/b\n",
    " a/b",
    "a/b c",
    "a--b/c",
    "-a/b",
    "é/b",
]


@pytest.mark.parametrize("name", [*DOTS, *ODD, "a/" + "b" * 97, "a/b?x", "a/b#x", "a/b@c", "a/%2e%2e", "a/．．"])
def test_a_name_that_leads_elsewhere_is_not_one_on_the_hub(name):
    assert not is_hub_name(name)
    assert not is_hub_name(name, owner=False)


@given(st.text(alphabet="ab./-_~\\:%\n", max_size=12))
def test_no_name_on_the_hub_leaves_a_folder(name):
    if is_hub_name(name, owner=False):
        assert all(part.strip(".") and ".." not in part and not part.startswith(".") for part in name.split("/"))
        assert name.count("/") <= 1
