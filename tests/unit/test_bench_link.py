"""The link that benchmarks and tests run over: what it carries when, and that it carries all."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import pytest

RATE, DELAY = 1_000_000.0, 0.015


@pytest.fixture
def make_direction(bench):
    return bench("link").Direction


@pytest.fixture
def direction(make_direction):
    return make_direction(RATE, DELAY)


@pytest.fixture
def make_link(bench):
    return bench("link").Link


def test_an_idle_link_delivers_after_the_bytes_and_the_delay(direction):
    assert direction.free_in(10.0) == 0
    assert direction.take(1000, 10.0, False) == pytest.approx(10.0 + 0.001 + DELAY)
    # Long after that it is idle again: what was not sent meanwhile is no credit.
    assert direction.take(500, 20.0, False) == pytest.approx(20.0 + 0.0005 + DELAY)


def test_a_busy_link_carries_one_after_another_and_the_delay_only_once(direction):
    arrivals, now = [], 0.0
    for _ in range(100):
        now += direction.free_in(now)
        arrivals.append(direction.take(1000, now, True))
    assert arrivals == pytest.approx([0.001 * (i + 1) + DELAY for i in range(100)])
    assert direction.carried == 100_000
    assert direction.busy_s == pytest.approx(0.1)


def test_whoever_comes_late_to_waiting_bytes_does_not_slow_the_link(direction):
    now = last = 0.0
    for i in range(100):
        now += direction.free_in(now) + (0.0002 if i % 10 else 0.004)
        last = direction.take(1000, now, True)
    assert last == pytest.approx(0.004 + 0.1 + DELAY)  # the first found it idle


def test_what_is_made_up_for_is_bounded(direction):
    direction.take(1000, 0.0, True)
    assert direction.take(1000, 5.0, False) == pytest.approx(5.0 - 0.05 + 0.001 + DELAY)


def test_a_chunk_is_a_millisecond_of_the_rate_within_bounds(make_direction):
    chunks = [make_direction(rate, 0).chunk for rate in (75e6, 1e3, 1e12, None)]
    assert chunks == [75_000, 4096, 131_072, 131_072]


def test_without_a_rate_only_the_delay_is_left(make_direction):
    direction = make_direction(None, DELAY)
    assert direction.take(10**9, 3.0, True) == 3.0 + DELAY
    assert direction.free_in(3.0) == 0


class Echo:
    """Sends back what it is sent, and ends when the other side has ended."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.to = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(end,), daemon=True).start()

    def _echo(self, end: socket.socket) -> None:
        with closing(end):
            try:
                while sent := end.recv(100_000):
                    end.sendall(sent)
            except OSError:
                return


@pytest.fixture(scope="module")
def echo():
    server = Echo()
    yield server
    server.listener.close()


def exchange(link, content: bytes) -> bytes:
    """Sends it, and reads to the end."""
    with socket.create_connection((link.host, link.port), timeout=30) as end:

        def send() -> None:
            end.sendall(content)
            end.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        back = b"".join(iter(lambda: end.recv(100_000), b""))
        sender.join()
    return back


@pytest.mark.parametrize("per_connection", [False, True])
def test_every_byte_arrives_in_order_and_ends_are_passed_on(echo, make_link, per_connection):
    content = bytes(range(256)) * 4000
    with make_link(echo.to, rate=50e6, round_trip=0.002, per_connection=per_connection) as link:
        found = [b""] * 5

        def one(i: int) -> None:
            found[i] = exchange(link, content[i:])

        threads = [threading.Thread(target=one, args=(i,)) for i in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [content[i:] for i in range(5)]
        assert exchange(link, b"") == b""
        traffic = link.traffic()
    n_bytes = sum(len(content) - i for i in range(5))
    assert (traffic["connections"], traffic["up_bytes"]) == (6, n_bytes)
    assert traffic["down_bytes"] == n_bytes
    assert traffic["down_busy_s"] == pytest.approx(n_bytes / 50e6)


def test_a_cut_link_breaks_its_connections_and_takes_new_ones(echo, make_link):
    with make_link(echo.to) as link:
        with socket.create_connection((link.host, link.port), timeout=30) as end:
            end.sendall(b"x")
            assert end.recv(1) == b"x"
            link.cut()
            with pytest.raises(ConnectionError):
                end.recv(1)
        assert exchange(link, b"again") == b"again"


def test_a_place_where_nobody_listens_breaks_the_connection(make_link):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    with (
        make_link(f"127.0.0.1:{nobody}") as link,
        pytest.raises(ConnectionError),
        socket.create_connection((link.host, link.port), timeout=30) as end,
    ):
        end.recv(1)
