"""Real Redis servers for tests, with what can go wrong on the way to them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from cirrus_fast.backend.redis_server import find_server


def free_port() -> int:
    """One whose ten-thousandth neighbour, which cluster nodes talk on, is a port too."""
    while True:
        port = random.randint(20_000, 50_000)
        with socket.socket() as one, socket.socket() as bus, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port


def major_version(program: Path | None) -> int:
    """7 of Redis 7.0.15."""
    assert program is not None
    told = subprocess.check_output([program, "--version"], text=True)
    return int(told.partition("v=")[2].partition(".")[0])


class RedisServer:
    """One server in a folder of its own; `kill` and `start` again at will."""

    def __init__(self, folder: Path, *arguments: str, binary: str | None = None) -> None:
        self.folder, self.arguments = folder, arguments
        self.binary = binary or str(find_server())
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--save", "", *self.arguments]
        with (self.folder / "log").open("ab") as log:
            # A server is not what a preloaded sanitizer is to look at.
            ours = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=ours)
        if wait:
            self.wait()

    def wait(self) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            time.sleep(0.02)
        raise AssertionError("the server does not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self, **more: object) -> redis.Redis:
        return redis.Redis(port=self.port, **more)  # type: ignore[arg-type]

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Proxy:
    """Stands between clients and a server; passes bytes on until told what to do to them.

    rule(direction, connection, passed, data) -> what to pass on: the data, a part of it, None to
    cut the connection; direction is "up" or "down", passed the bytes that went that way before.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.rule: Callable[[str, int, int, bytes], bytes | None] = lambda d, c, n, data: data
        self.connections = 0
        self.closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while not self.closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            number, self.connections = self.connections, self.connections + 1
            for direction, source, sink in (("up", client, server), ("down", server, client)):
                threading.Thread(
                    target=self._pass, args=(direction, number, source, sink), daemon=True
                ).start()

    def _pass(
        self, direction: str, number: int, source: socket.socket, sink: socket.socket
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                out = self.rule(direction, number, passed, data)
                passed += len(data)
                if out is None:
                    break
                sink.sendall(out)
                if len(out) < len(data):
                    break
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def stop(self) -> None:
        self.closed = True
        self._listener.close()


class Cluster:
    """Three masters, each with a third of the slots.

    Attributes
    ----------
    replicas : one of each of the masters, if wanted
    """

    def __init__(self, folder: Path, *, replicas: bool = False) -> None:
        # A machine that is busy is not to be taken for servers that are gone.
        patience_ms = "4000" if replicas else "2000"
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", patience_ms)
        binary = str(find_server())
        every = [
            RedisServer(folder / str(i), *options, "--appendonly", "no", binary=binary)
            for i in range(6 if replicas else 3)
        ]
        self.servers, self.replicas = every[:3], every[3:]
        bounds = [0, 5461, 10923, 16384]
        for i, server in enumerate(self.servers):
            with server.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
                slots = range(bounds[i], bounds[i + 1])
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
        with self.servers[0].client() as client:
            for server in every[1:]:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
        self._wait(every)
        for master, replica in zip(self.servers, self.replicas, strict=False):
            self._follow(master, replica)

    @staticmethod
    def _follow(master: RedisServer, replica: RedisServer) -> None:
        with master.client() as one, replica.client() as other:
            name = one.execute_command("CLUSTER", "MYID")
            other.execute_command("CLUSTER", "REPLICATE", name)
            until = time.monotonic() + 30
            while other.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < until
                time.sleep(0.05)

    def _wait(self, every: list[RedisServer]) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            states = []
            for server in every:
                with server.client() as client:
                    states.append(client.execute_command("CLUSTER", "INFO"))
            if all(self._ready(state, len(every)) for state in states):
                return
            time.sleep(0.05)
        raise AssertionError("the cluster does not come together")

    @staticmethod
    def _ready(state: object, n: int) -> bool:
        if not isinstance(state, dict):
            lines = bytes(state).decode().split()  # type: ignore[call-overload]
            state = dict(line.split(":") for line in lines)
        return state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == n

    def stop(self) -> None:
        for server in (*self.servers, *self.replicas):
            server.stop()


def available() -> bool:
    return find_server(missing_ok=True) is not None


def keys_left(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        return list(client.scan_iter("*cirrus_fast*"))


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
