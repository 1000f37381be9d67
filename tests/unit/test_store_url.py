"""Addresses of parameter stores, and the protocol spoken with them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from cirrus_fast import store_url
from cirrus_fast.errors import OptionError, StoreError
from cirrus_fast.runtime.params import resp
from cirrus_fast.runtime.params.resp import Connection, Link, Lost, Refused, key_slot, pack
from cirrus_fast.store_url import StoreUrl, parse_urls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://h", "redis://h:6379"),
        ("redis://:pw@h:7/3", "redis://h:7/3"),
        ("redis://us%40er:p%2Cw@h", "redis://us%40er@h:6379"),
        ("rediss://u@h?ssl_ca_certs=/a/b.pem", "rediss://u@h:6379?ssl_ca_certs=/a/b.pem"),
        ("redis://[::1]:7?db=2", "redis://[::1]:7/2"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("unix://u:p@/run/a.sock", "unix://u@/run/a.sock"),
        ("redis://h?timeout=0.5&store=bitfield", "redis://h:6379?timeout=0.5&store=bitfield"),
    ],
)
def test_what_is_shown_leads_to_the_same_place_without_a_password(text: str, shown: str) -> None:
    url = StoreUrl.parse(text)
    assert url.shown == shown
    assert StoreUrl.parse(shown) == url


def test_a_password_is_kept_for_this_process_and_handed_to_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (url,) = parse_urls("redis://u:se%3Acret@kept-here")
    assert url.username == "u"
    assert StoreUrl.parse(url.shown).password == "se:cret"
    handed = store_url.secrets([url])
    assert json.loads(handed[store_url.SECRETS_VARIABLE]) == {url.shown: "se:cret"}
    monkeypatch.setattr(store_url, "_passwords", {})
    assert url.password == ""
    monkeypatch.setenv(store_url.PASSWORD_VARIABLE, "other")
    assert url.password == "other"
    monkeypatch.setenv(store_url.SECRETS_VARIABLE, handed[store_url.SECRETS_VARIABLE])
    assert url.password == "se:cret"
    assert store_url.secrets([StoreUrl.parse("redis://nobody")]) == {}


@pytest.mark.parametrize(
    "text",
    ["redis://h:0x", "redis://h?db=-1", "rediss://h?ssl=1", "unix://", "h:6379", "redis://h#"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    if text.endswith("#"):
        text += "x"
    with pytest.raises(OptionError, match="param_store"):
        StoreUrl.parse(text)


def test_slots_are_redis_own() -> None:
    assert key_slot(b"123456789") == 0x31C3 % 16384  # CRC-16/XMODEM's check value
    assert key_slot(b"{user1000}.following") == key_slot(b"user1000")
    assert key_slot(b"foo{}{bar}") != key_slot(b"bar")
    assert key_slot(b"foo{bar}{zap}") == key_slot(b"bar")


Answering = Callable[[bytes], StoreUrl]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """answering(bytes): a server that says this to whatever it is asked, then closes."""
    listeners: list[socket.socket] = []

    def serve(answer: bytes) -> StoreUrl:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(1 << 16)
                    client.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return StoreUrl.parse(f"redis://127.0.0.1:{listener.getsockname()[1]}?timeout=2")

    yield serve
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (b"+OK\r\n", b"OK"),
        (b":-7\r\n", -7),
        (b"$-1\r\n", None),
        (b"$0\r\n\r\n", b""),
        (b"$300000\r\n" + bytes(300_000) + b"\r\n", bytes(300_000)),
        (b"*-1\r\n", None),
        (b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n", [[1], b"x"]),
    ],
)
def test_answers_are_read(answering: Answering, answer: bytes, value: object) -> None:
    connection = Connection(answering(answer))
    assert connection.ask("PING") == value
    connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"+O",
        b"hello\r\n",
        b"$5\r\nab",
        b"$2\r\nabcd\r\n",
        b"$x\r\n",
        b"$-2\r\n",
        b"$99999999999\r\n",
        b"*99999999999\r\n",
        b"*2\r\n:1\r\n",
        b"x" * 10_000,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_answers_that_are_none_end_the_connection(answering: Answering, answer: bytes) -> None:
    connection = Connection(answering(answer))
    with pytest.raises(Lost):
        connection.ask("PING")
    connection.close()


def test_a_refusal_names_the_server_and_what_to_do(answering: Answering) -> None:
    url = answering(b"-NOAUTH Authentication required.\r\n")
    connection = Connection(url)
    with pytest.raises(Refused, match=rf"{url.place}: NOAUTH.*CIRRUS_FAST_REDIS_PASSWORD"):
        connection.ask("PING")
    connection.close()


def test_refusals_that_pass_are_waited_for(answering: Answering) -> None:
    link = Link((answering(b"-LOADING Redis is loading\r\n"),), b"k", clustered=False)
    with pytest.raises(StoreError, match=r"LOADING.*given up after 0.3 s"):
        link.ask("PING", give_up_s=0.3)
    assert link.connects > 1
    stopped = Link((answering(b""),), b"k", clustered=False, stopping=lambda: True)
    with pytest.raises(StoreError, match="given up"):
        stopped.ask("PING", give_up_s=1000)
    assert stopped.connects == 1


def test_a_server_that_is_not_there_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resp, "GIVE_UP_S", 0.2)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        url = StoreUrl.parse(f"redis://127.0.0.1:{one.getsockname()[1]}")
        with pytest.raises(StoreError, match=r"cannot be reached \(Connection refused\).*0.2 s"):
            Link((url,), b"k", clustered=False).ask("PING")


def test_arguments_are_packed_as_bytes() -> None:
    assert pack("SET", b"\0\xff", 12) == b"*3\r\n$3\r\nSET\r\n$2\r\n\0\xff\r\n$2\r\n12\r\n"
