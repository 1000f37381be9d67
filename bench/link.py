"""A network link to try things over: forwards TCP with a bandwidth and a round trip of its own.

As a program, until it is interrupted:

    python -m bench.link --listen :7000 --to 127.0.0.1:6379 --rate 75e6 --round-trip 0.00055

and in a program, with the forwarder in a process of its own, which shares no interpreter lock:

    with Link("127.0.0.1:6379", rate=75e6, round_trip=0.00055) as link:
        connect(link.host, link.port)

Each direction carries `rate` bytes a second, shared by all connections (or each connection has its
own link: `per_connection`), and delays what it carries by half a round trip. So the first byte of
an answer comes a round trip after the question, and the rest follows at the rate. Whoever sends
faster is held back by TCP, as on a real link. What is not imitated: the round trip that opens a
connection, loss, TCP's slow start.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

# A chunk is what the link carries for one connection before it turns to the next: about a
# millisecond's worth, which costs some thousand system calls a second.
_CHUNK_S = 1e-3
_LEAST_CHUNK, _MOST_CHUNK = 1 << 12, 1 << 17
# So much capacity is made up for where the forwarder came late to data that was waiting for it.
_MOST_CATCH_UP_S = 0.05
# What carrying costs the forwarder itself, each way, comes off the delay: waking up, system calls.
_OWN_S = 1e-4
_PR_SET_TIMERSLACK = 29  # linux/prctl.h
# select takes descriptors below 1024, two a connection.
_MOST_CONNECTIONS = 400


class Direction:
    """When a link carries what, one way. Knows no clock: it is told what time it is.

    Attributes
    ----------
    carried : bytes so far
    busy_s : seconds it was busy carrying them
    """

    def __init__(self, rate: float | None, delay: float) -> None:
        self._byte_s = 0.0 if rate is None else 1 / rate
        self._delay = delay
        self._free_at = float("-inf")
        self._more_waits = False
        self.chunk = _MOST_CHUNK
        if rate is not None:
            self.chunk = int(min(max(rate * _CHUNK_S, _LEAST_CHUNK), _MOST_CHUNK))
        self.carried = 0
        self.busy_s = 0.0

    def free_in(self, now: float) -> float:
        """Seconds until it can take more; 0 where it can now."""
        return max(0.0, self._free_at - now)

    def take(self, n: int, now: float, more_waits: bool) -> float:
        """Takes n bytes, at most a chunk; returns when they arrive at the other end.

        more_waits : more bytes wait already, so that the link is not idle until the next `take`
        """
        begin = now
        if self._more_waits:  # whoever asks late does not make the link slower
            begin = max(self._free_at, now - _MOST_CATCH_UP_S)
        begin = max(begin, self._free_at)
        self._free_at = begin + n * self._byte_s
        self._more_waits = more_waits
        self.carried += n
        self.busy_s += n * self._byte_s
        return self._free_at + self._delay


class _Flow:
    """One way of one connection: from a socket, over a direction, to another socket."""

    def __init__(self, source: socket.socket, target: socket.socket, over: Direction) -> None:
        self.source, self.target, self.over = source, target, over
        self.under_way: deque[tuple[float, memoryview]] = deque()  # b"": nothing follows
        self.ended = False  # the source sends no more
        self.held_back = False  # the target takes no more for now
        self.done = False

    def receive(self, buffer: memoryview, now: float, others_wait: bool) -> None:
        n = self.source.recv_into(buffer[: self.over.chunk])
        full = n == self.over.chunk
        due = self.over.take(n, now, full or others_wait)
        self.under_way.append((due, memoryview(bytes(buffer[:n]))))
        self.ended = n == 0

    def deliver(self, now: float) -> None:
        """What has arrived, as far as the target takes it."""
        self.held_back = False
        while self.under_way and self.under_way[0][0] <= now:
            due, rest = self.under_way.popleft()
            if len(rest) == 0:
                self.done = True
                self.target.shutdown(socket.SHUT_WR)
                return
            try:
                sent = self.target.send(rest)
            except BlockingIOError:
                sent = 0
            if sent < len(rest):
                self.under_way.appendleft((due, rest[sent:]))
                self.held_back = True
                return


class Forwarder:
    """Accepts connections and carries them on; `run` returns when `control` is closed."""

    def __init__(
        self,
        listener: socket.socket,
        target: tuple[str, int],
        *,
        rate: float | None = None,
        round_trip: float = 0.0,
        per_connection: bool = False,
        control: socket.socket | None = None,
    ) -> None:
        self._listener = listener
        self._target = target
        self._rate, self._delay = rate, max(0.0, round_trip / 2 - _OWN_S)
        self._shared = None if per_connection else self._directions()
        self._all: list[tuple[Direction, Direction]] = [self._shared] if self._shared else []
        self._control = control
        self._pairs: list[tuple[_Flow, _Flow]] = []
        self._turn: deque[_Flow] = deque()  # who was served longest ago comes first
        self._buffer = memoryview(bytearray(_MOST_CHUNK))
        self.connections = 0

    def _directions(self) -> tuple[Direction, Direction]:
        return Direction(self._rate, self._delay), Direction(self._rate, self._delay)

    def run(self) -> None:
        clock = time.perf_counter
        while True:
            now = clock()
            reading: list[socket.socket] = [] if self._full() else [self._listener]
            if self._control is not None:
                reading.append(self._control)
            writing, wait = [], float("inf")
            for flow in self._turn:
                if flow.held_back:
                    writing.append(flow.target)
                    continue
                if flow.under_way:
                    wait = min(wait, flow.under_way[0][0] - now)
                if not flow.ended:
                    free_in = flow.over.free_in(now)
                    if free_in == 0:
                        reading.append(flow.source)
                    else:
                        wait = min(wait, free_in)
            timeout = None if wait == float("inf") else max(0.0, wait)
            readable, writable, _ = select.select(reading, writing, [], timeout)
            ready = set(readable)
            if self._control in ready and not self._answer():
                return
            if self._listener in ready:
                self._accept()
            self._serve(ready, set(writable), clock())

    def _serve(
        self, readable: set[socket.socket], writable: set[socket.socket], now: float
    ) -> None:
        broken: list[_Flow] = []
        for flow in self._turn:
            if (flow.under_way and not flow.held_back) or flow.target in writable:
                try:
                    flow.deliver(now)
                except OSError:
                    broken.append(flow)
        waiting = [flow for flow in self._turn if flow.source in readable and not flow.ended]
        for i, flow in enumerate(waiting):
            if flow.over.free_in(now) > 0:
                continue
            others_wait = any(other.over is flow.over for other in waiting[i + 1 :])
            try:
                flow.receive(self._buffer, now, others_wait)
            except BlockingIOError:
                continue
            except OSError:
                broken.append(flow)
            self._turn.remove(flow)
            self._turn.append(flow)
        for pair in [*self._pairs]:
            if any(flow in broken for flow in pair):
                self._close(pair, abruptly=True)
            elif all(flow.done for flow in pair):
                self._close(pair, abruptly=False)

    def _full(self) -> bool:
        return len(self._pairs) >= _MOST_CONNECTIONS

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError as error:
            print(f"no connection to {self._target}: {error}", file=sys.stderr, flush=True)
            _reset(near)
            near.close()
            return
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up, down = self._shared or self._directions()
        if self._shared is None:
            self._all.append((up, down))
        self.connections += 1
        pair = _Flow(near, far, up), _Flow(far, near, down)
        self._pairs.append(pair)
        self._turn.extend(pair)

    def _close(self, pair: tuple[_Flow, _Flow], *, abruptly: bool) -> None:
        self._pairs.remove(pair)
        for flow in pair:
            self._turn.remove(flow)
            if abruptly:
                _reset(flow.source)
            flow.source.close()

    def _answer(self) -> bool:
        """Does what `Link` asks for; whether to go on."""
        assert self._control is not None
        asked = self._control.recv(64)
        if not asked:
            return False
        if b"cut" in asked:
            for pair in [*self._pairs]:
                self._close(pair, abruptly=True)
        self._control.sendall(json.dumps(self.traffic()).encode() + b"\n")
        return True

    def traffic(self) -> dict[str, float]:
        ups, downs = zip(*self._all, strict=True) if self._all else ((), ())
        return {
            "connections": self.connections,
            "up_bytes": sum(d.carried for d in ups),
            "down_bytes": sum(d.carried for d in downs),
            "up_busy_s": sum(d.busy_s for d in ups),
            "down_busy_s": sum(d.busy_s for d in downs),
            "cpu_s": time.process_time(),
        }


def _wake_on_time() -> None:
    """Linux wakes sleepers up to 50 us late, to save power, unless it is asked not to."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def _reset(end: socket.socket) -> None:
    """The other side is to see that the connection broke, not that it ended."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Link:
    """A forwarder in a process of its own, for as long as the context lasts.

    Parameters
    ----------
    to : HOST:PORT that it leads to
    rate : bytes a second each way, or None for no limit
    round_trip : seconds
    per_connection : whether each connection has a link of its own

    Attributes
    ----------
    host, port : to connect to; `address` is both
    """

    def __init__(
        self,
        to: str,
        *,
        rate: float | None = None,
        round_trip: float = 0.0,
        per_connection: bool = False,
    ) -> None:
        self._arguments = ["--to", to, "--round-trip", repr(round_trip)]
        if rate is not None:
            self._arguments += ["--rate", repr(rate)]
        if per_connection:
            self._arguments.append("--per-connection")

    def __enter__(self) -> Link:
        self._control, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "bench.link", *self._arguments]
            self._process = subprocess.Popen(
                [*command, "--control", str(theirs.fileno())],
                cwd=Path(__file__).parents[1],
                pass_fds=[theirs.fileno()],
            )
        self._answers = self._control.makefile("r")
        self.host, self.port = "127.0.0.1", int(self._line()["port"])
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._answers.close()
        self._control.close()
        self._process.wait()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def traffic(self) -> dict[str, float]:
        """What it has carried: connections, up_bytes and down_bytes, seconds it was busy with them,
        and the processor time that the forwarder took."""
        self._control.sendall(b"traffic")
        return self._line()

    def cut(self) -> None:
        """Breaks all connections there are now."""
        self._control.sendall(b"cut")
        self._line()

    def _line(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise OSError(f"the forwarder ended: {' '.join(self._arguments)}")
        found: dict[str, Any] = json.loads(line)
        return found


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.link", description=__doc__.splitlines()[0])
    parser.add_argument("--listen", type=_place, default=("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--to", type=_place, required=True, metavar="HOST:PORT")
    parser.add_argument("--rate", type=float, help="bytes a second each way (default: no limit)")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds")
    parser.add_argument(
        "--per-connection", action="store_true", help="each connection has a link of its own"
    )
    parser.add_argument("--control", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    _wake_on_time()
    with socket.create_server(given.listen, backlog=1024) as listener:
        listener.setblocking(False)
        control = None if given.control is None else socket.socket(fileno=given.control)
        host, port = listener.getsockname()[:2]
        if control is None:
            print(f"{host}:{port} -> {given.to[0]}:{given.to[1]}", flush=True)
        else:
            control.sendall(json.dumps({"port": port}).encode() + b"\n")
        forwarder = Forwarder(
            listener,
            given.to,
            rate=given.rate,
            round_trip=given.round_trip,
            per_connection=given.per_connection,
            control=control,
        )
        try:
            forwarder.run()
        except KeyboardInterrupt:
            print(json.dumps(forwarder.traffic()))


if __name__ == "__main__":
    main()
