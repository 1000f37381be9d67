"""A real HTTP server that speaks S3 (moto's), with faults to order."""

from __future__ import annotations

import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Environ = dict[str, Any]


@dataclass
class Faults:
    """Called with each GET of an object: says what goes wrong with it, or None.

    "503", "500", "403 ExpiredToken": an answer of that kind; "reset": the connection is cut after
    `after` bytes; "short": it is closed there; "stall": nothing more comes for `stall_s`;
    "corrupt": a byte is changed
    """

    plan: Callable[[str], str | None] = lambda _key: None
    after: int = 1000
    stall_s: float = 30.0

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


class _Application:
    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.faults = Faults()
        self.requests: list[tuple[str, str, str | None]] = []
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        is_object = (
            method == "GET"
            and path.count("/") > 1
            and "list-type" not in environ.get("QUERY_STRING", "")
        )
        fault = None
        with self._lock:
            self.requests.append((method, path, environ.get("HTTP_RANGE")))
        if is_object:
            fault = self.faults.plan(path)
        if fault is None:
            return self._moto(environ, start)
        if fault[0].isdigit():
            status, _, code = fault.partition(" ")
            start(f"{status} {code or 'Fault'}", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code or 'SlowDown'}</Code></Error>".encode()]
        return self._spoil(fault, environ, start)

    def _spoil(self, fault: str, environ: Environ, start: Callable[..., Any]) -> Iterator[bytes]:
        body = b"".join(self._moto(environ, start))
        cut = min(self.faults.after, len(body) - 1)
        if fault == "corrupt":
            yield body[:cut] + bytes([body[cut] ^ 0x40]) + body[cut + 1 :]
            return
        yield body[:cut]
        if fault == "stall":
            time.sleep(self.faults.stall_s)
        connection: socket.socket = environ["werkzeug.socket"]
        if fault == "reset":  # no lingering: the other side sees RST
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault == "short":
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.close()


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

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
