"""A real HTTP server that speaks S3 (moto's), with faults to order."""

from __future__ import annotations

import logging
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Environ = dict[str, Any]
_DAMAGE = ("corrupt", "glitch")


@dataclass
class Faults:
    """Called with each GET of an object: says what goes wrong with it, or None.

    "503", "500", "403 ExpiredToken": an answer of that kind; "silence": the connection is closed
    without one. After `after` bytes of the body, or a number drawn for each request: "reset": the
    connection is cut; "short": it is closed, though more was announced; "truncated": the body ends,
    and no more was announced; "stall": nothing more comes for `stall_s`; "corrupt": a bit is
    another; "glitch": the same, but no byte is in a body that came wrong before

    injected : how often what went wrong
    """

    plan: Callable[[str], str | None] = lambda _key: None
    after: int | None = 1000
    stall_s: float = 30.0
    methods: tuple[str, ...] = ("GET",)
    injected: Counter[str] = field(default_factory=Counter)
    _damaged: list[tuple[str, int, int]] = field(default_factory=list)
    _draw: random.Random = field(default_factory=lambda: random.Random(1))

    @classmethod
    def some(cls, share: float, kinds: Iterable[str], seed: int = 1, **more: Any) -> Faults:
        """Each of so many requests fails in a way drawn from `kinds`."""
        draw, choices = random.Random(seed), list(kinds)
        return cls(lambda _key: draw.choice(choices) if draw.random() < share else None, **more)

    @classmethod
    def first(cls, n: int, kind: str, **more: Any) -> Faults:
        """The first n requests fail."""
        left = iter([kind] * n)
        return cls(lambda _key: next(left, None), **more)

    def cut(self, body: bytes) -> int:
        """After how many bytes it goes wrong; there is one left."""
        last = max(0, len(body) - 1)
        return self._draw.randint(0, last) if self.after is None else min(self.after, last)

    def damage(self, path: str, begin: int, body: bytes, kind: str) -> bytes:
        """The body from its byte `begin` on with another bit."""
        span = (path, begin, begin + len(body))
        before = any(p == path and begin < e and b < span[2] for p, b, e in self._damaged)
        if not body or (kind == "glitch" and before):
            return body
        self._damaged.append(span)
        self.injected[kind] += 1
        at = self.cut(body)
        return body[:at] + bytes([body[at] ^ 0x40]) + body[at + 1 :]


class _Dispatcher(DomainDispatcherApplication):
    """Looks for a host's service once, which goes through a folder of all there are."""

    def __init__(self) -> None:
        super().__init__(create_backend_app)
        self.get_backend_for_host = cache(super().get_backend_for_host)  # type: ignore[method-assign]


class _Application:
    def __init__(self) -> None:
        self._moto = _Dispatcher()
        self.faults = Faults()
        self.requests: list[tuple[str, str, str | None]] = []
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        faults = self.faults
        is_object = (
            method in faults.methods
            and path.count("/") > 1
            and "list-type" not in environ.get("QUERY_STRING", "")
        )
        with self._lock:
            self.requests.append((method, path, environ.get("HTTP_RANGE")))
        fault = faults.plan(path) if is_object else None
        if fault is None:
            return self._moto(environ, start)
        if fault not in _DAMAGE:
            with self._lock:
                faults.injected[fault] += 1
        if fault[0].isdigit():
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, _, code = fault.partition(" ")
            start(f"{status} {code or 'Fault'}", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code or 'SlowDown'}</Code></Error>".encode()]
        return self._spoil(fault, faults, environ, start)

    def _spoil(
        self, fault: str, faults: Faults, environ: Environ, start: Callable[..., Any]
    ) -> Iterator[bytes]:
        connection: socket.socket = environ["werkzeug.socket"]
        if fault == "silence":
            connection.shutdown(socket.SHUT_RDWR)
            return
        answered: list[Any] = []
        body = b"".join(self._moto(environ, lambda *given: answered.extend(given)))
        status, headers = answered[:2]
        if status[0] != "2":  # it has gone wrong by itself
            start(status, headers)
            yield body
            return
        with self._lock:
            if fault in _DAMAGE:
                span = re.match(r"bytes=(\d+)", environ.get("HTTP_RANGE", ""))
                begin = int(span[1]) if span else 0
                body = faults.damage(environ["PATH_INFO"], begin, body, fault)
            cut = len(body) if fault in _DAMAGE else faults.cut(body)
        if fault == "truncated":
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(cut)))
        start(status, headers)
        yield body[:cut]
        if fault == "truncated" or fault in _DAMAGE:
            return
        if fault == "stall":
            time.sleep(faults.stall_s)
        if fault == "reset":  # no lingering: the other side sees RST
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault == "short":
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.close()


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or bodies would wait for headers to be acknowledged

    def log(self, *_arguments: object, **_more: object) -> None: ...


class S3Server:
    """Runs in a thread, on a free port."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self.application = _Application()
        self._server = make_server(
            "127.0.0.1", 0, self.application, threaded=True, request_handler=_Quiet
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def faults(self) -> Faults:
        return self.application.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.application.faults = faults

    def stop(self) -> None:
        self._server.shutdown()
