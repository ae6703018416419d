from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.errors import OptionError
from raggym_env.retrieval.server.hosts import AllowedHosts

LOCAL = AllowedHosts("127.0.0.1")

OWN = [
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.0.0.1:",
    "127.8.9.10:80",
    "localhost",
    "LocalHost.:8000",
    "[::1]",
    "[::1]:8000",
    "[0:0:0:0:0:0:0:1]:8000",
    "[::ffff:127.0.0.1]",
    " localhost ",
]
FOREIGN = [
    "",
    ":8000",
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "evil.example#127.0.0.1",
    "evil.example/127.0.0.1",
    "localhost:80:80",
    "localhost:x",
    "localhost\tevil.example",
    "192.168.1.5",
    "[fe80::1]:8000",
    "0.0.0.0:8000",
    "[::]",
    "2130706433",
    "0x7f.1",
    "127.1",
    "[localhost",
    "[[::1]]",
    "\u24db\u24de\u24d2alhost",
]


@pytest.mark.parametrize("host", OWN)
def test_the_loopback_names_are_allowed_in_every_spelling_and_with_any_port(host):
    assert LOCAL.allow_host(host)


@pytest.mark.parametrize("host", FOREIGN)
def test_any_other_name_is_refused(host):
    assert not LOCAL.allow_host(host)


@given(st.text(max_size=30) | st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){0,2}(:[0-9]{1,5})?", fullmatch=True))
def test_no_name_that_is_not_localhost_is_allowed(host):
    plain = host.strip().lower().partition(":")[0].removesuffix(".")
    assert not LOCAL.allow_host(host) or plain == "localhost"


def test_the_bound_address_and_further_names_are_allowed():
    hosts = AllowedHosts("10.0.0.5", ["Box.Example", "fd00::5", "10.0.0.6"])
    allowed = (
        "10.0.0.5:80",
        "box.example",
        "BOX.EXAMPLE.:8000",
        "[fd00::5]:8000",
        "[FD00:0::5]",
        "10.0.0.6",
        "localhost",
    )
    assert all(map(hosts.allow_host, allowed))
    assert not any(map(hosts.allow_host, ("10.0.0.7", "x.box.example", "box.example.evil.example", "box")))


@pytest.mark.parametrize("bound", ["0.0.0.0", "::"])  # noqa: S104
def test_bound_to_every_address_all_addresses_and_the_machines_name_are_allowed_but_no_other_name(bound):
    hosts = AllowedHosts(bound)
    own = ("192.168.1.5:8000", "[fe80::1]", "0.0.0.0:8000", socket.gethostname(), "localhost")
    assert all(map(hosts.allow_host, own))
    assert not hosts.allow_host("evil.example")
    assert not hosts.allow_origin("http://192.168.1.5")


def test_an_asterisk_allows_every_host_and_origin():
    hosts = AllowedHosts("127.0.0.1", ["*"])
    assert hosts.allow_host("evil.example")
    assert hosts.allow_origin("https://evil.example")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("http://127.0.0.1:8000", True),
        ("https://[::1]:8443", True),
        ("null", False),
        ("", False),
        ("https://evil.example", False),
        ("https://localhost.evil.example", False),
        ("chrome-extension://abcdefgh", False),
        ("file://", False),
        ("http://localhost/evil", False),
    ],
)
def test_pages_of_other_hosts_are_refused(origin, allowed):
    assert LOCAL.allow_origin(origin) == allowed


@pytest.mark.parametrize(
    "name", ["", "http://box", "box:8000", "[::1]:80", "a b", "a/b", "*.box.example", "b\u00fccher.example"]
)
def test_a_name_that_no_host_header_can_have_is_an_error(name):
    with pytest.raises(OptionError, match="a name or an address, without scheme and port"):
        AllowedHosts("127.0.0.1", [name])
