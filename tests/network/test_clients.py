from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import pickle
import threading
import time
import traceback
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from raggym_env.network.clients import AsyncClient, Client, RequestFailed
from raggym_env.network.keys import Key
from raw_server import head, raw_server

SECRET = "sk-very-secret-0123456789"  # noqa: S105  # nobody's
PROXIES = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def settings(**changes):
    return {"timeout": 5.0, "connections": 4, "max_bytes": 1000, **changes}


def send_sync(url, path="x", content=b"{}", key=None, **changes):
    client = Client(url, key or Key(None), **settings(**changes))
    try:
        return client.send("POST", path, content)
    finally:
        client.close()


def send_async(url, path="x", content=b"{}", key=None, **changes):
    async def send():
        client = AsyncClient(url, key or Key(None), **settings(**changes))
        try:
            return await client.send("POST", path, content)
        finally:
            await client.aclose()

    return asyncio.run(send())


@pytest.fixture(params=[send_sync, send_async], ids=["sync", "async"])
def send(request):
    return request.param


def says(*parts: bytes):
    return lambda connection: [connection.sendall(part) for part in parts]


def test_a_request_has_the_key_and_its_response_is_complete(send):
    with raw_server(says(head("X-Y: z", length=5), b"hel", b"lo")) as server:
        response = send(server.url, key=Key("K", SECRET))
    assert (response.status, response.headers["x-y"], response.body, response.text) == (200, "z", b"hello", "hello")
    [request] = server.requests
    assert request.startswith(b"POST /v1/x HTTP/1.1\r\n")
    assert f"authorization: bearer {SECRET}" in request.decode().lower()
    assert b"application/json" in request


# Time.


def drips_head(server_closing):
    def answer(connection):
        for byte in itertools.cycle(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000):
            if server_closing().wait(0.03):
                return
            connection.sendall(bytes([byte]))

    return answer


def drips_body(server_closing):
    def answer(connection):
        connection.sendall(head(length=900))
        while not server_closing().wait(0.03):
            connection.sendall(b" ")

    return answer


def drips_interim_heads(server_closing):
    def answer(connection):
        while not server_closing().wait(0.03):
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    return answer


def drips_chunks(server_closing):
    def answer(connection):
        connection.sendall(head("Transfer-Encoding: chunked"))
        while not server_closing().wait(0.03):
            connection.sendall(b"1\r\n \r\n")

    return answer


def drips_trailers(server_closing):
    def answer(connection):
        connection.sendall(head("Transfer-Encoding: chunked") + b"0\r\n")
        while not server_closing().wait(0.03):
            connection.sendall(b"X: y\r\n")

    return answer


def drips_gzip(server_closing):
    def answer(connection):
        connection.sendall(head("Content-Encoding: gzip", length=900))
        for byte in gzip.compress(bytes(range(256)) * 4, 0):
            if server_closing().wait(0.03):
                return
            connection.sendall(bytes([byte]))

    return answer


def is_silent(server_closing):
    return lambda connection: server_closing().wait(20)


@pytest.mark.parametrize(
    "slow", [drips_head, drips_body, drips_interim_heads, drips_chunks, drips_trailers, drips_gzip, is_silent]
)
def test_one_deadline_holds_for_head_and_body_however_slowly_they_come(send, slow):
    with raw_server(slow(lambda: server.closing)) as server:
        start = time.monotonic()
        with pytest.raises(RequestFailed, match=r"no reply within 0\.4 s") as caught:
            send(server.url, timeout=0.4)
        assert 0.3 < time.monotonic() - start < 10  # the servers go on for 20 s and more
    assert caught.value.kind == "timeout"


def test_a_server_that_does_not_read_a_long_request_is_given_up(send):
    with raw_server(is_silent(lambda: server.closing)) as server:
        start = time.monotonic()
        with pytest.raises(RequestFailed) as caught:
            send(server.url, content=b" " * (64 << 20), timeout=0.4)
        assert time.monotonic() - start < 10
    assert caught.value.kind == "timeout"


def test_the_deadline_counts_from_when_a_connection_is_free():
    def answer(connection):
        time.sleep(0.3)
        connection.sendall(head("Connection: close", length=0))

    with raw_server(answer) as server, ThreadPoolExecutor(8) as pool:
        client = Client(server.url, Key(None), **settings(connections=1, timeout=2.0))  # the last waits longer
        assert [reply.status for reply in pool.map(lambda _: client.send("GET", "x"), range(8))] == [200] * 8


# Size.


def endless(connection):
    connection.sendall(head("Transfer-Encoding: chunked"))
    while True:
        connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def until_closed(connection):
    connection.sendall(head())
    while True:
        connection.sendall(b" " * 0x10000)


@pytest.mark.parametrize(
    "answer",
    [endless, until_closed, says(head(length=1001), b" " * 1001), says(head(length=10**30)), says(head(length=10**17))],
    ids=["chunks", "without a length", "one byte", "a length of 31 digits", "announced"],
)
def test_a_body_that_is_too_long_is_not_read(send, answer):
    with raw_server(answer) as server, pytest.raises(RequestFailed) as caught:
        send(server.url)
    # A length of 31 digits breaks the protocol.
    assert caught.value.kind in ("too long", "broken")


def test_a_body_of_exactly_the_limit_is_read(send):
    with raw_server(says(head(length=1000), b" " * 1000)) as server:
        assert len(send(server.url).body) == 1000
    packed = gzip.compress(b" " * 1000)
    with raw_server(says(head("Content-Encoding: gzip", length=len(packed)), packed)) as server:
        assert len(send(server.url).body) == 1000


def bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(b"\0" * (1 << 20)) for _ in range(size >> 20)), packer.flush()])


def test_a_gzip_bomb_is_not_inflated_beyond_the_limit(send):
    packed = bomb(64 << 20)
    assert len(packed) < 1 << 17
    with raw_server(says(head("Content-Encoding: gzip", length=len(packed)), packed)) as server:
        tracemalloc.start()
        try:
            with pytest.raises(RequestFailed, match="longer than 1,000,000 bytes") as caught:
                send(server.url, max_bytes=1_000_000)
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()
    assert caught.value.kind == "too long"


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "gzip, gzip", "x", "\xe9", "gzip;q=1"])
def test_a_compression_that_was_not_asked_for_is_refused(send, encoding):
    answer = says(head(f"Content-Encoding: {encoding}", length=0))
    with raw_server(answer) as server, pytest.raises(RequestFailed, match="not asked for") as caught:
        send(server.url)
    assert caught.value.kind == "unreadable"


# mtime=0: the time in the bytes, and so in the test's name, would differ between the processes of a run.
@pytest.mark.parametrize(
    ("body", "kind"), [(b"no gzip", "unreadable"), (gzip.compress(b"abc" * 50, mtime=0)[:-9], "broken")]
)
def test_a_damaged_compression_is_an_error(send, body, kind):
    answer = says(head("Content-Encoding: gzip", length=len(body)), body)
    with raw_server(answer) as server, pytest.raises(RequestFailed) as caught:
        send(server.url)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\r\n",
        b"HTTP/9.9 banana\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        head(length=50) + b"cut",
        b"\x00" * 100,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300000,
        head("Content-Length: x"),
        head("Content-Length: -1"),
        head("Transfer-Encoding: chunked") + b"zz\r\n",
        b"HTTP/1.1 99999 X\r\n\r\n",
    ],
    ids=repr,
)
def test_what_is_not_a_response_is_one_typed_error(send, reply):
    with raw_server(says(reply)) as server, pytest.raises(RequestFailed) as caught:
        send(server.url)
    assert caught.value.kind == "broken"
    assert "\n" not in str(caught.value)


def test_nothing_that_listens_is_an_error_that_says_so(send):
    with raw_server(says(b"")) as server:
        pass
    with pytest.raises(RequestFailed, match=r"Connect") as caught:
        send(server.url)
    assert caught.value.kind == "unreachable"


# Where requests go.


def test_redirects_are_not_followed(send):
    with raw_server(says(head(length=0))) as other:
        for status in (301, 302, 303, 307, 308):
            answer = f"HTTP/1.1 {status} X\r\nLocation: {other.url}/x\r\nContent-Length: 0\r\n\r\n".encode()
            with raw_server(says(answer)) as server:
                assert send(server.url, key=Key("K", SECRET)).status == status
    assert other.requests == []


def local_urls(server):
    hosts = ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "0.0.0.0", "localhost."]  # noqa: S104
    return [f"http://{host}:{server.port}/v1" for host in hosts]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_no_proxy_ever_sees_a_request_to_this_machine(send, variable, monkeypatch):
    with raw_server(says(head(length=0))) as trap, raw_server(says(head("Connection: close", length=0))) as server:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{trap.port}")
        for url in local_urls(server):
            with contextlib.suppress(RequestFailed):  # not every system resolves every spelling
                assert send(url, key=Key("K", SECRET)).status == 200
    assert len(server.requests) >= 2
    assert trap.requests == []


def test_no_proxy_of_any_kind_is_tried_for_this_machine(send, monkeypatch):
    for proxy in ("socks5://127.0.0.1:9", "nonsense://x", "http://[", ":::"):
        monkeypatch.setenv("ALL_PROXY", proxy)
        with raw_server(says(head(length=0))) as server:
            assert send(server.url).status == 200


def test_elsewhere_the_proxy_of_the_environment_is_used_unless_no_proxy_says_no(send, monkeypatch):
    with raw_server(says(head(length=0))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
        assert send("http://server.invalid/v1").status == 200
        assert proxy.requests[0].startswith(b"POST http://server.invalid/v1/x HTTP/1.1\r\n")
        monkeypatch.setenv("NO_PROXY", "server.invalid")
        with pytest.raises(RequestFailed):
            send("http://server.invalid/v1")
    assert len(proxy.requests) == 1


def test_the_deadline_holds_behind_a_proxy_too(send, monkeypatch):
    with raw_server(drips_head(lambda: proxy.closing)) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for scheme in ("http", "https"):  # for https, the proxy is asked to connect first
            start = time.monotonic()
            with pytest.raises(RequestFailed):
                send(f"{scheme}://server.invalid/v1", timeout=0.4)
            assert time.monotonic() - start < 10


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://host:1080",
        "socks5h://user:hunter2@host",
        "socks4://host:1",
        "ftp://host",
        "http://",
        "http://[::1",
        "http://host:port",
        "http://host:99999",
        "http://host:0",
        "://",
        "http://user:hunter2@host:port",
        "https://ho st:1",
        "http://hos\tt:1",
        "javascript:alert(1)",
        "nonsense",
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_error_that_names_the_variable(send, variable, proxy, monkeypatch):
    monkeypatch.setenv(variable, proxy)
    if proxy == "nonsense":  # a host without a scheme is a proxy, here one that does not exist
        with pytest.raises(RequestFailed) as caught:
            send("http://server.invalid/v1")
        assert caught.value.kind == "unreachable"
        return
    with pytest.raises(
        RequestFailed, match=rf"the proxy in \${variable.upper()}|{variable.upper()} is a SOCKS"
    ) as caught:
        send("http://server.invalid/v1")
    assert caught.value.kind == "settings"
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("value", ["[::1", "http://[", "[", "a b", "*", "::1,,", "\x01"])
def test_a_no_proxy_list_is_used_or_one_error(send, value, monkeypatch):
    monkeypatch.setenv("NO_PROXY", value)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(RequestFailed) as caught:
        send("http://server.invalid/v1")
    assert caught.value.kind in ("settings", "unreachable")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_cannot_be_read_are_one_error(send, variable, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no certificate")
    monkeypatch.setenv(variable, str(tmp_path / "file" if variable == "SSL_CERT_FILE" else tmp_path / "missing"))
    if variable == "SSL_CERT_DIR":  # OpenSSL reads the folder later, so a missing one holds no certificate
        return
    with pytest.raises(RequestFailed, match=r"\$SSL_CERT_FILE") as caught:
        send("https://server.invalid/v1")
    assert caught.value.kind == "settings"


# What is told.


def test_a_key_is_in_no_message_and_no_chain(send):
    echo = f"HTTP/1.1 200 OK\r\n{SECRET}\x01: x\r\n\r\n".encode()
    with raw_server(says(echo)) as server, pytest.raises(RequestFailed) as caught:
        send(server.url, key=Key("K", SECRET))
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    assert SECRET not in "".join(traceback.format_exception(error)) + repr(vars(error))


def test_an_error_survives_pickling():
    error = pickle.loads(pickle.dumps(RequestFailed("x", "too long")))  # noqa: S301
    assert (str(error), error.kind) == ("x", "too long")


def test_many_threads_share_a_client():
    def answer(connection):
        connection.sendall(head("Connection: close", length=2) + b"{}")

    with raw_server(answer) as server, ThreadPoolExecutor(16) as pool:
        client = Client(server.url, Key(None), **settings(connections=3))
        bodies = list(pool.map(lambda _: json.loads(client.send("POST", "x", b"{}").body), range(100)))
    assert bodies == [{}] * 100
    assert threading.active_count() < 40
